"""The named generation procedures: what each sets beyond the defaults."""

from typing import Any, Literal

PresetName = Literal["default", "sam_amg", "sam2_amg", "sa1b"]

_CLEAN_UP = {"min_component_area": 100, "max_hole_area": 100}

PRESETS: dict[PresetName, dict[str, dict[str, Any]]] = {
    # segment-anything's SamAutomaticMaskGenerator with its default arguments
    "sam_amg": {"generate": {}, "filter": {}},
    # sam2's SAM2AutomaticMaskGenerator with its default arguments
    "sam2_amg": {"generate": {}, "filter": {"pred_iou_thresh": 0.8}},
    # Kirillov et al., «Segment Anything» (2023), appendix B
    "sa1b": {
        "generate": {"layers": [0, 1, 2], "crop_n_points_downscale_factor": 2, "store_rejected": False},
        "filter": {"max_cover": 0.95, **_CLEAN_UP},
    },
    # sam_amg, then clean-up and de-duplication by the masks themselves
    "default": {
        "generate": {},
        "filter": {**_CLEAN_UP, "duplicate_iou": 0.9, "duplicate_containment": 0.95},
    },
}
