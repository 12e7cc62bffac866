"""Label Studio's brush masks: a run-length code of RGBA pixels, row by row.

The format is that of `@thi.ng/rle-pack`, as Label Studio's own converter reads it (label_studio_converter/brush.py): 32
bits for the number of values, 5 for a value's size less one, four times 4 for the sizes of run lengths less one; then
blocks of one bit (a run, or single values), two bits that choose the size, the length less one, and the value or the
values. A pixel is four values; its alpha says whether it belongs to the mask.
"""

import numpy as np

from models.masks.rle import bounding_boxes, compress_counts, counts_from_transitions, decode_patch, transitions

_SIZES = (3, 4, 8, 16)
_VALUE_BITS = 8
_OPAQUE = 128  # what an eraser or the brush's soft edge leaves below does not count


def to_brush(rle: bytes, height: int, width: int) -> list[int]:
    """Compressed COCO run lengths as Label Studio's list of bytes; nothing is lost."""
    x, y, w, h = bounding_boxes([rle], height)[0].tolist()
    # turned on its side, so that it is read by rows
    patch = decode_patch(rle, height, width, (x, y, w, h)).T
    runs = counts_from_transitions(transitions(np.ascontiguousarray(patch), y, x, width), height * width) * 4
    header = f"{height * width * 4:032b}{_VALUE_BITS - 1:05b}" + "".join(f"{size - 1:04b}" for size in _SIZES)
    blocks = [header]
    for index, run in enumerate(runs.tolist()):
        value = "11111111" if index % 2 else "00000000"
        while run:
            length = min(run, 1 << _SIZES[-1])
            choice = next(i for i, size in enumerate(_SIZES) if length <= 1 << size)
            blocks.append(f"1{choice:02b}{length - 1:0{_SIZES[choice]}b}{value}")
            run -= length
    bits = np.frombuffer("".join(blocks).encode(), np.uint8) - ord("0")
    return list(np.packbits(bits).tolist())


def from_brush(data: list[int], height: int, width: int) -> bytes:
    """Label Studio's list of bytes as compressed COCO run lengths. Raises ValueError where it is broken."""
    try:
        if not isinstance(data, list):
            raise ValueError("it is no list of bytes")
        bits = "".join(f"{byte:08b}" for byte in bytes(data))
        values = _expand(bits, height * width * 4)
    except (ValueError, TypeError) as error:
        raise ValueError(f"the brush's rle is broken ({error}); export the task again") from None
    mask = values.reshape(height, width, 4)[..., 3] >= _OPAQUE
    positions = transitions(mask, 0, 0, height)
    runs = counts_from_transitions(positions, height * width)
    return compress_counts(runs, np.array([len(runs)]))[0]


def _expand(bits: str, num_values: int) -> np.ndarray:
    place = 0

    def take(count: int) -> int:
        nonlocal place
        place += count
        if place > len(bits):
            raise ValueError("it ends too early")
        return int(bits[place - count : place], 2)

    if (claimed := take(32)) != num_values:
        raise ValueError(f"it holds {claimed} values, the image {num_values}")
    if (value_bits := take(5) + 1) != _VALUE_BITS:
        raise ValueError(f"its values have {value_bits} bits, a pixel's {_VALUE_BITS}")
    sizes = [take(4) + 1 for _ in range(4)]
    values = np.zeros(num_values, np.uint8)
    filled = 0
    while filled < num_values:
        is_run = take(1)
        length = take(sizes[take(2)]) + 1
        if filled + length > num_values:
            raise ValueError("its runs are longer than the image")
        if is_run:
            values[filled : filled + length] = take(value_bits)
        else:
            values[filled : filled + length] = [take(value_bits) for _ in range(length)]
        filled += length
    return values
