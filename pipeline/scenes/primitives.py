"""Plain shapes: blobs, polygons, stars, rings, strokes, boxes, balls."""

import numpy as np

from pipeline.scenes import outlines
from pipeline.scenes.figure import Figure, Piece, joined, patch, piece


def simple_shape(rng: np.random.Generator) -> Figure:
    """One outline, sometimes with a hole, marks on it or a rim."""
    name = str(rng.choice(list(_OUTLINES)))
    ring = _OUTLINES[name](rng) * (float(np.exp(rng.normal(0.0, 0.25))), 1.0)
    ring = outlines.turn(ring, float(rng.normal(0.0, 0.5)))
    if rng.random() < 0.35:
        ring = outlines.roughen(rng, ring, float(rng.uniform(0.01, 0.06)))
    relief = float(rng.choice((0.0, 0.3, 0.8, 1.0)))
    if name in ("disc", "square", "polygon", "gear") and rng.random() < 0.3:
        hole = float(rng.uniform(0.35, 0.75))
        noun = "ring" if name == "disc" else "frame" if name == "square" else name
        return joined(noun, [piece(noun, "any", ring, ring * hole, relief=relief)], 1.0)
    pieces = [piece(name, "any", ring, relief=relief)]
    return joined(name, pieces + marks(rng, ring, 0), 1.0)


def marks(rng: np.random.Generator, ring: np.ndarray, parent: int) -> list[Piece]:
    """Marks on a surface: none, spots, a band, a core, or a nested copy of its outline."""
    low, high = ring.min(axis=0), ring.max(axis=0)
    centre, half = 0.5 * (low + high), 0.5 * (high - low)
    choice = int(rng.choice(5, p=(0.45, 0.2, 0.15, 0.1, 0.1)))
    if choice == 1:
        spots = []
        for _ in range(int(rng.integers(1, 6))):
            x, y = centre + rng.uniform(-0.7, 0.7, 2) * half
            radius = float(half.min() * rng.uniform(0.12, 0.35))
            spots.append(patch("spot", "any/2", outlines.blob(rng, 0.3, 32) * radius + (x, y), parent))
        return spots
    if choice == 2:
        at, width = rng.uniform(-0.5, 0.3), rng.uniform(0.15, 0.5)
        y0, y1 = centre[1] + at * half[1], centre[1] + (at + width) * half[1]
        band = outlines.box(low[0] - half[0], y0, high[0] + half[0], y1)
        return [patch("band", "any/2", outlines.turn(band, float(rng.normal(0.0, 0.3)), tuple(centre)), parent)]
    if choice == 3:
        core = outlines.ellipse(*centre, *(half * rng.uniform(0.2, 0.5)))
        return [patch("core", "any/2", core, parent, relief=0.6)]
    if choice == 4:
        return [patch("face", "any/2", (ring - centre) * rng.uniform(0.5, 0.85) + centre, parent)]
    return []


def strand(rng: np.random.Generator) -> Figure:
    """A long thin curve: rope, ribbon, stick or branch."""
    name = str(rng.choice(("rope", "ribbon", "stick", "branch")))
    num = 2 if name == "stick" else int(rng.integers(3, 7))
    x = np.linspace(-1.0, 1.0, num)
    y = rng.normal(0.0, 0.0 if name == "stick" else 0.45, num)
    width = float(rng.uniform(0.05, 0.2))
    path = outlines.turn(np.column_stack([x, y]), float(rng.uniform(0.0, np.pi)))
    surface = {"rope": "cloth", "ribbon": "cloth", "stick": "wood", "branch": "bark"}[name]
    pieces = [piece(name, surface, outlines.stroke(path, width, width * rng.uniform(0.3, 1.0)))]
    if name == "branch":
        for _ in range(int(rng.integers(1, 5))):
            start = path[int(rng.integers(0, num - 1))]
            tip = start + rng.normal(0.0, 0.45, 2)
            mid = 0.5 * (start + tip) + rng.normal(0.0, 0.06, 2)
            pieces.append(piece("twig", surface, outlines.stroke(np.array([start, mid, tip]), 0.5 * width, 0.02)))
            if rng.random() < 0.6:
                leaf = outlines.turn(leaf_outline(), float(rng.uniform(0.0, 6.3))) * 0.25
                pieces.append(piece("leaf", "leaf", leaf + tip, relief=0.3))
    return joined(name, pieces, 1.0)


def ball(rng: np.random.Generator) -> Figure:
    """A round ball, plain or with marks."""
    ring = outlines.ellipse(0.0, 0.0, 1.0, 1.0, num=60)
    pieces = [piece("ball", str(rng.choice(("any", "paint", "fruit"))), ring, relief=1.0)]
    return joined("ball", pieces + marks(rng, ring, 0), 0.6)


