import numpy as np
import pytest

from benchmarks.matching import Agreement, ScoredMasks, agreement, match_one_to_one, total
from models.masks.rle import encode_masks

HEIGHT, WIDTH = 10, 20


def rectangles(*boxes: tuple[int, int, int, int]) -> list[bytes]:
    """Masks of x0, y0, x1, y1 (exclusive) in a 10 x 20 image."""
    masks = np.zeros((len(boxes), HEIGHT, WIDTH), np.uint8)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = 1
    return encode_masks(masks)


def scored(rles: list[bytes], predicted_iou: list[float], stability_score: list[float]) -> ScoredMasks:
    return ScoredMasks(HEIGHT, WIDTH, rles, np.array(predicted_iou), np.array(stability_score))


def test_matching_takes_the_highest_first_and_each_mask_once() -> None:
    iou = np.array([[0.90, 0.80, 0.00], [0.95, 0.70, 0.00], [0.00, 0.60, 0.00]])
    # (1, 0) at .95 goes first; row 0 then falls back to column 1, which leaves nothing for row 2
    assert match_one_to_one(iou) == [(1, 0), (0, 1)]


def test_matching_breaks_ties_in_row_major_order() -> None:
    assert match_one_to_one(np.ones((2, 3))) == [(0, 0), (1, 1)]


def test_matching_nothing() -> None:
    assert match_one_to_one(np.zeros((3, 2))) == []
    assert match_one_to_one(np.zeros((0, 2))) == []


def test_agreement_counts_equal_near_missing_and_extra() -> None:
    # 10 x 10 against itself; 10 x 10 = 100 against 97 of them (IoU .97); a mask that only the reference has
    reference = scored(rectangles((0, 0, 10, 10), (10, 0, 20, 10), (0, 0, 3, 3)), [0.9, 0.8, 0.5], [0.95, 0.90, 0.80])
    nearly = np.zeros((1, HEIGHT, WIDTH), np.uint8)
    nearly[0, :, 10:20] = 1
    nearly[0, :3, 10] = 0
    ours = scored(encode_masks(nearly) + rectangles((0, 0, 10, 10)), [0.81, 0.9], [0.90, 0.97])
    found = agreement(reference, ours)
    assert (found.num_reference, found.num_ours, found.matched, found.near, found.equal) == (3, 2, 2, 1, 1)
    assert (found.missing, found.extra) == (1, 0)
    assert found.share == pytest.approx(2 / 3)
    assert found.near_share == pytest.approx(1 / 3)
    assert found.mean_matched_iou == pytest.approx((1 + 0.97) / 2)
    assert found.max_predicted_iou_difference == pytest.approx(0.01)
    assert found.max_stability_difference == pytest.approx(0.02)
    assert found.count_difference == pytest.approx(1 / 3)


def test_masks_below_the_threshold_are_missing_and_extra_at_once() -> None:
    # 100 pixels against 90 of them: IoU .9
    found = agreement(scored(rectangles((0, 0, 10, 10)), [1], [1]), scored(rectangles((0, 0, 10, 9)), [0], [0]))
    assert (found.matched, found.missing, found.extra, found.share) == (0, 1, 1, 0.0)
    assert found.mean_matched_iou == 0.0
    assert found.max_predicted_iou_difference == 0.0


def test_a_mask_given_twice_is_matched_once() -> None:
    one, two = rectangles((0, 0, 10, 10)), rectangles((0, 0, 10, 10), (0, 0, 10, 10))
    found = agreement(scored(one, [0.5], [0.5]), scored(two, [0.5, 0.5], [0.5, 0.5]))
    assert (found.matched, found.extra, found.share) == (1, 1, 0.5)


def test_two_empty_sets_agree() -> None:
    found = agreement(scored([], [], []), scored([], [], []))
    assert (found.share, found.near_share, found.count_difference) == (1.0, 1.0, 0.0)


def test_total_adds_counts_and_keeps_the_largest_differences() -> None:
    parts = [Agreement(100, 101, 99, 98, 90, 98.5, 1e-6, 2e-3), Agreement(10, 10, 10, 10, 10, 10.0, 3e-6, 0.0)]
    whole = total(parts)
    assert whole == Agreement(110, 111, 109, 108, 100, 108.5, 3e-6, 2e-3)
    assert whole.share == pytest.approx(109 / 111)
    assert total([]).share == 1.0
