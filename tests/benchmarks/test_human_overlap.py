import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from benchmarks.human_overlap import HumanImage, box_masks, measure, read_human_segments
from models.masks.rle import areas, encode_masks

HEIGHT, WIDTH = 6, 8


def mask(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
    pixels[y0:y1, x0:x1] = 1
    return pixels


def test_segments_are_read_in_every_coco_form(tmp_path: Path) -> None:
    left, right = mask(0, 0, 4, 6), mask(4, 0, 8, 6)
    compressed = coco_mask.encode(np.asfortranarray(left))["counts"].decode()
    annotations = [
        {"image_id": 7, "annotator": 0, "segmentation": {"size": [HEIGHT, WIDTH], "counts": compressed}},
        {"image_id": 7, "annotator": 0, "segmentation": {"size": [HEIGHT, WIDTH], "counts": [24, 24]}},
        {"image_id": 7, "annotator": 3, "segmentation": [[0, 0, 4, 0, 4, 6, 0, 6]]},
        {"image_id": 7, "annotator": 3, "iscrowd": 1, "segmentation": {"size": [HEIGHT, WIDTH], "counts": [0, 48]}},
        {"image_id": 8, "segmentation": [[4, 0, 8, 0, 8, 6, 4, 6]]},
    ]
    sizes = {"height": HEIGHT, "width": WIDTH}
    images = [{"id": id_, "file_name": name, **sizes} for id_, name in ((7, "sub/a.png"), (8, "b.png"), (9, "c.png"))]
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    found = read_human_segments(path)
    left_rle, right_rle = encode_masks(np.stack([left, right]))
    assert found == {
        "a.png": HumanImage(HEIGHT, WIDTH, {0: [left_rle, right_rle], 3: [left_rle]}),
        "b.png": HumanImage(HEIGHT, WIDTH, {0: [right_rle]}),
    }


def test_measure_averages_over_annotators_and_then_over_images() -> None:
    left, right, top = encode_masks(np.stack([mask(0, 0, 4, 6), mask(4, 0, 8, 6), mask(0, 0, 8, 2)]))
    images = {
        "a": HumanImage(HEIGHT, WIDTH, {0: [left, right], 1: [top]}),
        "b": HumanImage(HEIGHT, WIDTH, {0: [left]}),
    }
    found = measure(images, {"a": [left], "b": []})
    # image a: annotator 0 has best overlaps 1 and 0; annotator 1 shares 8 pixels of 24 + 16 - 8; image b has no mask
    assert found.num_images == 2
    assert found.masks_per_image == 0.5
    assert found.overlap.mean_best == pytest.approx(((0.5 + 0.25) / 2 + 0) / 2)
    assert found.overlap.area_weighted_best == pytest.approx(((0.5 + 0.25) / 2 + 0) / 2)
    assert found.overlap.recall_50 == pytest.approx((0.5 + 0) / 2 / 2)
    assert found.overlap.recall_75 == pytest.approx((0.5 + 0) / 2 / 2)


def test_the_yardstick_is_made_of_the_boxes_pixels() -> None:
    rles = box_masks(16, 24)
    assert len(rles) == 130
    assert areas(rles)[:5].tolist() == [384, 96, 96, 96, 96]
    assert coco_mask.decode({"size": [16, 24], "counts": rles[2]})[:8, 12:].all()  # the upper right quarter
