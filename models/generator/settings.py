"""What decides which candidates exist and how they score."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator

from models.generator.precision import Precision

Unit = Annotated[float, Field(ge=0, le=1)]


class StoreFloor(BaseModel):
    """Rejected candidates at or above both scores stay in the row, the best `max_candidates` of an image."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    predicted_iou: Unit = 0.80
    stability_score: Unit = 0.90
    max_candidates: Annotated[int, Field(ge=0)] = 512


class GenerateSettings(BaseModel):
    """Names follow segment-anything's `SamAutomaticMaskGenerator`; `layers` are its crop layers, 0 the whole image."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    points_per_side: Annotated[int, Field(ge=1, le=1024)] = 32
    layers: tuple[Annotated[int, Field(ge=0, le=8)], ...] = (0,)
    crop_overlap_ratio: Annotated[float, Field(ge=0, lt=1)] = 512 / 1500
    crop_n_points_downscale_factor: Annotated[int, Field(ge=1)] = 1
    stability_score_offset: Annotated[float, Field(gt=0)] = 1.0
    precision: Precision = "fp32"
    store_rejected: bool = True
    store_floor: StoreFloor = StoreFloor()

    @field_validator("layers")
    @classmethod
    def _ascending(cls, layers: tuple[int, ...]) -> tuple[int, ...]:
        if not layers:
            raise ValueError("name at least one layer, such as [0]")
        if list(layers) != sorted(set(layers)):
            raise ValueError(f"layers must ascend without repeats: {sorted(set(layers))}")
        return layers
