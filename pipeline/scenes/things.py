"""Buildings, street furniture, furniture and household things."""

from itertools import pairwise

import numpy as np

from pipeline.scenes.figure import Figure, Piece, joined, patch, piece
from pipeline.scenes.outlines import box, ellipse, polygon, smooth, stroke


def _windows(
    rng: np.random.Generator, x0: float, x1: float, y0: float, y1: float, columns: int, rows: int, parent: int
) -> list[Piece]:
    """A grid of windows on the piece `parent`."""
    fill_x, fill_y = rng.uniform(0.4, 0.7), rng.uniform(0.45, 0.75)
    step_x, step_y = (x1 - x0) / columns, (y1 - y0) / rows
    kinds = ("glass", "glass/2")
    panes = []
    for row in range(rows):
        for column in range(columns):
            x, y = x0 + (column + 0.5) * step_x, y0 + (row + 0.5) * step_y
            w, h = 0.5 * fill_x * step_x, 0.5 * fill_y * step_y
            kind = kinds[int(rng.random() < 0.25)]
            panes.append(patch("window", kind, box(x - w, y - h, x + w, y + h), parent, relief=0.0))
    return panes


def house(rng: np.random.Generator) -> Figure:
    """A house with a roof, a door and windows."""
    w, h = rng.uniform(0.8, 1.4), rng.uniform(0.7, 1.2)
    pitch, over = rng.uniform(0.3, 0.8), 0.12
    pieces: list[Piece] = []
    if rng.random() < 0.5:
        x = rng.uniform(-0.6, 0.6) * w
        pieces.append(piece("chimney", "wall/2", box(x - 0.1, 1.0 - h - pitch, x + 0.1, 1.05 - h), relief=0.1))
    wall = len(pieces)
    pieces.append(piece("wall", "wall", box(-w, 1.0 - h, w, 1.0), relief=0.0))
    peak = rng.uniform(0.0, 0.9) * w
    roof = polygon((-w - over, 1.0 - h), (-peak, 1.0 - h - pitch), (peak, 1.0 - h - pitch), (w + over, 1.0 - h))
    pieces.append(piece("roof", "roof", roof, relief=0.1))
    columns, rows = int(rng.integers(2, 5)), int(rng.integers(1, 3))
    pieces += _windows(rng, -w, w, 1.02 - h, 1.0 - 0.35 * h, columns, rows, wall)
    x = rng.uniform(-0.5, 0.5) * w
    pieces.append(patch("door", str(rng.choice(("wood", "paint"))), box(x - 0.14, 1.0 - 0.42 * h, x + 0.14, 1.0), wall))
    return joined("house", pieces, float(rng.uniform(4.0, 8.0)))


def tower(rng: np.random.Generator) -> Figure:
    """A tall building with a grid of windows."""
    w = rng.uniform(0.3, 0.8)
    pieces = [piece("wall", "wall", box(-w, -1.0, w, 1.0), relief=0.0)]
    if rng.random() < 0.5:
        turn = w * rng.uniform(0.25, 0.7)
        side = polygon((w, -1.0), (w + turn, -1.0 + 0.25 * turn), (w + turn, 1.0 - 0.1 * turn), (w, 1.0))
        pieces.append(piece("side", "wall", side, relief=0.0, tone=float(rng.uniform(0.45, 0.75))))
    if rng.random() < 0.5:
        pieces.append(piece("roof", "roof", box(-w - 0.05, -1.06, w + 0.05, -0.97), relief=0.2))
    pieces += _windows(rng, -w, w, -0.95, 0.7, int(rng.integers(2, 6)), int(rng.integers(3, 8)), 0)
    pieces.append(patch("door", "glass/2", box(-0.25 * w, 0.75, 0.25 * w, 1.0), 0, relief=0.0))
    return joined("building", pieces, float(rng.uniform(7.0, 20.0)))


def fence(rng: np.random.Generator) -> Figure:
    """Posts and rails one can look through."""
    num, wide = int(rng.integers(4, 9)), rng.uniform(1.5, 4.0)
    surface = str(rng.choice(("wood", "metal", "paint")))
    pieces = [piece("rail", surface, box(-wide, y, wide, y + 0.14), relief=0.4) for y in (-0.4, 0.3)]
    for x in np.linspace(-wide, wide, num):
        pieces.append(piece("post", surface, box(float(x) - 0.09, -0.9, float(x) + 0.09, 1.0), relief=0.4))
    return joined("fence", pieces, 1.1)


def street_lamp(rng: np.random.Generator) -> Figure:
    """A lamp on a tall post."""
    reach = rng.uniform(-0.4, 0.4)
    return joined("lamp post", [
        piece("post", "metal", stroke([(0.0, 1.0), (0.0, -0.6), (0.3 * reach, -0.95), (reach, -1.0)], 0.08, 0.05)),
        piece("lamp", "light", smooth([(reach - 0.12, -0.9), (reach - 0.07, -1.07), (reach + 0.07, -1.07),
                                       (reach + 0.12, -0.9)]), relief=0.9),
    ], 4.5)  # fmt: skip


