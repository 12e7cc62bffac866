"""The camera: turns linear light into the bytes of a photograph."""

import cv2
import numpy as np

from pipeline.scenes.canvas import Canvas
from pipeline.scenes.patterns import ramp
from pipeline.scenes.stamp import motion_kernel
from pipeline.scenes.tiles import sample


def dapple(rng: np.random.Generator, canvas: Canvas) -> None:
    """Uneven light over the whole scene: a slope, and often the soft patches of light under trees or by windows."""
    h, w = canvas.height, canvas.width
    u, v = np.meshgrid(np.linspace(-1, 1, w, dtype=np.float32), np.linspace(-1, 1, h, dtype=np.float32))
    slope = rng.normal(0.0, 0.16, 2)
    factor = np.exp(u * float(slope[0]) + v * float(slope[1]))
    if rng.random() < 0.4:
        reach = canvas.tiles.size * rng.uniform(0.1, 0.5)
        offset = rng.uniform(0.0, canvas.tiles.size, 2)
        small = (slice(None, None, 4), slice(None, None, 4))
        field = sample(canvas.tiles.cloud, u[small] * float(reach) + float(offset[0]),
                       v[small] * float(reach) + float(offset[1]))[..., 0]  # fmt: skip
        width = rng.uniform(0.15, 0.8)
        lit = cv2.resize(ramp(field, -width, width), (w, h), interpolation=cv2.INTER_LINEAR)
        depth = float(rng.uniform(0.2, 0.75) * canvas.light.direct.mean())
        factor *= 1.0 - depth + depth * lit
    canvas.image *= factor[..., None]


def expose(rng: np.random.Generator, image: np.ndarray, grain: np.random.Generator | None = None) -> np.ndarray:
    """Photograph linear light, (H, W, 3) float32: lens, exposure, tone, sensor noise, compression; uint8 sRGB.

    `grain` draws the noise instead of `rng`: the frames of a clip share a camera, but not their noise.
    """
    image = _lens(rng, image)
    gains = np.exp(rng.normal(0.0, 0.07, 3)).astype(np.float32)
    level = float(np.exp(rng.normal(np.log(0.18), 0.38))) / max(float(image.mean()), 1e-4)
    image = np.clip(image * (gains * level), 0.0, None)
    knee = float(rng.uniform(0.55, 0.9))  # highlights roll off instead of clipping hard
    over = np.maximum(image - knee, 0.0)
    image = np.minimum(image, knee) + (1.0 - knee) * over / (over + (1.0 - knee))
    image = np.power(image, float(rng.uniform(0.88, 1.12) / 2.3))
    contrast = float(rng.uniform(-0.1, 1.0))
    image = image + contrast * (image - 0.45) * image * (1.0 - image) * 2.0
    image = _desaturate(rng, image)
    image = _noise(rng, image, grain or rng)
    picture = np.clip(image * 255.0 + 0.5, 0.0, 255.0).astype(np.uint8)
    if rng.random() < 0.7:
        quality = int(rng.integers(45, 96))
        ok, encoded = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        assert ok
        picture = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))[..., ::-1]
    return np.ascontiguousarray(picture)


def _lens(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    h, w = image.shape[:2]
    sigma = float(rng.uniform(0.0, 0.65)) * (1.0 if rng.random() < 0.9 else 2.0)
    if sigma > 0.2:
        image = cv2.GaussianBlur(image, (0, 0), sigma)
    if rng.random() < 0.5:  # cameras and scanners sharpen
        image = image + float(rng.uniform(0.3, 1.3)) * (image - cv2.GaussianBlur(image, (0, 0), 1.0))
    if rng.random() < 0.05:
        angle, length = rng.uniform(0.0, np.pi), rng.uniform(2.0, 0.012 * max(h, w) + 3.0)
        image = cv2.filter2D(image, -1, motion_kernel((float(np.cos(angle) * length), float(np.sin(angle) * length))))
    if rng.random() < 0.6:
        x = np.linspace(-1.0, 1.0, w, dtype=np.float32)[None, :]
        y = np.linspace(-1.0, 1.0, h, dtype=np.float32)[:, None]
        image = image * (1.0 - float(rng.uniform(0.05, 0.35)) * 0.5 * (x * x + y * y))[..., None]
    if rng.random() < 0.2:  # veiling glare
        image = image + float(rng.uniform(0.02, 0.12)) * image.mean(axis=(0, 1))
    return np.asarray(image)


def _desaturate(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    keep = 0.0 if rng.random() < 0.06 else float(rng.uniform(0.7, 1.5))
    grey = cv2.transform(image, np.array([[0.299, 0.587, 0.114]], dtype=np.float32))
    return np.asarray(grey[..., None] + (image - grey[..., None]) * keep)


def _noise(rng: np.random.Generator, image: np.ndarray, grains: np.random.Generator) -> np.ndarray:
    """Grain that every channel shares, some of it of its own, stronger in the dark parts of the tone curve."""
    strength = float(rng.gamma(1.5, 0.006))
    h, w = image.shape[:2]
    shared = grains.standard_normal((h, w, 1), dtype=np.float32)
    own = grains.standard_normal((h, w, 3), dtype=np.float32)
    grain = 0.8 * shared + 0.6 * own
    if rng.random() < 0.3:
        grain = cv2.GaussianBlur(grain, (0, 0), 0.7) * 2.0
    return image + grain * (strength * (1.25 - 0.7 * np.clip(image, 0.0, 1.0)))
