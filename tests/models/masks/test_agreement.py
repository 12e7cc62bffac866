import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.masks.agreement import agreement


def packed(*masks: np.ndarray) -> list[np.ndarray]:
    return [np.packbits(mask.astype(bool).reshape(-1)) for mask in masks]


def rect(start: int, stop: int, cells: int = 100) -> np.ndarray:
    mask = np.zeros(cells, bool)
    mask[start:stop] = True
    return mask


def test_each_mask_counts_those_that_say_the_same_and_itself() -> None:
    # IoUs: .8 of the first two, .9 and 8/9 of them with the third, 0 of the last with all others
    masks = packed(rect(0, 40), rect(0, 50), rect(0, 45), rect(60, 100))
    assert agreement(masks, 0.8).tolist() == [3, 3, 3, 1]
    assert agreement(masks, 0.81).tolist() == [2, 2, 3, 1]
    assert agreement(masks, 1.0).tolist() == [1, 1, 1, 1]


def test_no_masks_empty_masks_and_masks_of_one_cell() -> None:
    assert agreement([], 0.8).tolist() == []
    assert agreement(packed(rect(0, 0), rect(0, 0), rect(3, 4), rect(3, 4), rect(4, 5)), 0.8).tolist() == [
        0,
        0,
        2,
        2,
        1,
    ]
    assert agreement(packed(np.ones((1, 1)), np.zeros((1, 1))), 0.5).tolist() == [1, 0]


@given(
    masks=st.integers(1, 90).flatmap(
        lambda cells: st.lists(st.lists(st.booleans(), min_size=cells, max_size=cells), min_size=1, max_size=12)
    ),
    iou_threshold=st.sampled_from([0.2, 0.5, 2 / 3, 0.75, 0.8, 1.0]),
)
def test_counts_equal_those_of_every_pair(masks: list[list[bool]], iou_threshold: float) -> None:
    bits = np.array(masks, bool)
    shared = (bits[:, None] & bits[None]).sum(2)
    union = (bits[:, None] | bits[None]).sum(2)
    expected = ((union > 0) & (shared >= iou_threshold * union)).sum(1)
    assert agreement(packed(*bits), iou_threshold).tolist() == expected.tolist()


@pytest.mark.parametrize("cells", [1, 7, 8, 63, 64, 65, 513])
def test_any_number_of_cells(cells: int) -> None:
    assert agreement(packed(np.ones(cells), np.ones(cells)), 0.8).tolist() == [2, 2]
