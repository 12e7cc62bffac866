"""Animals and people, assembled from limbs."""

import numpy as np

from pipeline.scenes.figure import Figure, Piece, joined, patch, piece
from pipeline.scenes.outlines import blob, curve, ellipse, polygon, shift, smooth, stroke, turn


def quadruped(rng: np.random.Generator) -> Figure:
    """A four-legged animal in profile, from dog to horse to cow."""
    noun, leg, neck, girth, height = (
        ("dog", 0.7, 0.45, 0.42, 0.7), ("cat", 0.5, 0.3, 0.36, 0.4), ("horse", 1.1, 0.95, 0.48, 1.7),
        ("cow", 0.75, 0.35, 0.62, 1.5), ("sheep", 0.45, 0.3, 0.62, 0.9), ("deer", 1.15, 0.9, 0.38, 1.4),
    )[int(rng.integers(6))]  # fmt: skip
    leg, neck, girth = (np.array([leg, neck, girth]) * np.exp(rng.normal(0.0, 0.12, 3))).tolist()
    pieces: list[Piece] = []
    for x, far in ((-0.72, True), (0.78, True), (-0.88, False), (0.66, False)):
        swing, bend = rng.normal(0.0, 0.18), rng.normal(0.0, 0.06)
        path = [(x, 0.1), (x + bend + 0.5 * swing, 0.2 + 0.5 * leg), (x + swing, 0.25 + leg)]
        pieces.append(piece("leg", "fur", stroke(path, girth * 0.62, 0.15), tone=0.65 if far else 1.0))
    droop = rng.uniform(-0.5, 0.8)
    tail = [(-0.95, -0.2), (-1.3, -0.2 + 0.4 * droop), (-1.5 + 0.2 * rng.normal(), 0.1 + droop)]
    pieces.append(piece("tail", "fur", stroke(tail, 0.16, 0.1 if noun != "horse" else 0.22)))
    back = rng.normal(0.0, 0.05, 3)
    trunk = smooth([(-1.05, -0.15), (-0.6, -girth + back[0]), (0.0, -girth * 0.9 + back[1]),
                    (0.65, -girth + back[2]), (1.05, -0.15), (0.8, girth * 0.8), (0.0, girth * 0.85),
                    (-0.7, girth * 0.65)])  # fmt: skip
    body = len(pieces)
    pieces.append(piece("body", "fur", trunk, relief=1.0))
    if rng.random() < 0.4:
        for _ in range(int(rng.integers(1, 5))):
            at = (rng.uniform(-0.8, 0.8), rng.uniform(-0.4, 0.3))
            pieces.append(patch("patch", "fur/2", blob(rng, 0.4, 32) * rng.uniform(0.12, 0.32) + at, body))
    lean = rng.uniform(0.3, 0.7)
    top = np.array([0.85 + lean * neck * 0.8, -0.2 - neck * 0.9])
    pieces.append(piece("neck", "fur", stroke([(0.75, -0.1), tuple(0.5 * shift(top, 0.8, -0.2)), tuple(top)],
                                              girth * 1.1, 0.34)))  # fmt: skip
    tilt = rng.uniform(0.0, 0.7)
    head = len(pieces)
    snout = turn(np.array([[-0.22, -0.02], [0.0, -0.22], [0.3, -0.12], [0.55, 0.0], [0.52, 0.15], [0.1, 0.2]]), tilt)
    pieces.append(piece("head", "fur", smooth(snout + top), relief=0.9))
    for side in (-0.12, 0.04):
        ear = turn(polygon((-0.08, 0.0), (0.0, -0.3), (0.1, 0.0)), rng.normal(0.0, 0.3)) + top + (side, -0.15)
        pieces.append(piece("ear", "fur", smooth(ear), parent=head, relief=0.3))
    pieces.append(patch("eye", "dark", turn(ellipse(0.14, -0.08, 0.045, 0.045), tilt) + top, head))
    if noun in ("cow", "deer") and rng.random() < 0.7:
        horn = [tuple(shift(top, dx, dy)) for dx, dy in ((0.0, -0.15), (-0.1, -0.4), (0.12, -0.65))]
        pieces.append(piece("horn", "rock", stroke(horn, 0.1, 0.03), parent=head))
    return joined(noun, pieces, height)


