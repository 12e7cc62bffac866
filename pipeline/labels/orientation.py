"""Labels in the space of a picture's file as it is stored, turned as a viewer turns the picture by its EXIF."""

from collections.abc import Callable

import numpy as np

from models.masks.rle import decode_masks, encode_masks

STORED = "turned: mask in the space of the stored file"
UNTOLD = "noticed: picture with an EXIF orientation, whose labels may be of the stored file"

_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: np.fliplr,
    3: lambda mask: np.rot90(mask, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda mask: np.rot90(mask, -1),
    7: lambda mask: np.rot90(mask, 2).T,
    8: np.rot90,
}


def swaps_sides(orientation: int) -> bool:
    """Whether a picture's width becomes its height."""
    return orientation in (5, 6, 7, 8)


def only_stored_fits(labelled: tuple[int, int], upright: tuple[int, int], orientation: int) -> bool:
    """Whether labels of this (height, width) fit the file as it is stored, and not as it is shown."""
    return labelled != upright and swaps_sides(orientation) and labelled == upright[::-1]


def cannot_be_told(upright: tuple[int, int], orientation: int) -> bool:
    """Whether labels of the stored file would have the size of the shown picture too."""
    return orientation in _TURNS and (not swaps_sides(orientation) or upright[0] == upright[1])


def turn_mask(rle: bytes, height: int, width: int, orientation: int) -> bytes:
    """A mask of the stored file, whose size is given, as one of the picture that is shown."""
    if orientation not in _TURNS:
        return rle
    mask = _TURNS[orientation](decode_masks([rle], height, width)[0])
    return encode_masks(np.ascontiguousarray(mask)[None])[0]


def turn_point(point: list[float], height: int, width: int, orientation: int) -> list[float]:
    """A point x, y of the stored file, whose size is given, where the picture is shown; a corner stays a corner."""
    x, y = point
    turned = {
        2: (width - x, y),
        3: (width - x, height - y),
        4: (x, height - y),
        5: (y, x),
        6: (height - y, x),
        7: (height - y, width - x),
        8: (y, width - x),
    }
    return list(turned.get(orientation, (x, y)))
