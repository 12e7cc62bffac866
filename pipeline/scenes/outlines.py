"""Outlines: closed rings of points that silhouettes are made of. x grows right, y grows down."""

from collections.abc import Sequence

import numpy as np

Ring = np.ndarray  # (N, 2) float64


def ellipse(cx: float, cy: float, rx: float, ry: float, angle: float = 0.0, num: int = 40) -> Ring:
    """An ellipse turned by `angle` radians."""
    t = np.linspace(0.0, 2.0 * np.pi, num, endpoint=False)
    return shift(turn(np.column_stack([rx * np.cos(t), ry * np.sin(t)]), angle), cx, cy)


def box(x0: float, y0: float, x1: float, y1: float, corner: float = 0.0) -> Ring:
    """A rectangle with rounded corners of radius `corner`."""
    radius = min(corner, 0.5 * abs(x1 - x0), 0.5 * abs(y1 - y0))
    if radius <= 0.0:
        return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], dtype=np.float64)
    t = np.linspace(0.0, 0.5 * np.pi, 6)
    arc = radius * np.column_stack([np.cos(t), np.sin(t)])
    corners = [(x1 - radius, y1 - radius), (x0 + radius, y1 - radius), (x0 + radius, y0 + radius),
               (x1 - radius, y0 + radius)]  # fmt: skip
    return np.concatenate([turn(arc, 0.5 * np.pi * k) + corner_at for k, corner_at in enumerate(corners)])


def polygon(*points: tuple[float, float]) -> Ring:
    """The ring through the given points."""
    return np.array(points, dtype=np.float64)


def smooth(points: Sequence[tuple[float, float]] | Ring, steps: int = 6) -> Ring:
    """A closed Catmull-Rom curve through `points`."""
    p = np.asarray(points, dtype=np.float64)
    before, after, last = np.roll(p, 1, axis=0), np.roll(p, -1, axis=0), np.roll(p, -2, axis=0)
    return _catmull_rom(before, p, after, last, steps)


def curve(points: Sequence[tuple[float, float]] | Ring, steps: int = 8) -> np.ndarray:
    """An open Catmull-Rom curve through `points`, (N, 2)."""
    p = np.asarray(points, dtype=np.float64)
    padded = np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
    body = _catmull_rom(padded[:-3], padded[1:-2], padded[2:-1], padded[3:], steps)
    return np.concatenate([body, p[-1:]])


def stroke(points: Sequence[tuple[float, float]] | Ring, start: float, end: float, bulge: float = 0.0) -> Ring:
    """The outline of a curved stroke through `points`, `start` wide at one end and `end` at the other."""
    path = curve(points)
    t = np.linspace(0.0, 1.0, len(path))
    half = 0.5 * (start + (end - start) * t + bulge * np.sin(np.pi * t))
    direction = np.gradient(path, axis=0)
    direction /= np.maximum(np.hypot(direction[:, :1], direction[:, 1:]), 1e-9)
    normal = np.column_stack([-direction[:, 1], direction[:, 0]]) * half[:, None]
    caps = []
    for at, toward, radius in ((path[-1], direction[-1], half[-1]), (path[0], -direction[0], half[0])):
        a = np.linspace(0.5 * np.pi, -0.5 * np.pi, 6)[1:-1]
        side = np.array([-toward[1], toward[0]])
        caps.append(at + radius * (np.cos(a)[:, None] * toward + np.sin(a)[:, None] * side))
    return np.concatenate([path + normal, caps[0], (path - normal)[::-1], caps[1]])


def blob(rng: np.random.Generator, roughness: float, num: int = 72) -> Ring:
    """A random closed outline of radius about 1 from Fourier terms; `roughness` 0 (round) to 1 (jagged)."""
    t = np.linspace(0.0, 2.0 * np.pi, num, endpoint=False)
    k = np.arange(1, 24)
    decay = 2.3 - 1.1 * roughness
    amplitude = rng.normal(0.0, 0.1 + 0.16 * roughness, len(k)) * k**-decay * np.where(k == 1, 0.5, 1.6)
    phase = rng.uniform(0.0, 2.0 * np.pi, len(k))
    radius = np.exp((amplitude[:, None] * np.cos(k[:, None] * t + phase[:, None])).sum(axis=0))
    return np.column_stack([np.cos(t), np.sin(t)]) * radius[:, None]


def regular(num: int, angle: float = 0.0, inner: float = 1.0) -> Ring:
    """A regular polygon of radius 1; with `inner` < 1 a star whose dents reach that radius."""
    count = num if inner >= 1.0 else 2 * num
    t = angle + 2.0 * np.pi * np.arange(count) / count
    radius = np.where(np.arange(count) % 2 == 1, inner, 1.0) if inner < 1.0 else np.ones(count)
    return np.column_stack([np.cos(t), np.sin(t)]) * radius[:, None]


def mirror(ring: Ring) -> Ring:
    """The ring reflected in the vertical axis."""
    return ring[::-1] * (-1.0, 1.0)


def shift(points: np.ndarray, dx: float, dy: float) -> np.ndarray:
    """Points (..., 2) moved by (dx, dy)."""
    return points + np.array([dx, dy])


def turn(points: np.ndarray, angle: float, about: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """Points (N, 2) turned by `angle` radians about a point."""
    cos, sin = np.cos(angle), np.sin(angle)
    return (points - about) @ np.array([[cos, sin], [-sin, cos]]) + np.array(about)


def roughen(rng: np.random.Generator, ring: Ring, amount: float, num: int = 120) -> Ring:
    """The ring resampled to `num` points and displaced by 1/f noise of deviation `amount`."""
    closed = np.concatenate([ring, ring[:1]])
    length = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(closed, axis=0).T))])
    at = np.linspace(0.0, length[-1], num, endpoint=False)
    even = np.column_stack([np.interp(at, length, closed[:, 0]), np.interp(at, length, closed[:, 1])])
    return even + np.column_stack([ridge(rng, num, 0.9), ridge(rng, num, 0.9)]) * amount


def ridge(rng: np.random.Generator, num: int, exponent: float) -> np.ndarray:
    """Periodic 1-D noise with amplitude f^-exponent, (num,), mean 0, deviation 1."""
    frequency = np.maximum(np.fft.rfftfreq(num), 1.0 / num)
    spectrum = np.fft.rfft(rng.standard_normal(num)) * frequency**-exponent
    spectrum[0] = 0.0
    line = np.fft.irfft(spectrum, n=num)
    return np.asarray(line / max(float(line.std()), 1e-9))


def _catmull_rom(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray, steps: int) -> np.ndarray:
    t = (np.arange(steps) / steps)[None, :, None]
    a, b, c, d = (p[:, None, :] for p in (a, b, c, d))
    points = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    return np.asarray(points.reshape(-1, 2))
