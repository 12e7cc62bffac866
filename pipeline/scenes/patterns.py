"""Surface patterns: each maps texture coordinates to a blend of two colours and a relief.

Every function takes `u, v` (H, W) float32, one unit being one period of the pattern, and `wobble` (H, W, 3), noise of
deviation 1 that breaks the regularity; it returns (mix, relief), both (H, W) float32: the share of the second colour
in [0, 1], and a height in periods.
"""

from collections.abc import Callable

import numpy as np

from pipeline.scenes.tiles import Tiles, sample

Field = np.ndarray
Pattern = Callable[[Field, Field, Field, Tiles], tuple[Field, Field]]


def ramp(value: Field, low: float, high: float) -> Field:
    """0 below `low`, 1 above `high`, smooth between."""
    t = np.clip((value - low) * (1.0 / (high - low)), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def _triangle(value: Field) -> Field:
    """Period 1, from 0 at whole numbers to 1 half way."""
    return np.abs(value - np.round(value)) * 2.0


def _hash(i: Field, j: Field) -> Field:
    """A repeatable number in [0, 1) for each pair of whole numbers."""
    value = i * 0.61803 + j * 0.75488 + i * j * 0.3247
    return value - np.floor(value)


def plain(u: Field, v: Field, wobble: Field, tiles: Tiles) -> tuple[Field, Field]:
    return ramp(wobble[..., 1], -1.5, 4.0), wobble[..., 0] * 0.02


def shiny(u: Field, v: Field, wobble: Field, tiles: Tiles) -> tuple[Field, Field]:
    band = ramp(_triangle(v * 0.12 + u * 0.04 + wobble[..., 1] * 0.03), 0.35, 0.6)
    return 0.5 * band + 0.5 * ramp(_triangle(v * 0.09), 0.1, 0.9), wobble[..., 1] * 0.002


def striped(u: Field, v: Field, wobble: Field, tiles: Tiles) -> tuple[Field, Field]:
    mix = ramp(_triangle(u + wobble[..., 1] * 0.05), 0.42, 0.58)
    return mix, mix * 0.02


def checked(u: Field, v: Field, wobble: Field, tiles: Tiles) -> tuple[Field, Field]:
    across, along = ramp(_triangle(u), 0.45, 0.55), ramp(_triangle(v), 0.45, 0.55)
    return across + along - 2.0 * across * along, wobble[..., 0] * 0.01


def plaid(u: Field, v: Field, wobble: Field, tiles: Tiles) -> tuple[Field, Field]:
    wide = ramp(_triangle(u), 0.5, 0.56) + ramp(_triangle(v), 0.5, 0.56)
    thin = ramp(_triangle(u + 0.5), 0.9, 0.94) + ramp(_triangle(v + 0.5), 0.9, 0.94)
    return np.clip(wide * 0.35 + thin * 0.4, 0.0, 1.0), wide * 0.005


def dotted(u: Field, v: Field, wobble: Field, tiles: Tiles) -> tuple[Field, Field]:
    row = np.floor(v)
    shifted = u + 0.5 * (row - 2.0 * np.floor(row * 0.5))
    distance = np.hypot(shifted - np.floor(shifted) - 0.5, v - row - 0.5)
    mix = 1.0 - ramp(distance, 0.24, 0.32)
    return mix, mix * 0.03


def spotted(u: Field, v: Field, wobble: Field, tiles: Tiles) -> tuple[Field, Field]:
    stretch = tiles.size / 9.0
    value = sample(tiles.cells, u * stretch, v * stretch)
    mix = ramp(value[..., 0] - value[..., 1] * 0.9 + wobble[..., 1] * 0.06, 0.40, 0.50)
    return mix, mix * 0.01


def mottled(u: Field, v: Field, wobble: Field, tiles: Tiles) -> tuple[Field, Field]:
    stretch = tiles.size / 6.0
    value = sample(tiles.cloud, u * stretch, v * stretch)[..., 0]
    return ramp(value, -0.15, 0.35), value * 0.03


def marbled(u: Field, v: Field, wobble: Field, tiles: Tiles) -> tuple[Field, Field]:
    vein = 1.0 - np.abs(np.sin((u + wobble[..., 1] * 0.7 + wobble[..., 0] * 0.3) * np.pi))
    return vein * vein, wobble[..., 0] * 0.003


def wooden(u: Field, v: Field, wobble: Field, tiles: Tiles) -> tuple[Field, Field]:
    stretch = tiles.size / 4.0
    grain = sample(tiles.cloud, u * stretch * 0.06, v * stretch)[..., 0]
    rings = _triangle(v * 1.2 + wobble[..., 1] * 0.35 + grain * 0.25)
    plank = _hash(np.floor(v * 0.33), np.floor(v * 0.33))
    seam = ramp(_triangle(v * 0.33), 0.0, 0.05)
    mix = np.clip(rings * 0.55 + grain * 0.15 + plank * 0.35, 0.0, 1.0)
    return np.clip(mix + (1.0 - seam) * 0.5, 0.0, 1.0), seam * 0.08 + grain * 0.01


def brick(u: Field, v: Field, wobble: Field, tiles: Tiles) -> tuple[Field, Field]:
    row = np.floor(v * 2.0)
    along = u + row * 0.5
    edge = np.minimum(_triangle(along), _triangle(v * 2.0) * 0.5)
    body = ramp(edge + wobble[..., 0] * 0.012, 0.05, 0.11)
    shade = _hash(np.floor(along), row) * 0.45
    return np.where(body > 0.5, shade, 1.0 - body * 0.5), body * 0.08


def tiled(u: Field, v: Field, wobble: Field, tiles: Tiles) -> tuple[Field, Field]:
    edge = np.minimum(_triangle(u), _triangle(v))
    body = ramp(edge, 0.03, 0.08)
    return 1.0 - body * (1.0 - 0.25 * _hash(np.floor(u), np.floor(v))), body * 0.05


def cobbled(u: Field, v: Field, wobble: Field, tiles: Tiles) -> tuple[Field, Field]:
    stretch = tiles.size / 9.0
    value = sample(tiles.cells, u * stretch, v * stretch)
    return np.clip(value[..., 0] * 0.6 + value[..., 1] * 0.5, 0.0, 1.0), (1.0 - value[..., 1]) * 0.12


def scaly(u: Field, v: Field, wobble: Field, tiles: Tiles) -> tuple[Field, Field]:
    row = np.floor(v * 2.0)
    along = u + row * 0.5
    x, y = along - np.floor(along) - 0.5, v * 2.0 - row
    arc = y - np.sqrt(np.clip(1.0 - 4.0 * x * x, 0.0, 1.0)) * 0.9
    return ramp(arc, -0.3, 0.1) * 0.8, (0.5 - np.clip(arc, -0.5, 0.5)) * 0.1


def furry(u: Field, v: Field, wobble: Field, tiles: Tiles) -> tuple[Field, Field]:
    stretch = tiles.size / 10.0
    bent = (u + wobble[..., 1] * 0.12) * stretch
    value = sample(tiles.rough, bent, (v + wobble[..., 2] * 0.3) * stretch * 0.16)
    return ramp(value, -1.6, 1.8), value * 0.02


def leafy(u: Field, v: Field, wobble: Field, tiles: Tiles) -> tuple[Field, Field]:
    stretch = tiles.size / 10.0
    value = sample(tiles.leaves, (u + wobble[..., 1] * 0.2) * stretch, (v + wobble[..., 2] * 0.2) * stretch)
    return np.clip(value + wobble[..., 0] * 0.12, 0.0, 1.0), value * 0.12


def woven(u: Field, v: Field, wobble: Field, tiles: Tiles) -> tuple[Field, Field]:
    a, b = _triangle(u), _triangle(v)
    over = np.floor(u * 2.0) + np.floor(v * 2.0)
    odd = over - 2.0 * np.floor(over * 0.5)
    mix = odd * a + (1.0 - odd) * b
    return mix, mix * 0.08


def speckled(u: Field, v: Field, wobble: Field, tiles: Tiles) -> tuple[Field, Field]:
    stretch = tiles.size / 14.0
    value = sample(tiles.rough, u * stretch, v * stretch)
    return ramp(value, 0.5, 1.5), value * 0.02


def ribbed(u: Field, v: Field, wobble: Field, tiles: Tiles) -> tuple[Field, Field]:
    ridge = _triangle(u + wobble[..., 1] * 0.02)
    return (1.0 - ridge) * 0.35, np.sqrt(ridge) * 0.2


def rippled(u: Field, v: Field, wobble: Field, tiles: Tiles) -> tuple[Field, Field]:
    stretch = tiles.size / 8.0
    value = sample(tiles.cloud, u * stretch * 0.3, v * stretch)
    wave = np.abs(value[..., 0]) - 0.35 * np.abs(value[..., 1])
    return np.clip(1.0 - wave, 0.0, 1.0), value[..., 0] * 0.05


PATTERNS: dict[str, Pattern] = {
    "plain": plain,
    "shiny": shiny,
    "striped": striped,
    "checked": checked,
    "plaid": plaid,
    "dotted": dotted,
    "spotted": spotted,
    "mottled": mottled,
    "marbled": marbled,
    "wooden": wooden,
    "brick": brick,
    "tiled": tiled,
    "cobbled": cobbled,
    "scaly": scaly,
    "furry": furry,
    "leafy": leafy,
    "woven": woven,
    "speckled": speckled,
    "ribbed": ribbed,
    "rippled": rippled,
}
