"""Candidates made by hand, and a preset's rules over them."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from models.generator.grid import crop_boxes
from models.masks.rle import areas, bounding_boxes, encode_masks
from pipeline.recipes.load_recipe import validate_recipe
from pipeline.recipes.recipe import Recipe
from stages.filter_rules import FilteredMasks, filter_candidates

HEIGHT, WIDTH = 400, 600
WHOLE = (0, 0, WIDTH, HEIGHT)
LAYER1 = [(x0, y0, x1 - x0, y1 - y0) for x0, y0, x1, y1 in (crop.box for crop in crop_boxes(HEIGHT, WIDTH, (1,)))]
LAYER2 = [(x0, y0, x1 - x0, y1 - y0) for x0, y0, x1, y1 in (crop.box for crop in crop_boxes(HEIGHT, WIDTH, (2,)))]


@dataclass
class Candidate:
    mask: np.ndarray
    predicted_iou: float = 0.95
    stability_score: float = 0.98
    agreement: int = 1
    crop_box: tuple[int, int, int, int] = WHOLE


@dataclass
class Case:
    """Candidates of one image under a preset's rules."""

    preset: str
    height: int = HEIGHT
    width: int = WIDTH
    overrides: dict[str, Any] = field(default_factory=dict)

    def __call__(self, *candidates: Candidate) -> FilteredMasks:
        masks = np.array([one.mask for one in candidates], np.uint8).reshape(-1, self.height, self.width)
        rles = encode_masks(masks)
        crops = [one.crop_box for one in candidates]
        found = filter_candidates(
            self.height,
            self.width,
            bounding_boxes(rles, self.height),
            areas(rles),
            np.array([one.predicted_iou for one in candidates], np.float32),
            np.array([one.stability_score for one in candidates], np.float32),
            np.array([one.agreement for one in candidates], np.int32),
            np.array(crops, np.int32).reshape(-1, 4),
            rles,
            recipe(self.preset, **self.overrides).filter,
        )
        assert np.array_equal(found.bbox, bounding_boxes(found.rles, self.height))
        assert np.array_equal(found.area, areas(found.rles))
        for before, after, raw in zip(rles, found.rles, found.raw_rles, strict=True):
            assert raw in (None, before) and (raw is not None or after == before)
        return found

    def reasons(self, *candidates: Candidate) -> list[str | None]:
        return self(*candidates).drop_reason


def recipe(preset: str, **filters: Any) -> Recipe:
    generate = {"agreement_iou": 0.8} if "consensus_thresh" in filters else {}
    sections = {"generate": generate, "filter": filters}
    return validate_recipe({"input": "in", "output": "out", "preset": preset, **sections})


def rect(x: int, y: int, w: int, h: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    mask[y : y + h, x : x + w] = 1
    return mask


def components(size: int) -> np.ndarray:
    """A square of 60 x 60 and, well apart, a component of `size` pixels."""
    mask = rect(50, 50, 60, 60)
    mask[200:].reshape(-1, WIDTH)[: size // 10, 300:310] = 1
    mask[200 + size // 10, 300 : 300 + size % 10] = 1
    assert mask.sum() == 3600 + size
    return mask


def holed(size: int) -> np.ndarray:
    mask = rect(50, 50, 60, 60)
    mask[60 : 60 + size // 10, 60:70] = 0
    mask[60 + size // 10, 60 : 60 + size % 10] = 0
    assert mask.sum() == 3600 - size
    return mask
