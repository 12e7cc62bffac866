"""Colours: drawing them the way photographs hold them, and naming them the way people do."""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

Lab = tuple[float, float, float]

# Several anchors a name: people call dark and light variants by the same word. sRGB, 0-255.
_ANCHORS: tuple[tuple[str, tuple[int, int, int]], ...] = (
    ("black", (18, 18, 18)),
    ("black", (42, 40, 40)),
    ("grey", (85, 85, 85)),
    ("grey", (130, 130, 130)),
    ("grey", (178, 178, 178)),
    ("white", (225, 225, 225)),
    ("white", (250, 250, 250)),
    ("red", (190, 35, 35)),
    ("red", (120, 25, 25)),
    ("red", (215, 80, 70)),
    ("orange", (225, 125, 40)),
    ("orange", (235, 160, 90)),
    ("brown", (110, 70, 40)),
    ("brown", (70, 45, 28)),
    ("brown", (150, 110, 75)),
    ("beige", (210, 190, 155)),
    ("beige", (180, 160, 130)),
    ("yellow", (225, 205, 60)),
    ("yellow", (240, 230, 140)),
    ("yellow", (170, 150, 40)),
    ("green", (60, 130, 50)),
    ("green", (30, 65, 28)),
    ("green", (140, 180, 90)),
    ("green", (95, 105, 55)),
    ("teal", (40, 140, 140)),
    ("teal", (120, 190, 185)),
    ("blue", (50, 90, 180)),
    ("blue", (25, 40, 95)),
    ("blue", (140, 180, 225)),
    ("blue", (90, 115, 145)),
    ("purple", (120, 60, 150)),
    ("purple", (70, 35, 80)),
    ("purple", (170, 140, 195)),
    ("pink", (225, 140, 170)),
    ("pink", (205, 70, 130)),
)
_LIGHTNESS_WEIGHT = 0.6  # a hue says more about a name than a shade does
_GREY_HANDICAP = 50.0  # squared Lab units: a faint hue is named by its hue


@dataclass(frozen=True)
class Palette:
    """How colourful a scene is, and the cast all of its colours share (Lab a and b)."""

    vivid: float
    cast: tuple[float, float]


def sample_palette(rng: np.random.Generator) -> Palette:
    """Draw a scene's palette: mostly muted, sometimes vivid."""
    cast = rng.normal(0.0, 4.0, 2)
    return Palette(vivid=float(rng.beta(1.2, 2.4)), cast=(float(cast[0]), float(cast[1])))


def sample_lab(rng: np.random.Generator, palette: Palette) -> Lab:
    """Draw a colour: lightness broad, chroma small on average, hues leaning to earth, leaf and sky."""
    lightness = float(rng.uniform(10.0, 94.0))
    chroma = rng.uniform(28.0, 80.0) if rng.random() < 0.15 + 0.5 * palette.vivid else rng.gamma(2.0, 8.0)
    centre, spread = ((65.0, 28.0), (128.0, 25.0), (258.0, 24.0), (0.0, 400.0))[
        int(rng.choice(4, p=(0.42, 0.18, 0.18, 0.22)))
    ]
    hue = np.deg2rad(rng.normal(centre, spread))
    room = 1.0 - abs(lightness - 55.0) / 75.0  # very dark and very light colours cannot be saturated
    return (
        lightness,
        float(chroma * room * np.cos(hue) + palette.cast[0]),
        float(chroma * room * np.sin(hue) + palette.cast[1]),
    )


def near_lab(rng: np.random.Generator, centre: Lab, spread: Lab) -> Lab:
    """Draw a colour around `centre`."""
    return (
        float(np.clip(rng.normal(centre[0], spread[0]), 4.0, 98.0)),
        float(rng.normal(centre[1], spread[1])),
        float(rng.normal(centre[2], spread[2])),
    )


def lab_to_linear(lab: Lab) -> np.ndarray:
    """CIE Lab (D65) to linear-light sRGB, (3,) float32 clipped to [0.004, 1] (IEC 61966-2-1 primaries)."""
    fy = (lab[0] + 16.0) / 116.0
    f = np.array([fy + lab[1] / 500.0, fy, fy - lab[2] / 200.0])
    xyz = np.where(f > 6.0 / 29.0, f**3, 3.0 * (6.0 / 29.0) ** 2 * (f - 4.0 / 29.0)) * (0.9505, 1.0, 1.089)
    to_rgb = np.array([[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]])
    return np.clip(to_rgb @ xyz, 0.004, 1.0).astype(np.float32)


def linear_to_lab(rgb: np.ndarray) -> Lab:
    """Linear-light sRGB (3,) to CIE Lab (D65)."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    t = (to_xyz @ np.clip(rgb, 0.0, 1.0)) / (0.9505, 1.0, 1.089)
    f = np.where(t > (6.0 / 29.0) ** 3, np.cbrt(t), t / (3.0 * (6.0 / 29.0) ** 2) + 4.0 / 29.0)
    return float(116.0 * f[1] - 16.0), float(500.0 * (f[0] - f[1])), float(200.0 * (f[1] - f[2]))


def name_colour(pixels: np.ndarray) -> str:
    """The name most of the pixels have. `pixels` (N, 3) uint8 sRGB, N > 0."""
    table = _name_table()
    coarse = (pixels >> 3).astype(np.int64)
    votes = np.bincount(table[coarse[:, 0], coarse[:, 1], coarse[:, 2]], minlength=len(_ANCHORS))
    totals: dict[str, int] = {}
    for (name, _), count in zip(_ANCHORS, votes, strict=True):
        totals[name] = totals.get(name, 0) + int(count)
    return max(totals, key=lambda name: totals[name])


@lru_cache(maxsize=1)
def _name_table() -> np.ndarray:
    """Nearest anchor of each of 32x32x32 sRGB cells, (32, 32, 32) uint8."""
    axis = (np.arange(32, dtype=np.float32) * 8.0 + 4.0) / 255.0
    cells = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(1, -1, 3)
    anchors = np.array([rgb for _, rgb in _ANCHORS], dtype=np.float32).reshape(1, -1, 3) / 255.0
    weights = np.array([_LIGHTNESS_WEIGHT, 1.0, 1.0], dtype=np.float32)
    cells_lab = cv2.cvtColor(cells, cv2.COLOR_RGB2LAB)[0] * weights
    anchors_lab = cv2.cvtColor(anchors, cv2.COLOR_RGB2LAB)[0] * weights
    distance = ((cells_lab[:, None] - anchors_lab[None]) ** 2).sum(axis=-1)
    distance += np.array([_GREY_HANDICAP if name == "grey" else 0.0 for name, _ in _ANCHORS], dtype=np.float32)
    return distance.argmin(axis=1).astype(np.uint8).reshape(32, 32, 32)
