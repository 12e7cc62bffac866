"""COCO run lengths, encoded and decoded for many masks at once.

A mask is read down its columns, left to right; its runs alternate background, object, background …, and the first
one is background even when its length is 0. The compressed form stores each length (from the fourth on: its
difference from the length two places before) in groups of five bits, the lowest first, bit 5 set when another group
follows, plus 48, so that it is printable. The format is that of the COCO API (`common/maskApi.c`:
`rleEncode`, `rleToString`, `rleFrString`, `rleToBbox`); the bytes made here are those that pycocotools makes.

The vectorised code works on *transitions*: the sorted column-major positions (`column * height + row`) at which the
mask's value changes. They can be taken from any rectangle outside which the mask is empty, so that a small object in
a large image costs only its own box.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

_MAX_GROUPS = 7  # 35 bits: the difference of two 32-bit run lengths, which is what pycocotools can hold, needs 33
_PIECE = 1 << 14  # bytes of a dense mask that are looked at together


def compress_counts(counts: np.ndarray, lengths: np.ndarray) -> list[bytes]:
    """Compress the run lengths of N masks.

    counts: int64 (R,), the N masks' run lengths one after another; lengths: (N,), how many belong to each (at least
    one). Returns N COCO strings, equal to those of `rleToString` in the COCO API.
    """
    assert int(np.sum(lengths)) == len(counts), "lengths must add up to the number of counts"
    values = counts.astype(np.int64)
    values[2:] -= np.where(_places(lengths)[2:] > 2, counts[:-2], 0)
    magnitudes = values ^ (values >> 63)  # a negative value needs as many bits as its complement
    num_groups = np.ones(len(values), dtype=np.int64)
    bits = 4
    while (longer := magnitudes >= (1 << bits)).any():
        num_groups += longer
        bits += 5
    ends = np.cumsum(num_groups)
    starts = ends - num_groups
    text = np.empty(int(num_groups.sum()), dtype=np.uint8)
    for group in range(int(num_groups.max(initial=0))):
        chosen = np.flatnonzero(num_groups > group)
        low = (values[chosen] >> (5 * group)) & 31
        text[starts[chosen] + group] = low + 48 + 32 * (num_groups[chosen] > group + 1)
    data = text.tobytes()
    cuts = np.concatenate([[0], ends])[np.concatenate([[0], np.cumsum(lengths)])].tolist()
    return [data[start:end] for start, end in pairwise(cuts)]


def expand_counts(rles: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Undo `compress_counts`: N COCO strings to (counts int64 (R,), lengths int64 (N,)).

    Raises ValueError for a string that is empty, ends in the middle of a number, or holds a character or a run length
    outside the format.
    """
    sizes = np.array([len(rle) for rle in rles], dtype=np.int64)
    if not len(sizes):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    if not sizes.all():
        raise ValueError(f"rle {int(sizes.argmin())} is empty; an empty mask has one run, the whole image")
    groups = np.frombuffer(b"".join(rles), dtype=np.uint8).astype(np.int64) - 48
    ends = np.cumsum(sizes)
    is_last = (groups & 32) == 0
    if groups.min() < 0 or groups.max() > 63:
        raise ValueError("rles hold a character outside COCO's alphabet; pass compressed COCO counts as bytes")
    if not is_last[ends - 1].all():
        broken = int(np.flatnonzero(~is_last[ends - 1])[0])
        raise ValueError(f"rle {broken} ends in the middle of a number; it was cut short")
    last = np.flatnonzero(is_last)
    first = np.concatenate([[0], last[:-1] + 1])
    num_groups = last - first + 1
    if num_groups.max() > _MAX_GROUPS:
        raise ValueError(f"rles hold a number of {int(num_groups.max())} groups; at most {_MAX_GROUPS} are possible")
    shifts = 5 * (np.arange(len(groups)) - np.repeat(first, num_groups))
    values = np.add.reduceat((groups & 31) << shifts, first)
    values -= ((groups[last] & 16) != 0) * (np.int64(1) << (5 * num_groups))
    lengths = np.diff(np.searchsorted(last, ends), prepend=0)
    counts = _undo_deltas(values, _places(lengths))
    if counts.min() < 0:
        raise ValueError("rles hold a negative run length; pass compressed COCO counts as bytes")
    return counts, lengths


def _places(lengths: np.ndarray) -> np.ndarray:
    """Each run's place (0, 1, 2 …) within its own mask."""
    ends = np.cumsum(lengths)
    return np.arange(int(np.sum(lengths))) - np.repeat(ends - lengths, lengths)


