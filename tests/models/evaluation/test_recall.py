import contextlib
import io
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from models.evaluation.overlap import pairwise_iou
from models.evaluation.recall import MAX_MASKS, RecallTally, matched_ranks
from models.masks.rle import areas, encode_masks

SIDE = 240


def test_each_mask_takes_the_free_segment_it_fits_best() -> None:
    iou = np.array([[0.6, 0.9, 0.0], [0.55, 0.7, 0.52]])
    # mask 0 takes segment 0 (.6) at .5; mask 1 then takes what is left, segment 1; nothing is left for mask 2
    assert matched_ranks(iou, np.array([0.5])).tolist() == [[0, 1]]
    # at .65 mask 0 fits nothing, so mask 1 takes segment 0 (.9) and segment 1 goes without
    assert matched_ranks(iou, np.array([0.65])).tolist() == [[1, -1]]


def test_average_recall_by_hand() -> None:
    tally = RecallTally()
    # twelve masks; segment 0 is found by the first at IoU .72 (5 of 10 thresholds), segment 1 by the last one at 1.0
    iou = np.zeros((2, 12))
    iou[0, 0], iou[1, 11] = 0.72, 1.0
    tally.add(iou, np.array([100, 10_000]))
    recall = tally.average_recall()
    assert recall["10"] == {"all": pytest.approx(0.25), "small": pytest.approx(0.5), "medium": None, "large": 0.0}
    assert recall["100"] == {"all": pytest.approx(0.75), "small": pytest.approx(0.5), "medium": None, "large": 1.0}
    assert recall["1000"] == recall["100"]


def test_no_masks_no_segments_and_a_perfect_answer() -> None:
    empty = RecallTally()
    empty.add(np.zeros((0, 4)), np.zeros(0, np.int64))
    assert empty.average_recall()["100"] == {"all": None, "small": None, "medium": None, "large": None}
    without = RecallTally()
    without.add(np.zeros((3, 0)), np.array([1, 2, 3]))
    assert without.average_recall()["1000"]["all"] == 0.0
    perfect = RecallTally()
    perfect.add(np.eye(5), np.full(5, 50))
    assert perfect.average_recall()["10"]["all"] == 1.0


def blobs(rng: np.random.Generator, count: int) -> np.ndarray:
    masks = np.zeros((count, SIDE, SIDE), np.uint8)
    for mask in masks:
        w, h = rng.integers(5, 160, 2)
        x, y = rng.integers(0, SIDE - w), rng.integers(0, SIDE - h)
        mask[y : y + h, x : x + w] = 1
    return masks


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_it_is_what_cocos_own_evaluation_reports() -> None:
    rng = np.random.default_rng(3)
    tally = RecallTally()
    coco: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "segment"}]}
    results = []
    for image_id in range(1, 5):
        truth = blobs(rng, 12)
        shifts = rng.integers(-6, 7, (40, 2))
        shifted = [np.roll(truth[i % 12], shift, (0, 1)) for i, shift in enumerate(shifts)]
        segments, masks = encode_masks(truth), encode_masks(np.stack([*shifted, *blobs(rng, 10)]))
        order = rng.permutation(len(masks))  # the ranks
        masks = [masks[i] for i in order]
        segment_areas = areas(segments)
        assert not np.isin(segment_areas, [32**2, 96**2]).any()  # COCO counts those twice
        tally.add(pairwise_iou(segments, masks, SIDE, SIDE), segment_areas)
        coco["images"].append({"id": image_id, "height": SIDE, "width": SIDE})
        for rle, area in zip(segments, segment_areas, strict=True):
            segmentation = {"size": [SIDE, SIDE], "counts": rle}
            coco["annotations"].append(
                {"id": len(coco["annotations"]) + 1, "image_id": image_id, "category_id": 1, "iscrowd": 0}
                | {"area": int(area), "bbox": [0, 0, 1, 1], "segmentation": segmentation}
            )
        for rank, rle in enumerate(masks):
            segmentation = {"size": [SIDE, SIDE], "counts": rle}
            results.append(
                {"image_id": image_id, "category_id": 1, "score": 1 - rank / 100, "segmentation": segmentation}
            )
    with contextlib.redirect_stdout(io.StringIO()):
        truth_set = COCO()
        truth_set.dataset = coco
        truth_set.createIndex()
        reference = COCOeval(truth_set, truth_set.loadRes(results), "segm")
        reference.params.maxDets = list(MAX_MASKS)
        reference.params.useCats = 0
        reference.evaluate()
        reference.accumulate()
    recalls = reference.eval["recall"].mean(axis=0)[0]  # (sizes, maxDets)
    ours = tally.average_recall()
    for column, limit in enumerate(MAX_MASKS):
        assert list(ours[str(limit)].values()) == pytest.approx(recalls[:, column].tolist(), abs=1e-12)
    assert 0.2 < ours["10"]["all"] < ours["100"]["all"] < 1
