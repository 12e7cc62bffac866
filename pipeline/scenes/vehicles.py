"""Cars, lorries, buses, boats, aeroplanes, bicycles."""

import numpy as np

from pipeline.scenes.figure import Figure, Piece, joined, patch, piece
from pipeline.scenes.outlines import box, ellipse, polygon, smooth, stroke


def _wheels(at: tuple[float, ...], y: float, radius: float) -> list[Piece]:
    return [piece("wheel", "dark", ellipse(x, y, radius, radius), relief=0.3) for x in at]


def _hubs(at: tuple[float, ...], y: float, radius: float, first: int) -> list[Piece]:
    return [patch("hub", "metal", ellipse(x, y, 0.55 * radius, 0.55 * radius), first + k) for k, x in enumerate(at)]


def car(rng: np.random.Generator) -> Figure:
    """A car from the side or from the front."""
    if rng.random() < 0.3:
        return _car_front(rng)
    roof, bonnet, rear = rng.uniform(0.45, 0.7), rng.uniform(0.0, 0.12), rng.uniform(0.1, 0.55)
    a, b = rng.uniform(-0.5, -0.25), rng.uniform(0.15, 0.4)
    shell = [(-1.0, 0.3), (-1.02, 0.0), (-0.9 + 0.1 * rear, -0.1 - 0.1 * rear), (a - 0.3 + rear * 0.1, -0.12),
             (a, -roof), (b, -roof), (b + 0.35, -0.12 + bonnet), (0.92, -0.05 + bonnet), (1.02, 0.15),
             (1.0, 0.3)]  # fmt: skip
    ring = np.concatenate([smooth(shell[1:-1])[:-6], np.array([shell[-1], shell[0]])])
    wheels, radius = (-0.6, 0.62), 0.21
    pieces = [piece("body", "paint", ring, relief=0.5)]
    y0, y1, mid = -roof * 0.87, -0.14, 0.5 * (a + b)
    pieces.append(patch("window", "glass", polygon((a, y0), (mid - 0.03, y0), (mid - 0.03, y1), (a - 0.2, y1)), 0))
    front = polygon((mid + 0.03, y0), (b, y0), (b + 0.25, y1), (mid + 0.03, y1))
    pieces.append(patch("window", "glass", front, 0))
    pieces.append(patch("light", "light", ellipse(0.95, 0.06 + bonnet, 0.07, 0.05), 0))
    if rng.random() < 0.5:
        pieces.append(patch("door", "paint", box(mid - 0.02, -0.12, b + 0.1, 0.24, 0.04), 0))
    first = len(pieces)
    pieces += _wheels(wheels, 0.3, radius) + _hubs(wheels, 0.3, radius, first)
    return joined("car", pieces, 1.5)


def _car_front(rng: np.random.Generator) -> Figure:
    w = rng.uniform(0.75, 0.95)
    pieces = _wheels((-0.65 * w, 0.65 * w), 0.62, 0.16)
    body = smooth([(-w, 0.6), (-w, 0.1), (-0.75 * w, -0.1), (-0.6 * w, -0.6), (0.6 * w, -0.6), (0.75 * w, -0.1),
                   (w, 0.1), (w, 0.6), (0.0, 0.66)])  # fmt: skip
    index = len(pieces)
    pieces.append(piece("body", "paint", body, relief=0.6))
    shield = polygon((-0.66 * w, -0.08), (-0.52 * w, -0.5), (0.52 * w, -0.5), (0.66 * w, -0.08))
    pieces.append(patch("windscreen", "glass", shield, index))
    for side in (-1.0, 1.0):
        pieces.append(patch("light", "light", ellipse(0.68 * w * side, 0.2, 0.15, 0.09), index))
    pieces.append(patch("grille", "dark", box(-0.4 * w, 0.14, 0.4 * w, 0.3, 0.04), index))
    pieces.append(patch("plate", "snow", box(-0.2 * w, 0.4, 0.2 * w, 0.5), index))
    return joined("car", pieces, 1.5)


def lorry(rng: np.random.Generator) -> Figure:
    """A lorry with a cab and a load."""
    tall, cab = rng.uniform(0.5, 0.95), rng.uniform(0.35, 0.6)
    pieces = [
        piece("bed", "dark", box(-1.2, 0.25, 1.1, 0.4), relief=0.0),
        piece("load", "paint/2", box(-1.2, 0.25 - 1.1 * tall, 0.5, 0.28, 0.02), relief=0.15),
        piece("cab", "paint", smooth([(0.56, 0.4), (0.56, -cab), (0.9, -cab), (1.12, -0.05), (1.15, 0.4)], 5)),
    ]
    pane = polygon((0.66, -cab * 0.85), (0.88, -cab * 0.85), (1.05, -0.02), (0.66, -0.02))
    pieces.append(patch("window", "glass", pane, 2))
    if rng.random() < 0.5:
        pieces.append(patch("sign", "any", box(-1.0, 0.1 - 0.9 * tall, 0.1, 0.1 - 0.4 * tall), 1))
    at = (-0.9, -0.5, 0.85)[int(rng.integers(0, 2)) :]
    first = len(pieces)
    pieces += _wheels(at, 0.42, 0.19) + _hubs(at, 0.42, 0.19, first)
    return joined("lorry", pieces, 2.8)


