"""Periodic texture tiles, made once a scene and sampled by every surface in it."""

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Tiles:
    """Tiles of side `size` (a power of two) that repeat without a seam, all float32."""

    size: int
    cloud: np.ndarray  # (size, size, 3) three independent fields, amplitude 1/f, mean 0, deviation 1
    rough: np.ndarray  # (size, size) amplitude f^-0.6: grain
    leaves: np.ndarray  # (size, size) dead leaves in [0, 1]
    cells: np.ndarray  # (size, size, 2) a shade for each Voronoi cell, and nearness to a cell's border, in [0, 1]


def make_tiles(rng: np.random.Generator, size: int) -> Tiles:
    """Make a scene's tiles; `size` must be a power of two."""
    assert size & (size - 1) == 0, size
    return Tiles(
        size=size,
        cloud=np.dstack([power_law(rng, size, exponent) for exponent in (1.05, 1.2, 1.2)]),
        rough=power_law(rng, size, 0.6),
        leaves=_dead_leaves(rng, size),
        cells=_voronoi(rng, size),
    )


def sample(tile: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Read `tile` at pixel positions (u, v), (H, W) float32, wrapping around; (H, W) or (H, W, C)."""
    return cv2.remap(tile, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)


def power_law(rng: np.random.Generator, size: int, exponent: float) -> np.ndarray:
    """Noise whose amplitude falls as f^-exponent, (size, size) float32, mean 0, deviation 1.

    Photographs fall with an exponent near 1 (Field, 1987, "Relations between the statistics of natural images ...").
    """
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :])
    frequency[0, 0] = 1.0
    spectrum = np.fft.rfft2(rng.standard_normal((size, size), dtype=np.float32)) * frequency**-exponent
    spectrum[0, 0] = 0.0
    field = np.fft.irfft2(spectrum, s=(size, size))
    return np.asarray(field / field.std(), dtype=np.float32)


def _dead_leaves(rng: np.random.Generator, size: int) -> np.ndarray:
    """Opaque ellipses with power-law sizes laid over each other (Lee, Mumford and Huang, 2001), [0, 1]."""
    tile = np.full((size, size), 0.3, dtype=np.float32)
    count = 520
    radii = np.sort(size * 0.012 * (1.0 - 0.985 * rng.random(count)) ** -0.5)[::-1]
    mixed = np.roll(radii, count // 5)  # large ones mostly below, so that small ones survive
    centres = rng.random((count, 2)) * size
    angles, ratios, shades = rng.random(count) * 180.0, rng.uniform(0.35, 1.0, count), rng.beta(1.6, 2.0, count)
    for radius, (x, y), angle, ratio, shade in zip(mixed, centres, angles, ratios, shades, strict=True):
        for dx in (0, -size) if x + radius > size else (0, size) if x < radius else (0,):
            for dy in (0, -size) if y + radius > size else (0, size) if y < radius else (0,):
                box = ((x + dx, y + dy), (2.0 * radius, 2.0 * radius * ratio), angle)
                cv2.ellipse(tile, box, float(shade), -1, cv2.LINE_8)
    return cv2.GaussianBlur(tile, (3, 3), 0.6, borderType=cv2.BORDER_REPLICATE)


def _voronoi(rng: np.random.Generator, size: int) -> np.ndarray:
    """Cells of random points with wrapped borders: (size, size, 2), shade and nearness to the border."""
    count, pad = 90, size // 4
    points = rng.random((count, 2)) * size
    seeds = np.full((size + 2 * pad, size + 2 * pad), 255, dtype=np.uint8)
    owner = np.zeros(seeds.shape, dtype=np.int32)
    for index, (x, y) in enumerate(points):
        for dx in (-size, 0, size):
            for dy in (-size, 0, size):
                column, row = int(x + dx + pad), int(y + dy + pad)
                if 0 <= column < seeds.shape[1] and 0 <= row < seeds.shape[0]:
                    seeds[row, column], owner[row, column] = 0, index
    _, labels = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    # OpenCV numbers the zero pixels from 1; read back which point each number stands for.
    of_label = np.zeros(int(labels.max()) + 1, dtype=np.int32)
    zero = seeds == 0
    of_label[labels[zero]] = owner[zero]
    cell = of_label[labels]
    border = cv2.morphologyEx(cell.astype(np.float32), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    nearness = cv2.GaussianBlur(border.astype(np.float32), (0, 0), size / 160.0)
    inner = (slice(pad, pad + size), slice(pad, pad + size))
    shades = rng.random(count).astype(np.float32)
    return np.dstack([shades[cell[inner]], np.clip(nearness[inner] * 2.0, 0.0, 1.0)]).astype(np.float32)
