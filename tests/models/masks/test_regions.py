import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask

from models.masks.regions import clean_mask, clean_rle
from models.masks.rle import decode_masks, encode_masks


def picture(text: str) -> np.ndarray:
    return np.array([[letter == "#" for letter in line] for line in text.split()], np.uint8)


def naive_components(mask: np.ndarray) -> list[set[tuple[int, int]]]:
    left = {(int(y), int(x)) for y, x in zip(*np.nonzero(mask), strict=True)}
    found = []
    while left:
        reached, todo = set(), [left.pop()]
        while todo:
            y, x = todo.pop()
            reached.add((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            todo += near
        found.append(reached)
    return found


def naive_clean(mask: np.ndarray, min_component_area: int, max_hole_area: int) -> np.ndarray:
    cleaned = mask.astype(np.uint8).copy()
    for component in naive_components(cleaned):
        if len(component) < min_component_area:
            cleaned[tuple(zip(*component, strict=True))] = 0
    if cleaned.any():
        for hole in naive_components(1 - cleaned):
            if len(hole) < max_hole_area:
                cleaned[tuple(zip(*hole, strict=True))] = 1
    return cleaned


shapes = st.one_of(st.tuples(st.integers(1, 12), st.integers(1, 12)), st.tuples(st.just(2), st.integers(1, 40)))
limits = st.integers(0, 15)


@given(hnp.arrays(np.bool_, shapes, fill=st.booleans()), limits, limits)
@example(np.ones((1, 1), np.bool_), 1, 1)
@example(np.ones((1, 1), np.bool_), 2, 2)
@example(np.eye(1, 40, 30, dtype=np.bool_), 0, 15)  # the nine pixels on the right are a hole, the thirty are not
def test_both_equal_the_naive_definition(mask: np.ndarray, min_component_area: int, max_hole_area: int) -> None:
    height, width = mask.shape
    expected = naive_clean(mask, min_component_area, max_hole_area)
    cleaned, changed = clean_mask(mask, min_component_area, max_hole_area)
    assert np.array_equal(cleaned, expected) and cleaned.dtype == np.uint8
    assert changed == (not np.array_equal(mask, expected))
    [rle] = encode_masks(mask[None])
    new_rle, new_changed = clean_rle(rle, height, width, min_component_area, max_hole_area)
    assert new_changed == changed
    assert [new_rle] == encode_masks(expected[None])


@pytest.mark.parametrize("seed", range(6))
def test_larger_masks_clean_alike_dense_and_compressed(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = np.zeros((160, 230), np.uint8)
    top, left = rng.integers(0, 80, 2)
    mask[top : top + 70, left : left + 110] = rng.random((70, 110)) < rng.choice([0.3, 0.6, 0.9])
    cleaned, changed = clean_mask(mask, 20, 20)
    assert changed and np.array_equal(cleaned, naive_clean(mask, 20, 20))
    [rle] = encode_masks(mask[None])
    assert clean_rle(rle, 160, 230, 20, 20) == (encode_masks(cleaned[None])[0], True)


def test_components_go_before_holes_are_filled() -> None:
    ring = picture("..... .###. .#.#. .###. .....")
    assert not clean_mask(ring, 9, 9)[0].any()  # eight pixels: the published code would fill it first, to nine
    assert clean_mask(ring, 8, 9)[0].sum() == 9
    assert clean_mask(ring, 8, 1) == (pytest.approx(ring), False)


def test_a_mask_of_small_components_only_becomes_empty() -> None:
    mask = picture("##..# ##... ....#")
    cleaned, changed = clean_mask(mask, 5, 100)
    assert changed and not cleaned.any()  # the published code would keep the largest
    assert clean_rle(encode_masks(mask[None])[0], 3, 5, 5, 100) == (b"?", True)
    assert clean_mask(np.zeros((3, 5), np.bool_), 5, 100)[1] is False
    assert clean_rle(b"?", 3, 5, 5, 100) == (b"?", False)


def test_corners_connect_objects_and_background() -> None:
    assert clean_mask(picture("#.. .#. ..#"), 3, 0)[1] is False
    leaking = picture(".#### #.### ##### #####")  # the pixel inside meets the corner outside: one hole of two
    assert clean_mask(leaking, 0, 2)[1] is False
    assert clean_mask(leaking, 0, 3)[0].all()


def test_nothing_changes_without_limits() -> None:
    mask = picture("#.# .## ##.")
    cleaned, changed = clean_mask(mask, 0, 0)
    assert np.array_equal(cleaned, mask) and not changed
    [rle] = encode_masks(mask[None])
    assert clean_rle(rle, 3, 3, 0, 0) == (rle, False)


def test_a_small_mask_in_a_large_image() -> None:
    rle = coco_mask.frPyObjects([[5000, 3000, 5060, 3000, 5060, 3050, 5000, 3050]], 6000, 8000)[0]["counts"]
    assert clean_rle(rle, 6000, 8000, 100, 100) == (rle, False)
    emptied, changed = clean_rle(rle, 6000, 8000, 10_000, 100)
    assert changed and decode_masks([emptied], 6000, 8000).sum() == 0
