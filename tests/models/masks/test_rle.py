import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask

from models.masks.rle import (
    areas,
    bounding_boxes,
    compress_counts,
    counts_from_transitions,
    decode_masks,
    decode_patch,
    encode_masks,
    expand_counts,
    join_transitions,
    transitions,
)

stacks = hnp.arrays(np.bool_, st.tuples(st.integers(0, 4), st.integers(1, 9), st.integers(1, 9)))
single = hnp.arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9)))


def by_pycocotools(masks: np.ndarray) -> list[bytes]:
    return [coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"] for mask in masks]


def as_coco(rles: list[bytes], height: int, width: int) -> list[dict[str, object]]:
    return [{"size": [height, width], "counts": rle} for rle in rles]


def blobs(num: int, height: int, width: int, seed: int) -> np.ndarray:
    """Ellipses of any size, some of them beyond the image, with a hole: long runs, short runs, whole columns."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    masks = np.zeros((num, height, width), np.bool_)
    for mask in masks:
        cy, cx = rng.uniform(0, [height, width])
        distance = ((y - cy) / rng.uniform(1, height)) ** 2 + ((x - cx) / rng.uniform(1, width)) ** 2
        mask[(distance < 1) & (distance > rng.uniform(-0.5, 0.5))] = True
    return masks


@given(stacks)
def test_every_codec_function_equals_pycocotools(masks: np.ndarray) -> None:
    num, height, width = masks.shape
    rles = by_pycocotools(masks)
    assert encode_masks(masks) == rles
    assert encode_masks(masks.astype(np.uint8)) == rles
    assert np.array_equal(decode_masks(rles, height, width), masks)
    assert areas(rles).tolist() == [int(coco_mask.area(one)) for one in as_coco(rles, height, width)]
    boxes = [coco_mask.toBbox(one).tolist() for one in as_coco(rles, height, width)]
    assert bounding_boxes(rles, height).tolist() == boxes
    assert areas(rles).dtype == np.int64 and bounding_boxes(rles, height).shape == (num, 4)
    counts, lengths = expand_counts(rles)
    assert compress_counts(counts, lengths) == rles


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools 2.0.11's decode
@pytest.mark.parametrize("height,width", [(300, 451), (64, 64), (1, 500), (500, 1), (37, 1000)])
def test_larger_masks_equal_pycocotools(height: int, width: int) -> None:
    masks = blobs(30, height, width, seed=height)
    rles = by_pycocotools(masks)
    assert encode_masks(masks) == rles
    decoded = coco_mask.decode(as_coco(rles, height, width)).transpose(2, 0, 1)
    assert np.array_equal(decode_masks(rles, height, width), decoded)
    assert bounding_boxes(rles, height).tolist() == coco_mask.toBbox(as_coco(rles, height, width)).tolist()
    assert areas(rles).tolist() == masks.sum(axis=(1, 2)).tolist()


def test_hand_worked_strings() -> None:
    masks = np.zeros((4, 2, 3), np.bool_)
    masks[1] = True  # full: no background, then 6
    masks[2, 1, 0] = True  # 1, 1, 4
    masks[3, :, 0] = masks[3, 0, 1] = masks[3, 1, 2] = True  # columns 11 10 01: 0, 3, 2, 1, and 1 - 3 = -2 is stored
    assert encode_masks(masks) == [b"6", b"06", b"114", b"032N"]
    assert expand_counts([b"6", b"06", b"114", b"032N"])[0].tolist() == [6, 0, 6, 1, 1, 4, 0, 3, 2, 1]
    assert expand_counts([b"6", b"06", b"114", b"032N"])[1].tolist() == [1, 2, 3, 4]


def test_views_that_are_not_contiguous_encode_the_same() -> None:
    masks = blobs(6, 40, 60, seed=1)
    assert encode_masks(masks.transpose(0, 2, 1)) == by_pycocotools(masks.transpose(0, 2, 1))
    assert encode_masks(masks[::2, 3:, ::-1]) == by_pycocotools(masks[::2, 3:, ::-1])


def test_no_masks_and_wrong_types() -> None:
    assert encode_masks(np.zeros((0, 5, 7), np.bool_)) == []
    assert compress_counts(np.zeros(0, np.int64), np.zeros(0, np.int64)) == []
    assert decode_masks([], 5, 7).shape == (0, 5, 7)
    assert areas([]).shape == (0,) and bounding_boxes([], 5).shape == (0, 4)
    assert [array.shape for array in expand_counts([])] == [(0,), (0,)]
    with pytest.raises(ValueError, match="float64"):
        encode_masks(np.zeros((1, 2, 2)))


@given(st.lists(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=12), max_size=5))
def test_any_run_lengths_survive(runs: list[list[int]]) -> None:
    counts = np.array([count for one in runs for count in one], np.int64)
    lengths = np.array([len(one) for one in runs], np.int64)
    back, back_lengths = expand_counts(compress_counts(counts, lengths))
    assert back.tolist() == counts.tolist() and back_lengths.tolist() == lengths.tolist()


@pytest.mark.parametrize("rle", [b"", b"6P", b"\x2f", b"p", b"PPPPPPP0", b"1110I", b"00o"])
def test_malformed_strings_are_refused(rle: bytes) -> None:
    with pytest.raises(ValueError, match="rle"):
        expand_counts([b"6", rle, b"6"])


@given(st.lists(st.binary(max_size=8), max_size=4))
def test_any_bytes_expand_or_are_refused(rles: list[bytes]) -> None:
    try:
        counts, lengths = expand_counts(rles)
    except ValueError:
        return
    assert len(lengths) == len(rles) and lengths.sum() == len(counts) and (counts >= 0).all()


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="rle 1 covers 6 pixels, not 2 x 2"):
        decode_masks([b"4", b"06"], 2, 2)


def column_major_changes(mask: np.ndarray) -> list[int]:
    flat = mask.T.reshape(-1).tolist()
    return [i for i, (before, value) in enumerate(zip([False, *flat[:-1]], flat, strict=True)) if value != before]


def frame(patch: np.ndarray, x0: int, y0: int, below: int, right: int) -> np.ndarray:
    return np.pad(patch, ((y0, below), (x0, right)))


edges = st.tuples(*[st.integers(0, 3)] * 4)


@given(single, edges)
def test_transitions_of_a_patch_are_those_of_the_full_image(patch: np.ndarray, edge: tuple[int, ...]) -> None:
    x0, y0, below, right = edge
    mask = frame(patch, x0, y0, below, right)
    found = transitions(patch, x0, y0, mask.shape[0])
    inside = [position for position in found.tolist() if position < mask.size]
    assert inside == column_major_changes(mask)
    assert found.dtype == np.int64 and (np.diff(found) > 0).all()
    counts = counts_from_transitions(found, mask.size)
    assert compress_counts(counts, np.array([len(counts)])) == by_pycocotools(mask[None])


@given(st.data(), single, edges)
def test_strips_join_to_the_transitions_of_the_whole(data: st.DataObject, patch: np.ndarray, edge: tuple) -> None:
    x0, y0, below, _ = edge
    height = y0 + patch.shape[0] + below
    cuts = sorted(data.draw(st.lists(st.integers(0, patch.shape[1]), max_size=4)))
    bounds = list(zip([0, *cuts], [*cuts, patch.shape[1]], strict=True))  # some strips are empty
    strips = [transitions(patch[:, a:b], x0 + a, y0, height) for a, b in bounds]
    whole = transitions(patch, x0, y0, height)
    assert join_transitions(strips).tolist() == whole.tolist()
    stepwise = strips[0]
    for strip in strips[1:]:
        stepwise = join_transitions([stepwise, strip])
    assert stepwise.tolist() == whole.tolist()


def test_strips_may_differ_in_top_and_height() -> None:
    mask = np.array([[0, 1, 1, 0], [0, 1, 0, 0], [1, 1, 0, 1]], np.bool_)
    strips = [transitions(mask[2:, :1], 0, 2, 3), transitions(mask[:, 1:2], 1, 0, 3)]
    strips += [transitions(mask[:1, 2:3], 2, 0, 3), transitions(mask[2:, 3:], 3, 2, 3)]
    assert [strip.tolist() for strip in strips] == [[2, 3], [3, 6], [6, 7], [11, 12]]
    assert join_transitions(strips).tolist() == [2, 7, 11, 12]
    assert counts_from_transitions(join_transitions(strips), 12).tolist() == [2, 5, 4, 1]
    assert join_transitions([]).tolist() == []


@given(st.data(), single)
def test_a_decoded_patch_is_the_crop_of_the_mask(data: st.DataObject, mask: np.ndarray) -> None:
    height, width = mask.shape
    x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    w, h = data.draw(st.integers(0, width - x)), data.draw(st.integers(0, height - y))
    patch = decode_patch(by_pycocotools(mask[None])[0], height, width, (x, y, w, h))
    assert patch.dtype == np.uint8 and np.array_equal(patch, mask[y : y + h, x : x + w])


@settings(deadline=None, max_examples=5)
@given(st.integers(0, 2**31))
def test_a_large_image_with_a_small_mask(seed: int) -> None:
    height, width = 4000, 6000
    patch = blobs(1, 50, 70, seed)[0]
    x0, y0 = np.random.default_rng(seed).integers(0, [width - 70, height - 50], endpoint=True).tolist()
    counts = counts_from_transitions(transitions(patch, x0, y0, height), height * width)
    rle = compress_counts(counts, np.array([len(counts)]))[0]
    [same] = as_coco([rle], height, width)
    assert areas([rle])[0] == coco_mask.area(same) == patch.sum()
    assert bounding_boxes([rle], height)[0].tolist() == coco_mask.toBbox(same).tolist()
    assert np.array_equal(decode_patch(rle, height, width, (x0, y0, 70, 50)), patch)