def _undo_deltas(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Turn each mask's differences back into run lengths: a running sum over every second one, begun anew a mask."""
    counts = np.empty_like(values)
    for parity in (0, 1):
        deltas = values[parity::2]
        sums = np.cumsum(deltas)
        absolute = places[parity::2] <= 2  # the first three runs are stored as they are
        anchors = np.maximum.accumulate(np.where(absolute, np.arange(len(deltas)), 0))
        counts[parity::2] = sums - (sums - deltas)[anchors]
    return counts


def transitions(patch: np.ndarray, x0: int, y0: int, height: int) -> np.ndarray:
    """Where a mask changes its value, read in column-major order.

    patch: bool or uint8 (h, w), the mask inside a rectangle whose top left corner is (x0, y0); outside it the mask
    is empty. height: of the full image. Returns sorted int64 positions `column * height + row`, without repeats:
    where an object touches the bottom of one column and the top of the next, its run goes on and nothing changes.
    The last position may be `height * width`, when the object reaches the image's last pixel.
    """
    rows, columns = patch.shape
    if patch.size == 0:
        return np.zeros(0, dtype=np.int64)
    patch = patch.view(np.uint8)
    changes = np.empty((rows + 1, columns), dtype=np.bool_)
    np.not_equal(patch[0], 0, out=changes[0])
    np.not_equal(patch[1:], patch[:-1], out=changes[1:-1])
    np.not_equal(patch[-1], 0, out=changes[-1])
    positions = np.flatnonzero(changes)
    row = positions // columns  # divided by one number, unlike divmod, which numpy does not vectorise
    positions = (positions - row * columns + x0) * height + (row + y0)
    positions.sort()
    return _cancel_pairs(positions) if rows == height else positions


def join_transitions(parts: Sequence[np.ndarray]) -> np.ndarray:
    """The transitions of one mask from those of its column strips, given from left to right.

    The strips may differ in top and height, and columns between them are empty. A run that goes on across a seam ends
    one strip and begins the next at the same position; that pair cancels. Joining is associative, so strips can be
    joined as they arrive.
    """
    return _cancel_pairs(np.concatenate([np.zeros(0, dtype=np.int64), *parts]))


def _cancel_pairs(positions: np.ndarray) -> np.ndarray:
    """Drop both of two equal neighbours; sorted positions, none of which stands there more than twice."""
    equal = positions[1:] == positions[:-1]
    if not equal.any():
        return positions
    keep = np.ones(len(positions), dtype=np.bool_)
    keep[1:] &= ~equal
    keep[:-1] &= ~equal
    return positions[keep]


def counts_from_transitions(positions: np.ndarray, num_pixels: int) -> np.ndarray:
    """Run lengths int64 (R,) of one mask of `num_pixels` = height * width pixels from its transitions."""
    inside = positions[: np.searchsorted(positions, num_pixels)]
    counts = np.append(inside, num_pixels)
    counts[1:] -= inside
    return counts


def encode_masks(masks: np.ndarray) -> list[bytes]:
    """Compress dense masks, (N, H, W) bool or uint8 of 0 and 1; the bytes equal those of pycocotools' `encode`.

    Raises ValueError for another type.
    """
    if masks.dtype not in (np.bool_, np.uint8):
        raise ValueError(f"masks must be bool or uint8, not {masks.dtype}; threshold them first")
    height, width = masks.shape[1:]
    counts = [counts_from_transitions(_mask_transitions(mask), height * width) for mask in masks.view(np.uint8)]
    lengths = np.array([len(runs) for runs in counts], dtype=np.int64)
    return compress_counts(np.concatenate([np.zeros(0, dtype=np.int64), *counts]), lengths)


def _mask_transitions(mask: np.ndarray) -> np.ndarray:
    """The transitions of one dense uint8 mask, looked for inside its box only.

    The box's rows are found by pieces and not row by row: the whole mask is read for this, at the memory's own speed.
    """
    flat = np.ascontiguousarray(mask).reshape(-1)
    num_pieces = flat.size // _PIECE
    pieces, rest = flat[: num_pieces * _PIECE].view(np.uint64), flat[num_pieces * _PIECE :]
    filled = np.bitwise_or.reduce(pieces.reshape(num_pieces, _PIECE // 8), axis=1) != 0
    found = np.flatnonzero(np.append(filled, rest.any()))
    if not len(found):
        return np.zeros(0, dtype=np.int64)
    height, width = mask.shape
    top, bottom = int(found[0]) * _PIECE // width, -((int(found[-1]) + 1) * _PIECE // -width)
    band = mask[top:bottom]
    columns = np.flatnonzero(np.bitwise_or.reduce(band, axis=0))
    return transitions(band[:, columns[0] : columns[-1] + 1], int(columns[0]), top, height)


def areas(rles: Sequence[bytes]) -> np.ndarray:
    """Pixels of each mask, int64 (N,). Raises ValueError as `expand_counts`."""
    return areas_of_counts(*expand_counts(rles))


def areas_of_counts(counts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """`areas` of run lengths as `compress_counts` takes them."""
    if not len(lengths):
        return np.zeros(0, dtype=np.int64)
    return np.add.reduceat(np.where(_places(lengths) % 2 == 1, counts, 0), np.cumsum(lengths) - lengths)


def bounding_boxes(rles: Sequence[bytes], height: int) -> np.ndarray:
    """Boxes x, y, w, h, int32 (N, 4), of masks in images of `height` pixels.

    pycocotools' convention (`toBbox`): w = xmax - xmin + 1; an empty mask has 0, 0, 0, 0. Raises ValueError as
    `expand_counts`.
    """
    return boxes_of_counts(*expand_counts(rles), height)


def boxes_of_counts(counts: np.ndarray, lengths: np.ndarray, height: int) -> np.ndarray:
    """`bounding_boxes` of run lengths as `compress_counts` takes them."""
    if not len(lengths):
        return np.zeros((0, 4), dtype=np.int32)
    firsts = np.cumsum(lengths) - lengths
    ends = np.cumsum(counts)
    ends -= np.repeat(ends[firsts] - counts[firsts], lengths)
    starts, lasts = ends - counts, ends - 1
    column0, column1 = starts // height, lasts // height
    row0, row1 = starts - column0 * height, lasts - column1 * height
    spans = column1 > column0  # such a run goes through the bottom of a column and the top of the next
    objects = (_places(lengths) % 2 == 1) & (counts > 0)
    beyond = np.iinfo(np.int64).max
    xmin = np.minimum.reduceat(np.where(objects, column0, beyond), firsts)
    ymin = np.minimum.reduceat(np.where(objects, np.where(spans, 0, row0), beyond), firsts)
    xmax = np.maximum.reduceat(np.where(objects, column1, -1), firsts)
    ymax = np.maximum.reduceat(np.where(objects, np.where(spans, height - 1, row1), -1), firsts)
    boxes = np.stack([xmin, ymin, xmax - xmin + 1, ymax - ymin + 1], axis=1)
    return np.where(xmax[:, None] < 0, 0, boxes).astype(np.int32)


def check_masks(rles: Sequence[bytes], height: int, width: int) -> None:
    """Raises ValueError as `decode_masks` does; nothing is decoded."""
    _expand_image(rles, height, width)


def decode_masks(rles: Sequence[bytes], height: int, width: int) -> np.ndarray:
    """Dense masks, uint8 (N, H, W) of 0 and 1.

    Raises ValueError as `expand_counts`, or when the runs of a mask do not add up to height * width.
    """
    counts, lengths = _expand_image(rles, height, width)
    masks = np.zeros((len(lengths), height, width), dtype=np.uint8)
    cuts = np.concatenate([[0], np.cumsum(lengths)])
    boxes = boxes_of_counts(counts, lengths, height).tolist()
    for mask, (start, end), (x, y, w, h) in zip(masks, pairwise(cuts), boxes, strict=True):
        mask[y : y + h, x : x + w] = _patch(counts[start:end], height, (x, y, w, h))
    return masks


def decode_patch(rle: bytes, height: int, width: int, bbox: tuple[int, int, int, int]) -> np.ndarray:
    """The part of one mask inside `bbox` (x, y, w, h, within the image), uint8 (h, w); never more is decoded.

    Raises ValueError as `decode_masks`.
    """
    counts, _ = _expand_image([rle], height, width)
    return np.ascontiguousarray(_patch(counts, height, bbox))


def decode_patches(rles: Sequence[bytes], height: int, width: int, boxes: np.ndarray) -> list[np.ndarray]:
    """The part of each mask inside its box (N, 4), as `decode_patch` gives it; all run lengths are read at once."""
    counts, lengths = _expand_image(rles, height, width)
    ends = np.cumsum(lengths)
    return [
        np.ascontiguousarray(_patch(counts[end - length : end], height, (x, y, w, h)))
        for end, length, (x, y, w, h) in zip(ends.tolist(), lengths.tolist(), boxes.tolist(), strict=True)
    ]


def _expand_image(rles: Sequence[bytes], height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    counts, lengths = expand_counts(rles)
    if len(lengths):
        totals = np.add.reduceat(counts, np.cumsum(lengths) - lengths)
        wrong = np.flatnonzero(totals != height * width)
        if len(wrong):
            first = int(wrong[0])
            raise ValueError(f"rle {first} covers {totals[first]} pixels, not {height} x {width}; check the image size")
    return counts, lengths


def _patch(counts: np.ndarray, height: int, bbox: tuple[int, int, int, int]) -> np.ndarray:
    """The pixels of one mask inside a rectangle.

    Every run's end moves to the first position at or after it that lies in the rectangle, counted down the
    rectangle's own columns; the order of the ends does not change, so the runs between them are those of the patch.
    """
    x, y, w, h = bbox
    column, row = np.divmod(np.cumsum(counts), height)
    ends = np.clip((column - x) * h + np.clip(row - y, 0, h), 0, w * h)
    values = (np.arange(len(counts)) % 2).astype(np.uint8)
    return np.repeat(values, np.diff(ends, prepend=0)).reshape(w, h).T
