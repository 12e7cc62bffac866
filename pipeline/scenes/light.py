"""Light: heights from silhouettes, shading from heights, and the lamp of a scene."""

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Light:
    """A distant lamp: unit direction towards it (x right, y down, z to the viewer), its colour and the sky's."""

    direction: tuple[float, float, float]
    direct: np.ndarray  # (3,) what the lamp gives a surface that faces the viewer
    ambient: np.ndarray  # (3,) what comes from everywhere


def sample_light(rng: np.random.Generator) -> Light:
    """Draw a lamp: from hard sunlight to an overcast sky, from warm to cool."""
    around, height = rng.uniform(np.pi, 2.0 * np.pi), rng.uniform(0.35, 1.2)
    hardness, warmth = rng.beta(2.0, 1.6), rng.normal(0.0, 0.10)
    warm = np.array([1.0 + warmth, 1.0, 1.0 - warmth], dtype=np.float32)
    cool = np.array([1.0 - 0.9 * warmth, 1.0, 1.0 + 0.9 * warmth], dtype=np.float32)
    direct = np.float32(0.2 + 0.65 * hardness)
    side = np.cos(height)
    return Light(
        direction=(float(side * np.cos(around)), float(side * np.sin(around)), float(np.sin(height))),
        direct=direct * warm,
        ambient=(np.float32(1.0) - direct) * cool,
    )


def inflate(alpha: np.ndarray, relief: float) -> np.ndarray:
    """A rounded height over a silhouette, in pixels.

    `alpha` (H, W) float32; with `relief` 1 the height of a ball of the same width, smaller values give a flat top
    with a bevel. Computed at low resolution: a height field has no fine detail of its own.
    """
    h, w = alpha.shape
    shrink = max(1.0, max(h, w) / 64.0)
    size = (max(2, round(w / shrink)), max(2, round(h / shrink)))
    small = cv2.copyMakeBorder(cv2.resize(alpha, size, interpolation=cv2.INTER_AREA), 1, 1, 1, 1, cv2.BORDER_CONSTANT)
    distance = cv2.distanceTransform((small > 0.5).astype(np.uint8), cv2.DIST_L2, 3)
    widest = float(distance.max())
    if widest <= 0.0:
        return np.zeros((h, w), dtype=np.float32)
    t = np.clip(distance / (widest * max(relief, 0.15)), 0.0, 1.0)
    height = cv2.GaussianBlur(np.sqrt(t * (2.0 - t)) * (widest * shrink * relief), (0, 0), 1.2)
    return cv2.resize(height[1:-1, 1:-1], (w, h), interpolation=cv2.INTER_CUBIC)


def shade(height: np.ndarray, light: Light, gloss: float) -> tuple[np.ndarray, np.ndarray]:
    """Lambertian shading of a height field with Blinn's highlight.

    `height` (H, W) float32 in pixels. Returns the factor on the surface's colour, (H, W, 3), where a surface that
    faces the viewer has `ambient + direct`, and the highlight to add, (H, W).
    """
    dx = cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=3, scale=0.125)
    dy = cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=3, scale=0.125)
    lx, ly, lz = light.direction
    norm = 1.0 / np.sqrt(dx * dx + dy * dy + 1.0)
    facing = np.clip((lz - lx * dx - ly * dy) * norm, 0.0, None) * (1.0 / lz)
    openness = 0.55 + 0.45 * norm  # steep places see less of the sky
    factor = openness[..., None] * light.ambient
    factor += np.minimum(facing, 2.2)[..., None] * light.direct
    if gloss < 0.05:
        return factor, np.zeros_like(height)
    half = np.array([lx, ly, lz + 1.0]) / np.sqrt(lx * lx + ly * ly + (lz + 1.0) ** 2)
    mirror = np.clip((float(half[2]) - float(half[0]) * dx - float(half[1]) * dy) * norm, 0.0, 1.0)
    for _ in range(5):  # the 32nd power
        mirror = mirror * mirror
    return factor, mirror * float(gloss * light.direct.mean() * 0.6)
