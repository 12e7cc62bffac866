"""Trees, bushes, flowers, mushrooms, fruit."""

import numpy as np

from pipeline.scenes.figure import Figure, Piece, joined, patch, piece
from pipeline.scenes.outlines import blob, ellipse, polygon, roughen, shift, smooth, stroke, turn
from pipeline.scenes.primitives import leaf_outline


def tree(rng: np.random.Generator) -> Figure:
    """A tree with a ragged crown: broad-leaved, conifer, palm or bare."""
    bend = rng.normal(0.0, 0.12)
    trunk = stroke([(0.0, 1.0), (bend, 0.3), (bend * 0.5, -0.4)], rng.uniform(0.14, 0.32), 0.1)
    pieces = [piece("trunk", "bark", trunk, relief=0.9)]
    form = int(rng.choice(4, p=(0.5, 0.2, 0.15, 0.15)))
    if form == 0:
        for k in range(int(rng.integers(1, 4))):
            at = (bend + rng.normal(0.0, 0.3), -0.5 + rng.normal(0.0, 0.25))
            ring = blob(rng, 0.8, 90) * rng.uniform(0.4, 0.75) * (rng.uniform(0.9, 1.4), 1.0) + at
            pieces.append(piece("crown", "leaf", roughen(rng, ring, 0.035, 200), relief=0.8, joins=k > 0))
    elif form == 1:
        tiers = int(rng.integers(3, 6))
        for k in range(tiers):
            y, w = 0.6 - 1.5 * k / tiers, 0.75 * (1.0 - 0.75 * k / tiers)
            ring = polygon((-w, y), (0.0, y - 0.75), (w, y), (0.0, y + 0.08))
            pieces.append(piece("crown", "leaf", roughen(rng, ring, 0.03), relief=0.6, joins=k > 0))
    elif form == 2:
        for angle in np.linspace(-2.2, 2.2, int(rng.integers(6, 11))) + rng.normal(0.0, 0.15):
            tip = np.array([np.sin(angle), -0.45 * np.cos(angle)]) * rng.uniform(0.6, 1.0)
            path = shift(np.array([(0.0, 0.0), tip * 0.55 - (0.0, 0.15), shift(tip, 0.0, 0.12)]), bend * 0.5, -0.4)
            pieces.append(piece("frond", "leaf", roughen(rng, stroke(path, 0.06, 0.03, 0.1), 0.01, 60), relief=0.3))
    else:
        for _ in range(int(rng.integers(4, 10))):
            start = np.array([bend * 0.5, rng.uniform(-0.4, 0.2)])
            tip = shift(start, rng.normal(0.0, 0.55), -rng.uniform(0.3, 0.9))
            mid = 0.5 * (start + tip) + rng.normal(0.0, 0.08, 2)
            pieces.append(piece("branch", "bark", stroke(np.array([start, mid, tip]), 0.09, 0.02)))
    return joined("tree", pieces, float(rng.uniform(3.0, 9.0)))


def bush(rng: np.random.Generator) -> Figure:
    """A low clump of foliage, sometimes with flowers or berries."""
    ring = blob(rng, 0.9, 90) * (rng.uniform(1.0, 1.8), 0.9)
    ring[:, 1] = np.minimum(ring[:, 1], 0.6)
    pieces = [piece("bush", "leaf", roughen(rng, ring, 0.05, 200), relief=0.8)]
    if rng.random() < 0.4:
        for _ in range(int(rng.integers(3, 9))):
            at = rng.uniform(-0.7, 0.6, 2)
            pieces.append(patch("flower", "petal", blob(rng, 0.6, 24) * rng.uniform(0.06, 0.13) + at, 0))
    return joined("bush", pieces, float(rng.uniform(0.6, 1.6)))


