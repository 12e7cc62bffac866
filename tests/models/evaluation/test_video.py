import numpy as np
import pytest

from models.evaluation.video import boundary, boundary_accuracy, region_similarity, score_tracks


def square(x: int, y: int, side: int, size: int = 100) -> np.ndarray:
    mask = np.zeros((size, size), bool)
    mask[y : y + side, x : x + side] = True
    return mask


def test_region_similarity_by_hand() -> None:
    # 10 x 10 pixels, moved by 5: 50 shared of 150
    assert region_similarity(square(10, 10, 10), square(15, 10, 10)) == pytest.approx(50 / 150)
    assert region_similarity(square(10, 10, 10), square(50, 50, 10)) == 0.0
    empty = np.zeros((100, 100), bool)
    assert region_similarity(empty, empty) == 1.0
    assert region_similarity(square(10, 10, 10), empty) == 0.0


def test_a_boundary_lies_left_of_and_above_where_the_value_changes() -> None:
    mask = np.zeros((5, 6), bool)
    mask[2:4, 2:4] = True
    expected = np.array(
        [
            [0, 0, 0, 0, 0, 0],
            [0, 1, 1, 1, 0, 0],
            [0, 1, 0, 1, 0, 0],
            [0, 1, 1, 1, 0, 0],
            [0, 0, 0, 0, 0, 0],
        ],
        bool,
    )
    np.testing.assert_array_equal(boundary(mask), expected)
    assert not boundary(np.ones((4, 4), bool)).any()


def test_boundary_accuracy_by_hand() -> None:
    # the diagonal is 141.4, so boundaries may be 2 pixels apart; those of a square of 10 have 40 pixels
    truth = square(20, 20, 10)
    assert boundary(truth).sum() == 40
    assert boundary_accuracy(truth, truth) == 1.0
    assert boundary_accuracy(square(22, 20, 10), truth) == 1.0
    # moved by 4: of the top and the bottom 9 pixels of 11 stay near; of the left side 2 at each end, of the right none
    assert boundary_accuracy(square(24, 20, 10), truth) == pytest.approx((9 + 9 + 2 + 2) / 40)
    assert boundary_accuracy(square(60, 60, 10), truth) == 0.0
    empty = np.zeros((100, 100), bool)
    assert boundary_accuracy(empty, empty) == 1.0
    assert boundary_accuracy(truth, empty) == boundary_accuracy(empty, truth) == 0.0


def test_precision_and_recall_count_each_boundary_by_itself() -> None:
    truth = square(10, 10, 10)
    found = truth | square(60, 60, 10)
    # everything of the truth is found; half of what is found is true
    assert boundary_accuracy(found, truth) == pytest.approx(2 * 0.5 * 1.0 / 1.5)


def test_a_track_is_the_mean_of_its_frames() -> None:
    truth = np.stack([square(10, 10, 10), square(10, 10, 10), np.zeros((100, 100), bool)])
    found = np.stack([square(10, 10, 10), square(60, 60, 10), np.zeros((100, 100), bool)])
    scores = score_tracks(found, truth)
    assert (scores.region, scores.boundary) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert scores.mean == pytest.approx(2 / 3)
