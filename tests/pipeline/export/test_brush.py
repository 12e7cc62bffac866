import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models.masks.rle import encode_masks
from pipeline.export.brush import from_brush, to_brush


def read_plainly(data: list[int]) -> np.ndarray:
    """The format read bit by bit, as rle-pack's description has it."""
    bits = [(byte >> shift) & 1 for byte in data for shift in range(7, -1, -1)]

    def take(count: int) -> int:
        taken, bits[:count] = bits[:count], []
        return int("".join(map(str, taken)), 2)

    total, word, sizes = take(32), take(5) + 1, [take(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < total:
        is_run, length = take(1), take(sizes[take(2)]) + 1
        values += [take(word)] * length if is_run else [take(word) for _ in range(length)]
    return np.array(values)


@settings(max_examples=40, deadline=None)
@given(
    arrays(np.uint8, st.tuples(st.just(1), st.integers(1, 20), st.integers(1, 20)), elements=st.integers(0, 1)),
)
def test_a_mask_comes_back_bit_for_bit(mask: np.ndarray) -> None:
    height, width = mask.shape[1:]
    (rle,) = encode_masks(mask)
    data = to_brush(rle, height, width)
    rgba = read_plainly(data).reshape(height, width, 4)
    assert np.array_equal(rgba, np.repeat(mask[0, ..., None] * 255, 4, axis=2))
    assert from_brush(data, height, width) == rle


def test_empty_full_and_large_masks() -> None:
    masks = np.zeros((3, 700, 900), np.uint8)
    masks[1] = 1
    masks[2, 100:600, ::7] = 1
    for rle in encode_masks(masks):
        assert from_brush(to_brush(rle, 700, 900), 700, 900) == rle


def test_single_values_and_soft_edges() -> None:
    """What Label Studio itself writes: blocks that are no runs, and alpha between 0 and 255."""
    alpha = [0, 100, 128, 255]
    bits = f"{16:032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16))
    bits += "1" + "00" + f"{3:03b}" + f"{0:08b}"  # four zeros: the first pixel
    bits += "0" + "01" + f"{11:04b}" + "".join(f"{one:08b}" for value in alpha[1:] for one in (9, 9, 9, value))
    data = [int(bits[start : start + 8].ljust(8, "0"), 2) for start in range(0, len(bits), 8)]
    assert from_brush(data, 2, 2) == encode_masks(np.array([[[0, 0], [1, 1]]], np.uint8))[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:6], "ends too early"),
        (lambda data: [0, 0, 0, 9, *data[4:]], "it holds 9 values, the image 64"),
        (lambda data: [*data[:-1], 300], "broken"),
        (lambda data: ["x"], "broken"),
        (lambda data: [*data[:6], 255, 255, 255, 255, 255], "longer than the image"),
    ],
)
def test_broken_data_is_one_line(change: object, message: str) -> None:
    data = to_brush(encode_masks(np.eye(4, dtype=np.uint8)[None])[0], 4, 4)
    with pytest.raises(ValueError, match=message):
        from_brush(change(data), 4, 4)  # type: ignore[operator]