def flower(rng: np.random.Generator) -> Figure:
    """A flower with petals, a centre, a stem and leaves."""
    pieces: list[Piece] = []
    bend = rng.normal(0.0, 0.15)
    pieces.append(piece("stem", "stem", stroke([(bend, 1.0), (0.0, 0.4), (0.0, -0.4)], 0.09, 0.07)))
    for side in (-1.0, 1.0):
        ring = turn(leaf_outline() * (0.5, 0.4), side * rng.uniform(0.6, 1.2))
        pieces.append(piece("leaf", "leaf", shift(ring, 0.0, rng.uniform(0.3, 0.8)), relief=0.3))
    num, length, width = int(rng.integers(5, 12)), rng.uniform(0.4, 0.65), rng.uniform(0.4, 1.0)
    for k in range(num):
        ring = turn(leaf_outline() * (width * 0.5, 0.5) * length, 2.0 * np.pi * k / num + rng.normal(0.0, 0.08))
        pieces.append(piece("petal", "petal", shift(smooth(ring[::3]), 0.0, -0.45), relief=0.4))
    pieces.append(piece("centre", "petal/2", ellipse(0.0, -0.45, length * 0.3, length * 0.3), relief=1.0))
    return joined("flower", pieces, 0.5)


def mushroom(rng: np.random.Generator) -> Figure:
    """A mushroom, often with spots."""
    w, h = rng.uniform(0.6, 1.1), rng.uniform(0.5, 0.9)
    cap = smooth([(-w, -0.1), (-0.75 * w, -0.7 * h), (0.0, -h), (0.75 * w, -0.7 * h), (w, -0.1), (0.0, 0.02)])
    pieces = [
        piece("stem", "skin", stroke([(rng.normal(0.0, 0.1), 1.0), (0.0, -0.1)], 0.4, 0.28), relief=1.0),
        piece("cap", "fruit", cap, relief=0.9),
    ]
    if rng.random() < 0.6:
        for x, y in rng.uniform((-0.8 * w, -0.9 * h), (0.8 * w, -0.1), (int(rng.integers(3, 8)), 2)):
            pieces.append(patch("spot", "snow", ellipse(x, y, 0.11, 0.08), 1))
    return joined("mushroom", pieces, 0.4)


def cactus(rng: np.random.Generator) -> Figure:
    """A ribbed column with arms."""
    pieces = [piece("stem", "stem", stroke([(0.0, 1.0), (0.0, -0.9)], 0.5, 0.42), relief=1.0)]
    for side in (-1.0, 1.0)[: int(rng.integers(0, 3))]:
        y = rng.uniform(-0.2, 0.5)
        path = [(0.15 * side, y), (0.6 * side, y - 0.05), (0.65 * side, y - rng.uniform(0.4, 0.8))]
        pieces.append(piece("arm", "stem", stroke(path, 0.26, 0.24), relief=1.0))
    return joined("cactus", pieces, 1.5)


def fruit(rng: np.random.Generator) -> Figure:
    """An apple, pear, lemon or pumpkin, with stalk and leaf."""
    noun = str(rng.choice(("apple", "pear", "lemon", "pumpkin", "tomato")))
    ring = ellipse(0.0, 0.1, 0.9, 0.85)
    if noun == "pear":
        ring = smooth([(0.0, -0.9), (0.35, -0.6), (0.45, -0.1), (0.75, 0.5), (0.0, 1.0), (-0.75, 0.5), (-0.45, -0.1),
                       (-0.35, -0.6)])  # fmt: skip
    elif noun == "lemon":
        ring = smooth([(-1.2, 0.0), (-0.6, -0.6), (0.3, -0.65), (1.15, 0.0), (0.5, 0.65), (-0.5, 0.6)])
    stalk = stroke([(0.0, -0.7), (rng.normal(0.0, 0.1), -1.1)], 0.1, 0.07)
    pieces = [piece("stalk", "wood", stalk), piece("body", "fruit", ring, relief=1.0)]
    if noun == "pumpkin":
        pieces = [pieces[0]]
        for x in (-0.6, 0.6, -0.3, 0.3, 0.0):
            pieces.append(piece("segment", "fruit", ellipse(x, 0.1, 0.42, 0.78), relief=1.0))
    elif rng.random() < 0.5:
        leaf = shift(turn(leaf_outline() * 0.28, float(rng.uniform(0.5, 1.6))), 0.0, -0.85)
        pieces.append(piece("leaf", "leaf", leaf, relief=0.3))
    return joined(noun, pieces, 0.3)