def crate(rng: np.random.Generator) -> Figure:
    """A box seen from above one corner: three faces of different brightness."""
    w, d, h = rng.uniform(0.5, 1.0), rng.uniform(0.3, 0.9), rng.uniform(0.3, 1.3)
    rise = rng.uniform(0.2, 0.55)
    left, right, top = np.array([-w, -rise * w]), np.array([d, -rise * d]), np.array([0.0, -h])
    zero = np.zeros(2)
    tones = rng.permutation((0.55, 0.85, 1.15))
    surface = str(rng.choice(("wood", "paint", "any", "metal")))
    faces = (
        ("side", outlines.polygon(*map(tuple, (zero, left, left + top, top)))),
        ("front", outlines.polygon(*map(tuple, (zero, right, right + top, top)))),
        ("top", outlines.polygon(*map(tuple, (top, left + top, left + right + top, right + top)))),
    )
    pieces = [piece(n, surface, r, relief=0.0, tone=float(t)) for (n, r), t in zip(faces, tones, strict=True)]
    if rng.random() < 0.4:
        middle = 0.5 * (right + top)
        ring = (faces[1][1] - middle) * rng.uniform(0.4, 0.75) + middle
        pieces.append(patch("label", "any/2", ring, 1))
    return joined("box", pieces, 0.8)


def leaf_outline() -> np.ndarray:
    """A pointed leaf from (0, 0) to (0, -2)."""
    y = np.linspace(0.0, 1.0, 14)
    side = np.column_stack([0.45 * np.sin(np.pi * y**0.8), -2.0 * y])
    return np.concatenate([side, (side * (-1.0, 1.0))[-2:0:-1]])


def pebble(rng: np.random.Generator) -> Figure:
    """A smooth stone or a rock."""
    rough = float(rng.random())
    noun = "rock" if rough > 0.4 else "stone"
    ring = outlines.blob(rng, 0.7 * rough) * (float(rng.uniform(1.0, 1.9)), 1.0)
    ring[:, 1] = np.minimum(ring[:, 1], rng.uniform(0.4, 0.9))
    ring = outlines.roughen(rng, ring, 0.05 * rough)
    return joined(noun, [piece(noun, "rock", ring, relief=float(rng.uniform(0.5, 1.0)))], 0.7)


def _crescent(rng: np.random.Generator) -> np.ndarray:
    t = np.linspace(-0.75 * np.pi, 0.75 * np.pi, 30)
    outer = np.column_stack([np.cos(t), np.sin(t)])
    inner = outer[::-1] * (rng.uniform(0.3, 0.6), 1.0) - (0.25, 0.0)
    return np.concatenate([outer, inner[1:-1]])


def _heart(rng: np.random.Generator) -> np.ndarray:
    t = np.linspace(0.0, 2.0 * np.pi, 50, endpoint=False)
    y = 13.0 * np.cos(t) - 5.0 * np.cos(2.0 * t) - 2.0 * np.cos(3.0 * t) - np.cos(4.0 * t)
    return np.column_stack([16.0 * np.sin(t) ** 3, -y]) / 16.0


def _cross(rng: np.random.Generator) -> np.ndarray:
    w = rng.uniform(0.2, 0.45)
    return outlines.polygon((-w, -1), (w, -1), (w, -w), (1, -w), (1, w), (w, w), (w, 1), (-w, 1), (-w, w), (-1, w),
                            (-1, -w), (-w, -w))  # fmt: skip


def _gear(rng: np.random.Generator) -> np.ndarray:
    teeth = int(rng.integers(7, 14))
    t = np.linspace(0.0, 2.0 * np.pi, teeth * 6, endpoint=False)
    radius = np.where(np.sin(teeth * t) > 0, 1.0, rng.uniform(0.75, 0.88))
    return np.column_stack([np.cos(t), np.sin(t)]) * radius[:, None]


def _symmetric(rng: np.random.Generator) -> np.ndarray:
    y = np.linspace(-1.0, 1.0, 9)
    half = rng.uniform(0.12, 0.9, 9) * np.sqrt(1.02 - y**2)
    side = np.column_stack([half, y])
    return outlines.smooth(np.concatenate([side, (side * (-1.0, 1.0))[::-1]]))


_OUTLINES = {
    "disc": lambda rng: outlines.ellipse(0.0, 0.0, 1.0, 1.0),
    "blob": lambda rng: outlines.blob(rng, float(rng.random())),
    "square": lambda rng: outlines.box(-1.0, -1.0, 1.0, 1.0, float(rng.choice((0.0, 0.3)))),
    "triangle": lambda rng: outlines.regular(3, float(rng.uniform(0.0, 6.3))),
    "polygon": lambda rng: outlines.regular(int(rng.integers(5, 9))) * (1.0, float(rng.uniform(0.6, 1.0))),
    "star": lambda rng: outlines.regular(int(rng.integers(4, 9)), -0.5 * np.pi, float(rng.uniform(0.35, 0.7))),
    "crescent": _crescent,
    "heart": _heart,
    "cross": _cross,
    "gear": _gear,
    "vase": _symmetric,
    "leaf": lambda rng: outlines.turn(outlines.shift(leaf_outline(), 0.0, 1.0), float(rng.uniform(0.0, 6.3))),
}
