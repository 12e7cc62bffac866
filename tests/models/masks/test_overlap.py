import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from models.evaluation.overlap import pairwise_iou
from models.masks.overlap import containment, duplicates, mask_iou, parents
from models.masks.rle import encode_masks

stacks = hnp.arrays(np.bool_, st.tuples(st.integers(0, 7), st.integers(1, 6), st.integers(1, 6)), fill=st.booleans())
limits = st.sampled_from([None, 0.3, 0.5, 0.75, 1.0])


def rectangles(*boxes: tuple[int, int, int, int], size: int = 20) -> list[bytes]:
    masks = np.zeros((len(boxes), size, size), np.bool_)
    for mask, (x, y, w, h) in zip(masks, boxes, strict=True):
        mask[y : y + h, x : x + w] = True
    return encode_masks(masks)


def dense_overlap(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    flat = masks.reshape(len(masks), masks.shape[1] * masks.shape[2]).astype(np.int64)
    shared = flat @ flat.T
    area = flat.sum(axis=1)
    union = area[:, None] + area[None] - shared
    return area, shared / np.maximum(union, 1), shared / np.maximum(area, 1)[:, None]


def naive_duplicates(
    masks: np.ndarray, scores: list[int], iou_threshold: float | None, contained: float | None, min_ratio: float
) -> list[int]:
    area, iou, part = dense_overlap(masks)
    answer, kept = [-1] * len(masks), []
    for i in sorted(range(len(masks)), key=lambda i: -scores[i]):
        if not area[i]:
            continue
        for j in kept:
            small, large = (i, j) if area[i] <= area[j] else (j, i)
            same = iou_threshold is not None and iou[i, j] >= iou_threshold
            inside = (
                contained is not None and part[small, large] >= contained and area[small] / area[large] >= min_ratio
            )
            if same or inside:
                answer[i] = j
                break
        else:
            kept.append(i)
    return answer


def naive_parents(masks: np.ndarray, threshold: float) -> list[int]:
    area, _, part = dense_overlap(masks)
    answer = []
    for i in range(len(masks)):
        holders = [j for j in range(len(masks)) if area[j] > area[i] > 0 and part[i, j] >= threshold]
        answer.append(min(holders, key=lambda j: (area[j], j), default=-1))
    return answer


@given(stacks)
def test_measures_equal_the_dense_ones(masks: np.ndarray) -> None:
    num, height, width = masks.shape
    _, iou, part = dense_overlap(masks)
    rles = encode_masks(masks)
    assert np.array_equal(mask_iou(rles, height, width), iou.reshape(num, num))
    assert np.array_equal(containment(rles, height, width), part.reshape(num, num))


@given(st.data(), stacks, limits, limits, st.sampled_from([0.0, 0.5, 0.9]))
def test_duplicates_equal_the_naive_ones(
    data: st.DataObject, masks: np.ndarray, iou_threshold: float | None, contained: float | None, min_ratio: float
) -> None:
    num, height, width = masks.shape
    scores = data.draw(st.lists(st.integers(0, 2), min_size=num, max_size=num))
    found = duplicates(encode_masks(masks), np.array(scores), height, width, iou_threshold, contained, min_ratio)
    assert found.dtype == np.int64
    assert found.tolist() == naive_duplicates(masks, scores, iou_threshold, contained, min_ratio)


@given(stacks, st.sampled_from([0.4, 0.9, 1.0]))
def test_parents_equal_the_naive_ones(masks: np.ndarray, threshold: float) -> None:
    _, height, width = masks.shape
    found = parents(encode_masks(masks), height, width, threshold)
    assert found.dtype == np.int64 and found.tolist() == naive_parents(masks, threshold)


def test_duplicates_by_hand() -> None:
    rles = rectangles((0, 0, 10, 10), (0, 0, 10, 9), (0, 0, 10, 8), (2, 2, 3, 3), (12, 12, 2, 2), (0, 0, 0, 0))
    scores = np.array([0.90, 0.95, 0.80, 0.99, 0.5, 1.0])
    assert duplicates(rles, scores, 20, 20, 0.85, None, 0.0).tolist() == [1, -1, 1, -1, -1, -1]
    # mask 2 repeats 0 (IoU .8) no more once 0 itself is gone, but it does repeat 1 (80 / 90)
    assert duplicates(rles, scores, 20, 20, 0.9, None, 0.0).tolist() == [1, -1, -1, -1, -1, -1]
    assert duplicates(rles, scores, 20, 20, None, 0.9, 0.8).tolist() == [1, -1, 1, -1, -1, -1]
    assert duplicates(rles, scores, 20, 20, None, 0.9, 0.0).tolist() == [3, 3, 3, -1, -1, -1]
    assert duplicates(rles, scores, 20, 20, None, None, 0.0).tolist() == [-1] * 6


def test_parents_by_hand() -> None:
    whole, left, inner = (0, 0, 20, 20), (0, 0, 10, 20), (2, 2, 4, 4)
    rles = rectangles(inner, whole, left, inner, (8, 8, 4, 4), (0, 0, 0, 0))
    assert parents(rles, 20, 20, 0.9).tolist() == [2, -1, 1, 2, 1, -1]  # equal masks are not each other's parent
    assert parents(rles, 20, 20, 0.5).tolist() == [2, -1, 1, 2, 2, -1]
    same_area = rectangles((0, 0, 4, 5), (0, 0, 5, 4), (1, 1, 2, 2))
    assert parents(same_area, 20, 20, 1.0).tolist() == [-1, -1, 0]


@pytest.mark.parametrize("num", [0, 1])
def test_none_and_one(num: int) -> None:
    rles = rectangles(*[(3, 3, 1, 1)] * num)
    assert mask_iou(rles, 20, 20).tolist() == [[1.0]] * num
    assert containment(rles, 20, 20).shape == (num, num)
    assert duplicates(rles, np.ones(num), 20, 20, 0.5, 0.5, 0.5).tolist() == [-1] * num
    assert parents(rles, 20, 20, 0.9).tolist() == [-1] * num


def test_more_parents_than_one_block() -> None:
    rles = rectangles(*[(19 - i, 0, 1, 1 + i) for i in range(19)], (0, 0, 1, 1), (0, 0, 20, 20))
    assert parents(rles, 20, 20, 0.9).tolist() == [20] * 20 + [-1]
    nested = rectangles(*[(0, 0, side, side) for side in range(20, 0, -1)])
    assert parents(nested, 20, 20, 1.0).tolist() == [-1, *range(19)]
    overlapping = rectangles((0, 0, 2, 2), *[(1, 0, 3 + i, 10) for i in range(16)], (0, 0, 20, 20))
    assert parents(overlapping, 20, 20, 0.9)[0] == 17  # sixteen boxes hold half of it, the seventeenth holds all


@pytest.mark.parametrize("broken", [b"", b"0P2", b"PPYo1", b"\xff\xfe\x00", b"10"])
def test_run_lengths_that_native_code_would_run_out_of_are_refused(broken: bytes) -> None:
    """Of another image's size pycocotools compares them for ever."""
    whole = encode_masks(np.ones((1, 6, 8), np.uint8))[0]
    for measure in (mask_iou, containment):
        with pytest.raises(ValueError, match="rle"):
            measure([whole, broken], 6, 8)
    with pytest.raises(ValueError, match="rle"):
        parents([whole, broken], 6, 8, 0.9)
    with pytest.raises(ValueError, match="rle"):
        pairwise_iou([whole], [broken], 6, 8)
