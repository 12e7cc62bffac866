import numpy as np
import pytest

from models.evaluation.sizes import SizeMeans, size_masks


def test_the_bounds_are_cocos_and_a_size_is_counted_once() -> None:
    chosen = size_masks(np.array([1, 1023, 1024, 9215, 9216]))
    assert chosen["all"].tolist() == [True] * 5
    assert chosen["small"].tolist() == [True, True, False, False, False]
    assert chosen["medium"].tolist() == [False, False, True, True, False]
    assert chosen["large"].tolist() == [False, False, False, False, True]


def test_means_over_several_additions_weigh_every_object_alike() -> None:
    means = SizeMeans()
    means.add(np.array([0.2, 0.4]), np.array([10, 20]))
    means.add(np.array([0.9]), np.array([10_000]))
    means.add(np.zeros(0), np.zeros(0, np.int64))
    assert means.counts() == {"all": 3, "small": 2, "medium": 0, "large": 1}
    assert means.means() == {"all": pytest.approx(0.5), "small": pytest.approx(0.3), "medium": None, "large": 0.9}


def test_nothing_has_no_mean() -> None:
    assert set(SizeMeans().means().values()) == {None}
