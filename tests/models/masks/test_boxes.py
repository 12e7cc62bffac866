import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.masks.boxes import box_nms, inclusive_xyxy, touches_crop_edge


def naive_nms(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> list[int]:
    """One pair at a time, every step a scalar of the boxes' own type; compared as Python floats."""
    order = sorted(range(len(boxes)), key=lambda i: -scores[i])
    dropped: set[int] = set()
    kept = []
    for place, i in enumerate(order):
        if i in dropped:
            continue
        kept.append(i)
        for j in order[place + 1 :]:
            (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = boxes[i], boxes[j]
            shared = max(min(ax1, bx1) - max(ax0, bx0), boxes.dtype.type(0)) * max(
                min(ay1, by1) - max(ay0, by0), boxes.dtype.type(0)
            )
            union = (ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - shared
            if union != 0 and float(shared / union) > threshold:
                dropped.add(j)
    return kept


corner, side = st.integers(0, 12), st.integers(0, 8)
box = st.tuples(corner, corner, side, side).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(st.lists(st.tuples(box, st.integers(0, 3)), max_size=25), st.sampled_from([0.0, 0.2, 0.5, 0.6, 0.7, 1.0]))
def test_nms_equals_the_naive_one(dtype: type, items: list, threshold: float) -> None:
    boxes = np.array([item[0] for item in items], dtype).reshape(-1, 4)
    scores = np.array([item[1] for item in items], np.float32)  # few values: many ties
    kept = box_nms(boxes, scores, threshold)
    assert kept.dtype == np.int64 and kept.tolist() == naive_nms(boxes, scores, threshold)


def test_nms_by_hand() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 7], [0, 0, 10, 8], [20, 20, 30, 30]], np.float64)
    scores = np.array([0.9, 0.8, 0.7, 0.95])
    assert box_nms(boxes, scores, 0.7).tolist() == [3, 0, 1]  # IoU .7 is not above .7, .8 is
    assert box_nms(boxes, scores, 0.69).tolist() == [3, 0]
    assert box_nms(boxes, scores[::-1], 0.7).tolist() == [0, 3, 1]  # .95, .7, .8, .9


def test_a_float32_iou_is_compared_in_float64() -> None:
    boxes = np.array([[0, 0, 1, 10], [0, 0, 1, 6]], np.float32)  # float32(.6) is above .6
    assert box_nms(boxes, np.array([1.0, 0.5]), 0.6).tolist() == [0]
    assert box_nms(boxes.astype(np.float64), np.array([1.0, 0.5]), 0.6).tolist() == [0, 1]


def test_degenerate_boxes_suppress_nothing() -> None:
    boxes = np.array([[3, 3, 3, 3], [3, 3, 3, 3], [3, 3, 3, 9]], np.float32)
    assert box_nms(boxes, np.ones(3), 0.0).tolist() == [0, 1, 2]
    assert box_nms(np.zeros((0, 4), np.float32), np.zeros(0), 0.7).tolist() == []


def test_ten_thousand_boxes() -> None:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 2000, (10_000, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(5, 60, (10_000, 2))], axis=1).astype(np.float32)
    scores = rng.random(10_000)
    kept = box_nms(boxes, scores, 0.5)
    assert (np.diff(scores[kept]) <= 0).all()
    assert box_nms(boxes[kept], scores[kept], 0.5).tolist() == list(range(len(kept)))
    assert 2000 < len(kept) < 10_000
    assert box_nms(boxes[:400], scores[:400], 0.05).tolist() == naive_nms(boxes[:400], scores[:400], 0.05)


def test_edges_of_a_crop_but_not_of_the_image() -> None:
    boxes = np.array(
        [
            [120, 150, 160, 180],  # 20 px from the crop's left edge
            [121, 150, 160, 179],  # 21 px from every inner edge
            [150, 130, 299, 179],  # the crop's right edge is the image's
            [150, 130, 200, 181],  # 19 px from the lower edge
            [0, 150, 60, 160],  # the image's left edge, far from the crop's
        ],
        np.float32,
    )
    found = touches_crop_edge(boxes, (100, 0, 300, 200), (400, 300))
    assert found.tolist() == [True, False, False, True, False]
    assert touches_crop_edge(boxes, (0, 0, 300, 400), (400, 300)).tolist() == [False] * 5
    assert touches_crop_edge(boxes, (100, 0, 300, 200), (400, 300), tolerance=21).tolist()[1]
    assert touches_crop_edge(np.zeros((0, 4)), (0, 0, 5, 5), (9, 9)).shape == (0,)


def test_inclusive_boxes() -> None:
    record = np.array([[2, 3, 1, 1], [5, 6, 4, 10], [0, 0, 0, 0]], np.int32)
    assert inclusive_xyxy(record).tolist() == [[2, 3, 2, 3], [5, 6, 8, 15], [0, 0, 0, 0]]
    assert inclusive_xyxy(record).dtype == np.float32 and inclusive_xyxy(record[:0]).shape == (0, 4)
