"""What decides which candidates exist and how they score."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from models.generator.grid import points_per_crop
from models.precision import Precision

Unit = Annotated[float, Field(ge=0, le=1)]


class StoreFloor(BaseModel):
    """Rejected candidates at or above both scores stay in the row, the best `max_candidates` of an image."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    predicted_iou: Unit = 0.80
    stability_score: Unit = 0.90
    max_candidates: Annotated[int, Field(ge=0)] = 512


class GenerateSettings(BaseModel):
    """Names follow segment-anything's `SamAutomaticMaskGenerator`; `layers` are its crop layers, 0 the whole image.
    `points_per_layer` names the points a side in a crop of each layer, instead of one number and its divisor. With
    `agreement_iou` each candidate is told how many of its crop's candidates have that IoU with it or more. `text`
    says what to look for: an image's masks are ranked by how near CLIP finds them to it, and none is left out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    points_per_side: Annotated[int, Field(ge=1, le=1024)] = 32
    layers: tuple[Annotated[int, Field(ge=0, le=8)], ...] = (0,)
    crop_overlap_ratio: Annotated[float, Field(ge=0, lt=1)] = 512 / 1500
    crop_n_points_downscale_factor: Annotated[int, Field(ge=1)] = 1
    points_per_layer: tuple[Annotated[int, Field(ge=1, le=1024)], ...] | None = None
    stability_score_offset: Annotated[float, Field(gt=0)] = 1.0
    agreement_iou: Annotated[float, Field(gt=0, le=1)] | None = None
    precision: Precision = "fp32"
    store_rejected: bool = True
    store_floor: StoreFloor = StoreFloor()
    text: str | None = None

    @model_validator(mode="after")
    def _points_for_each(self) -> "GenerateSettings":
        points = self.points_per_layer
        if points is not None and len(points) != len(self.layers):
            raise ValueError(f"points_per_layer: {len(points)} numbers for {len(self.layers)} layers; give one a layer")
        return self

    def points_in(self, layer: int) -> int:
        """Points a side in a crop of `layer`."""
        if self.points_per_layer is not None:
            return self.points_per_layer[self.layers.index(layer)]
        return points_per_crop(self.points_per_side, layer, self.crop_n_points_downscale_factor)

    @field_validator("layers")
    @classmethod
    def _ascending(cls, layers: tuple[int, ...]) -> tuple[int, ...]:
        if not layers:
            raise ValueError("name at least one layer, such as [0]")
        if list(layers) != sorted(set(layers)):
            raise ValueError(f"layers must ascend without repeats: {sorted(set(layers))}")
        return layers