def bird(rng: np.random.Generator) -> Figure:
    """A standing bird in profile."""
    plump, neck = rng.uniform(0.35, 0.65), rng.uniform(0.0, 0.7)
    pieces = [piece("leg", "skin", stroke([(x, 0.3), (x + 0.05, 0.9)], 0.07, 0.05)) for x in (-0.05, 0.12)]
    tail = polygon((-0.7, -0.05), (-1.4, 0.1 + rng.normal(0.0, 0.2)), (-1.35, 0.3), (-0.6, 0.25))
    pieces.append(piece("tail", "feather/2", tail, relief=0.3))
    trunk = smooth([(-0.9, 0.15), (-0.4, -plump * 0.7), (0.35, -plump), (0.75, -0.1), (0.4, plump), (-0.3, plump)])
    pieces.append(piece("body", "feather", trunk, relief=1.0))
    pieces.append(piece("neck", "feather", stroke([(0.5, -0.1), (0.65, -0.3 - neck)], 0.5, 0.3)))
    head, at = len(pieces), np.array([0.68, -0.45 - neck])
    pieces.append(piece("head", "feather", ellipse(0.0, 0.0, 0.26, 0.23) + at, relief=1.0))
    beak = polygon((0.2, -0.08), (0.2 + rng.uniform(0.2, 0.6), rng.uniform(-0.02, 0.12)), (0.18, 0.1)) + at
    pieces.append(piece("beak", "fruit", beak, relief=0.4))
    pieces.append(patch("eye", "dark", ellipse(at[0] + 0.1, at[1] - 0.04, 0.045, 0.045), head))
    wing = smooth([(0.35, -0.2), (-0.2, -plump * 0.6), (-1.0, 0.1), (-0.3, 0.35 * plump + 0.1)])
    pieces.append(piece("wing", "feather/2", wing, relief=0.5))
    return joined("bird", pieces, 0.5)


def fish(rng: np.random.Generator) -> Figure:
    """A fish in profile."""
    depth = rng.uniform(0.3, 0.75)
    pieces = [
        piece("tail", "scale/2", polygon((-0.75, 0.0), (-1.3, -0.45), (-1.1, 0.0), (-1.3, 0.45)), relief=0.3),
        piece("fin", "scale/2", smooth([(-0.4, -depth * 0.6), (0.0, -depth - 0.3), (0.5, -depth * 0.6)]), relief=0.2),
        piece("body", "scale", smooth([(-0.9, 0.0), (-0.3, -depth * 0.8), (0.4, -depth * 0.9), (1.0, -0.05),
                                       (0.95, 0.1), (0.3, depth * 0.8), (-0.4, depth * 0.7)]), relief=1.0),
    ]  # fmt: skip
    pieces.append(patch("stripe", "scale/2", stroke([(0.1, -1.0), (0.2, 0.0), (0.1, 1.0)], 0.2, 0.2), 2))
    pieces.append(patch("eye", "dark", ellipse(0.68, -0.12, 0.08, 0.08), 2))
    pieces.append(piece("fin", "scale/2", polygon((0.2, 0.15), (-0.2, 0.5), (0.35, 0.3)), relief=0.2))
    return joined("fish", pieces, 0.4)


def snake(rng: np.random.Generator) -> Figure:
    """A winding snake or worm."""
    x = np.linspace(-1.2, 1.2, 7)
    y = 0.3 * np.sin(x * rng.uniform(2.0, 4.0)) + rng.normal(0.0, 0.08, 7)
    path = curve(np.column_stack([x, y]), 3)
    tip = path[-1]
    pieces = [piece("body", "scale", stroke(path, 0.05, 0.26, 0.06), relief=1.0)]
    pieces.append(piece("head", "scale", ellipse(tip[0] + 0.08, tip[1], 0.22, 0.16), relief=0.9))
    pieces.append(patch("eye", "dark", ellipse(tip[0] + 0.14, tip[1] - 0.05, 0.04, 0.04), 1))
    return joined("snake", pieces, 0.3)


