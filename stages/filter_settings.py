"""What decides which candidates are kept."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Unit = Annotated[float, Field(ge=0, le=1)]


class FilterSettings(BaseModel):
    """Thresholds in the order in which they apply; `null` leaves a rule out. Defaults are those of segment-anything's
    `SamAutomaticMaskGenerator`. With `consensus_thresh` masks are ranked by their consensus, stability_score ·
    log2(1 + agreement), and not by predicted IoU, wherever the better one stays; it needs `generate.agreement_iou`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pred_iou_thresh: Unit = 0.88
    stability_score_thresh: Unit = 0.95
    consensus_thresh: Annotated[float, Field(ge=0)] | None = None
    crop_edge_tolerance: Annotated[float, Field(ge=0)] | None = 20.0  # pixels
    box_nms_thresh: Unit | None = 0.7
    crop_nms_thresh: Unit | None = 0.7
    max_cover: Annotated[float, Field(gt=0, le=1)] | None = None
    min_component_area: Annotated[int, Field(ge=0)] = 0  # pixels; 0 leaves components alone
    max_hole_area: Annotated[int, Field(ge=0)] = 0  # pixels; 0 leaves holes alone
    duplicate_iou: Annotated[float, Field(gt=0, le=1)] | None = None
    duplicate_containment: Annotated[float, Field(gt=0, le=1)] | None = None
    duplicate_min_area_ratio: Unit = 0.8
    parent_containment: Annotated[float, Field(gt=0, le=1)] = 0.9
