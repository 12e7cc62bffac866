"""Learned position tables of CLIP's image towers, at other sizes of the grid."""

import torch
import torch.nn.functional as F
from torch import Tensor


def interpolate_positions(table: Tensor, rows: int, columns: int) -> Tensor:
    """The table (1 + G * G, D) of a square grid, for one of other sizes: (1 + rows * columns, D).

    The first entry, that of the class or mean token, stays; the grid is interpolated bicubically, which is what
    `transformers` does too. The table itself is returned where nothing changes.
    """
    size = round((len(table) - 1) ** 0.5)
    assert size * size == len(table) - 1, "the positions are those of a square grid"
    if (rows, columns) == (size, size):
        return table
    grid = table[1:].float().T.unflatten(1, (size, size))[None]  # (1, D, G, G)
    grid = F.interpolate(grid, size=(rows, columns), mode="bicubic", align_corners=False)
    return torch.cat([table[:1], grid[0].flatten(1).T.to(table.dtype)])  # (1 + rows * columns, D)