def bug(rng: np.random.Generator) -> Figure:
    """A beetle or butterfly seen from above."""
    pieces: list[Piece] = []
    if rng.random() < 0.5:
        upper = smooth([(0.05, -0.1), (0.5, -0.9), (1.1, -0.8 + rng.normal(0.0, 0.1)), (0.9, -0.1), (0.3, 0.1)])
        lower = smooth([(0.05, 0.05), (0.6, 0.0), (0.9, 0.4), (0.5, 0.9 + rng.normal(0.0, 0.1)), (0.15, 0.5)])
        for side in (-1.0, 1.0):
            for ring in (lower, upper):
                index = len(pieces)
                pieces.append(piece("wing", "petal", ring * (side, 1.0), relief=0.1))
                spot = ellipse(0.0, 0.0, 0.16, 0.2) + ring.mean(axis=0) * (side, 1.0)
                pieces.append(patch("spot", "petal/2", spot, index))
        pieces.append(piece("body", "dark", ellipse(0.0, 0.0, 0.08, 0.55), relief=1.0))
        return joined("butterfly", pieces, 0.3)
    for y in (-0.3, 0.1, 0.5):
        for side in (-1.0, 1.0):
            path = [(0.3 * side, y), (0.8 * side, y + rng.normal(0.0, 0.1)), (1.0 * side, y + 0.25)]
            pieces.append(piece("leg", "dark", stroke(path, 0.08, 0.05)))
    pieces.append(piece("head", "dark", ellipse(0.0, -0.75, 0.3, 0.25), relief=1.0))
    pieces.append(piece("body", "paint", ellipse(0.0, 0.1, 0.62, 0.8), relief=1.0))
    for x, y in rng.uniform(-0.5, 0.5, (int(rng.integers(2, 7)), 2)):
        pieces.append(patch("spot", "dark", ellipse(x, y + 0.1, 0.12, 0.12), 7))
    return joined("beetle", pieces, 0.2)


def person(rng: np.random.Generator) -> Figure:
    """A standing or walking person."""
    stride, lean = rng.normal(0.0, 0.22), rng.normal(0.0, 0.04)
    broad = rng.uniform(0.24, 0.36)
    pieces: list[Piece] = []
    for side, swing in ((1.0, stride), (-1.0, -stride)):
        hip, foot = (0.1 * side, 0.0), (0.13 * side + swing, 0.98)
        knee = (0.5 * (hip[0] + foot[0]) + 0.1 * abs(swing), 0.5)
        tone = 0.8 if side > 0 else 1.0
        pieces.append(piece("leg", "cloth/2", stroke([hip, knee, foot], 0.26, 0.15), tone=tone))
        pieces.append(piece("shoe", "dark", ellipse(foot[0] + 0.05, foot[1] + 0.04, 0.14, 0.07)))
    arm = rng.normal(0.0, 0.3, 2)
    reach = [(-broad, -0.72), (-broad - 0.1 + 0.4 * arm[0], -0.35), (-broad + 0.6 * arm[0], 0.02)]
    pieces.append(piece("arm", "cloth", stroke(reach, 0.17, 0.11), tone=0.85))
    if rng.random() < 0.3:
        skirt = polygon((-broad * 0.8, -0.15), (broad * 0.8, -0.15), (broad * 1.3, 0.55), (-broad * 1.3, 0.55))
        pieces.append(piece("skirt", "cloth/2", skirt))
    trunk = smooth([(-broad, -0.8), (0.0, -0.88), (broad, -0.8), (broad * 0.8, -0.3), (broad * 0.85, 0.08),
                    (-broad * 0.85, 0.08), (-broad * 0.8, -0.3)])  # fmt: skip
    pieces.append(piece("shirt", "cloth", trunk, relief=0.8))
    reach = [(broad, -0.72), (broad + 0.1 + 0.4 * arm[1], -0.35), (broad + 0.6 * arm[1], 0.02)]
    pieces.append(piece("arm", "cloth", stroke(reach, 0.17, 0.11)))
    pieces.append(piece("hand", "skin", ellipse(reach[2][0], reach[2][1] + 0.05, 0.07, 0.09)))
    pieces.append(piece("neck", "skin", stroke([(0.0, -0.8), (lean, -1.0)], 0.15, 0.13), tone=0.8))
    head = len(pieces)
    pieces.append(piece("head", "skin", ellipse(lean, -1.14, 0.17, 0.22), relief=0.9))
    top = smooth([(lean - 0.19, -1.1), (lean - 0.16, -1.34), (lean, -1.4), (lean + 0.17, -1.33), (lean + 0.19, -1.12),
                  (lean + 0.08, -1.24), (lean - 0.08, -1.22)])  # fmt: skip
    pieces.append(piece(*(("hat", "cloth/3") if rng.random() < 0.3 else ("hair", "fur")), top, parent=head))
    return joined("person", pieces, 1.7)