def sign(rng: np.random.Generator) -> Figure:
    """A sign on a post, with something painted on it."""
    num = int(rng.choice((3, 4, 8, 40)))
    t = 2.0 * np.pi * (np.arange(num) + (0.5 if num < 40 else 0.0)) / num + (np.pi / 6.0 if num == 3 else 0.0)
    board = np.column_stack([np.cos(t), np.sin(t)]) * 0.45 + (0.0, -0.6)
    pieces = [
        piece("post", "metal", box(-0.05, -0.6, 0.05, 1.0), relief=0.8),
        piece("board", "paint", board, relief=0.05),
    ]
    inner = (board - (0.0, -0.6)) * rng.uniform(0.4, 0.8) + (0.0, -0.6)
    pieces.append(patch("symbol", "paint/2", inner if rng.random() < 0.6 else box(-0.3, -0.68, 0.3, -0.52), 1, 0.0))
    return joined("sign", pieces, 2.3)


def chair(rng: np.random.Generator) -> Figure:
    """A chair seen slightly from the side."""
    surface, seat = str(rng.choice(("wood", "metal", "paint"))), rng.uniform(0.1, 0.3)
    legs = ((-0.45, 0.9), (0.5, 0.9), (-0.3, 1.0), (0.65, 1.0))
    pieces = [piece("leg", surface, stroke([(x, seat), (x * 1.08, y)], 0.1, 0.08)) for x, y in legs]
    slope = rng.uniform(0.02, 0.2)
    back = polygon((-0.5 - slope, -1.0), (-0.36 - slope, -1.02), (-0.3, seat), (-0.46, seat))
    if rng.random() < 0.5:
        back = smooth([(-0.5, seat), (-0.55 - slope, -0.9), (0.3 - slope, -1.0), (0.38, seat)], 5)
    pieces.append(piece("back", "cloth", back, relief=0.5))
    cushion = polygon((-0.5, seat), (0.5, seat - 0.05), (0.72, seat + 0.12), (-0.35, seat + 0.17))
    pieces.append(piece("seat", "cloth", cushion, relief=0.4))
    return joined("chair", pieces, 0.9)


def table(rng: np.random.Generator) -> Figure:
    """A table with four legs."""
    w, deep = rng.uniform(0.9, 1.6), rng.uniform(0.1, 0.3)
    pieces = []
    for x, y in ((-0.8 * w, 0.85), (0.8 * w, 0.85), (-0.95 * w, 1.0), (0.95 * w, 1.0)):
        pieces.append(piece("leg", "wood", stroke([(x, 0.0), (x, y)], 0.12, 0.09), tone=0.8 if y < 1.0 else 1.0))
    pieces.append(piece("edge", "wood", box(-1.05 * w, 0.0, 1.05 * w, 0.1), relief=0.1, tone=0.7))
    top = polygon((-0.9 * w, -deep), (0.9 * w, -deep), (1.05 * w, 0.02), (-1.05 * w, 0.02))
    pieces.append(piece("top", "wood", top, relief=0.0, tone=1.15))
    return joined("table", pieces, 0.8)


def lamp(rng: np.random.Generator) -> Figure:
    """A table lamp."""
    top = rng.uniform(0.2, 0.45)
    return joined("lamp", [
        piece("foot", "metal", ellipse(0.0, 0.95, 0.4, 0.1), relief=0.6),
        piece("stand", "metal", stroke([(0.0, 0.95), (rng.normal(0.0, 0.05), 0.3), (0.0, -0.2)], 0.12, 0.08)),
        piece("shade", str(rng.choice(("cloth", "light"))),
              polygon((-0.7, 0.0), (-top, -0.8), (top, -0.8), (0.7, 0.0)), relief=0.9),
    ], 0.7)  # fmt: skip


def bottle(rng: np.random.Generator) -> Figure:
    """A bottle or jar with a cap and a label."""
    w, shoulder, neck = rng.uniform(0.22, 0.5), rng.uniform(-0.4, 0.1), rng.uniform(0.08, 0.2)
    body = smooth([(-w, 0.9), (-w, shoulder), (-neck, shoulder - 0.3), (-neck, -0.85), (neck, -0.85),
                   (neck, shoulder - 0.3), (w, shoulder), (w, 0.9), (0.0, 1.0)], 5)  # fmt: skip
    pieces = [
        piece("body", str(rng.choice(("glass", "paint", "any"))), body, relief=1.0),
        piece("cap", "paint/2", box(-neck * 1.2, -1.0, neck * 1.2, -0.78, 0.04), relief=0.9),
    ]
    if rng.random() < 0.7:
        pieces.append(patch("label", "any/2", box(-1.0, shoulder + 0.2, 1.0, 0.75), 0, relief=0.6))
    return joined("bottle" if neck < 0.6 * w else "jar", pieces, 0.4)