def bus(rng: np.random.Generator) -> Figure:
    """A bus with a row of windows."""
    pieces = [piece("body", "paint", box(-1.5, -0.7, 1.5, 0.45, 0.12), relief=0.25)]
    num = int(rng.integers(4, 8))
    for k in range(num):
        x = -1.4 + 2.4 * k / num
        pieces.append(patch("window", "glass", box(x, -0.5, x + 2.2 / num - 0.06, -0.08, 0.03), 0))
    pieces.append(patch("door", "glass/2", box(1.05, -0.5, 1.38, 0.42, 0.03), 0))
    if rng.random() < 0.6:
        pieces.append(patch("band", "paint/2", box(-1.6, 0.05, 1.0, 0.2), 0))
    first = len(pieces)
    pieces += _wheels((-0.9, 0.75), 0.45, 0.2) + _hubs((-0.9, 0.75), 0.45, 0.2, first)
    return joined("bus", pieces, 3.0)


def boat(rng: np.random.Generator) -> Figure:
    """A sailing boat or a small ship."""
    hull = smooth([(-1.0, 0.3), (1.15, 0.22), (0.75, 0.75), (-0.75, 0.75)], 4)
    pieces: list[Piece] = []
    if rng.random() < 0.6:
        pieces.append(piece("mast", "wood", stroke([(0.0, 0.4), (0.0, -1.2)], 0.07, 0.05)))
        pieces.append(piece("sail", "cloth", polygon((0.06, -1.1), (0.9, 0.15), (0.06, 0.15)), relief=0.4))
        pieces.append(piece("sail", "cloth/2", polygon((-0.06, -0.9), (-0.06, 0.15), (-0.7, 0.15)), relief=0.4))
    else:
        pieces.append(piece("cabin", "paint/2", box(-0.6, -0.25, 0.35, 0.4, 0.04), relief=0.2))
        for x in (-0.45, -0.1):
            pieces.append(patch("window", "glass", box(x, -0.12, x + 0.22, 0.1, 0.04), 0))
        pieces.append(piece("funnel", "paint", box(-0.3, -0.7, -0.05, -0.22), relief=0.9))
    pieces.append(piece("hull", "paint", hull, relief=0.7))
    pieces.append(patch("band", "paint/2", box(-1.2, 0.5, 1.2, 0.58), len(pieces) - 1))
    return joined("boat", pieces, 3.0)


def plane(rng: np.random.Generator) -> Figure:
    """An aeroplane in flight."""
    tilt = rng.uniform(0.2, 0.6)
    far_wing = polygon((0.2, -0.05), (-0.1, -0.05), (-0.5, -tilt - 0.2), (-0.3, -tilt - 0.2))
    pieces = [
        piece("wing", "paint", far_wing, tone=0.8),
        piece("fin", "paint/2", polygon((-0.85, -0.08), (-1.15, -0.5), (-0.95, -0.5), (-0.6, -0.1)), relief=0.1),
        piece("body", "paint", smooth([(-1.1, -0.1), (0.8, -0.14), (1.1, 0.0), (0.8, 0.13), (-0.6, 0.1)]), relief=1.0),
    ]
    for x in np.linspace(-0.5, 0.6, 5):
        pieces.append(patch("window", "glass", ellipse(float(x), -0.03, 0.05, 0.035), 2))
    pieces.append(piece("wing", "paint", polygon((0.3, 0.05), (-0.1, 0.05), (-0.6, tilt + 0.3), (-0.35, tilt + 0.3))))
    return joined("aeroplane", pieces, 2.5)


def bicycle(rng: np.random.Generator) -> Figure:
    """A bicycle: two thin wheels and a frame."""
    pieces: list[Piece] = []
    for x in (-0.65, 0.65):
        pieces.append(piece("wheel", "dark", ellipse(x, 0.4, 0.5, 0.5), ellipse(x, 0.4, 0.43, 0.43)))
    bars = (((-0.65, 0.4), (-0.2, -0.3)), ((-0.2, -0.3), (0.5, -0.3)), ((0.5, -0.45), (0.65, 0.4)),
            ((-0.05, 0.4), (0.5, -0.3)), ((-0.05, 0.4), (-0.25, -0.5)), ((-0.65, 0.4), (-0.05, 0.4)))  # fmt: skip
    for start, end in bars:
        pieces.append(piece("bar", "paint", stroke([start, end], 0.08, 0.08)))
    pieces.append(piece("saddle", "dark", ellipse(-0.27, -0.52, 0.2, 0.07)))
    pieces.append(piece("handlebar", "dark", stroke([(0.4, -0.55), (0.52, -0.48), (0.68, -0.6)], 0.08, 0.08)))
    return joined("bicycle", pieces, 1.1)