def cup(rng: np.random.Generator) -> Figure:
    """A cup, bowl or pot with an open top."""
    top, foot, deep = rng.uniform(0.5, 1.0), rng.uniform(0.3, 0.6), rng.uniform(0.1, 0.25)
    pieces: list[Piece] = []
    if rng.random() < 0.6:
        pieces.append(piece("handle", "paint", ellipse(top, 0.1, 0.35, 0.42), ellipse(top, 0.1, 0.22, 0.28)))
    body = np.concatenate([ellipse(0.0, -0.6, top, deep, num=24)[12:], np.array([[top, -0.6]]),
                           ellipse(0.0, 0.85, foot, 0.15, num=24)[:13]])  # fmt: skip
    index = len(pieces)
    pieces.append(piece("body", str(rng.choice(("paint", "any"))), body, relief=0.9))
    pieces.append(piece("opening", "dark", ellipse(0.0, -0.6, top * 0.94, deep * 0.9), relief=0.0))
    if rng.random() < 0.5:
        pieces.append(patch("band", "any/2", box(-1.2, -0.1, 1.2, rng.uniform(0.1, 0.4)), index))
    return joined("cup" if index else "bowl", pieces, 0.25)


def can(rng: np.random.Generator) -> Figure:
    """A cylinder with a lid and a printed side."""
    w, deep = rng.uniform(0.45, 0.8), rng.uniform(0.12, 0.25)
    side = np.concatenate([ellipse(0.0, 0.8, w, deep, num=24)[:13], np.array([[-w, -0.8], [w, -0.8]])])
    pieces = [piece("side", "any", side, relief=1.0)]
    pieces.append(patch("label", "any/2", box(-1.0, -0.35, 1.0, rng.uniform(0.2, 0.6)), 0, relief=1.0))
    pieces.append(piece("lid", "metal", ellipse(0.0, -0.8, w, deep), relief=0.05))
    return joined("can", pieces, 0.3)


def book(rng: np.random.Generator) -> Figure:
    """A closed book lying or standing at an angle."""
    w, thick, slant = rng.uniform(0.7, 1.2), rng.uniform(0.08, 0.25), rng.uniform(-0.4, 0.4)
    cover = polygon((-w, -0.7), (w, -0.7 + slant), (w, 0.7 + slant), (-w, 0.7))
    pages = polygon((-w, 0.7), (w, 0.7 + slant), (w - 0.05, 0.7 + slant + thick), (-w + 0.05, 0.7 + thick))
    pieces = [piece("pages", "snow", pages, relief=0.0, tone=0.85), piece("cover", "any", cover, relief=0.05)]
    inner = (cover - cover.mean(axis=0)) * (0.7, rng.uniform(0.2, 0.7)) + cover.mean(axis=0)
    pieces.append(patch("title", "any/2", inner, 1, relief=0.0))
    return joined("book", pieces, 0.3)


def picture(rng: np.random.Generator) -> Figure:
    """A framed picture, window or clock for a wall."""
    w = rng.uniform(0.6, 1.5)
    pieces = [piece("frame", str(rng.choice(("wood", "metal", "paint"))), box(-w, -1.0, w, 1.0), relief=0.2)]
    if rng.random() < 0.4:
        for x in (-1.0, 0.05):
            for y in (-0.88, 0.05):
                pane = box(x * 0.9 * w, y, (x + 0.95) * 0.9 * w, y + 0.82)
                pieces.append(patch("pane", "glass", pane, 0, relief=0.0))
        return joined("window", pieces, 1.2)
    pieces.append(patch("canvas", "any", box(-0.85 * w, -0.85, 0.85 * w, 0.85), 0, relief=0.0))
    pieces.append(patch("subject", "any/2", smooth(rng.uniform(-0.6, 0.6, (6, 2)) * (w, 1.0)), 1, relief=0.5))
    return joined("picture", pieces, 0.8)


def umbrella(rng: np.random.Generator) -> Figure:
    """An open umbrella or parasol."""
    pieces = [piece("pole", "metal", stroke([(0.0, 1.0), (0.0, -0.8)], 0.06, 0.05))]
    edges = np.linspace(-1.0, 1.0, int(rng.integers(4, 8)))
    for k, (a, b) in enumerate(pairwise(edges)):
        arc = [(float(x), -0.9 * float(np.sqrt(max(1.0 - x * x, 0.0))) + 0.05) for x in np.linspace(a, b, 5)]
        panel = polygon(*arc, (float(b), 0.07), (0.5 * float(a + b), 0.0), (float(a), 0.07))
        pieces.append(piece("panel", f"cloth/{k % 2}", panel, relief=0.25, tone=0.8 + 0.1 * (k % 3)))
    return joined("umbrella", pieces, 2.2)
