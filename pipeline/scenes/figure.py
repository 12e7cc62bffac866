"""What an object is made of: pieces with outlines, in units of the object's own size."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.scenes.outlines import Ring


@dataclass(frozen=True)
class Piece:
    """One surface of an object, painted over the pieces before it.

    `rings` are filled even-odd (a ring within a ring is a hole). `surface` is a kind of material, optionally with a
    number ("cloth/2") to tell two materials of a kind apart. `parent` is the index of the piece this one is a part
    of, None for the object itself. `relief` says how round the surface is (0 flat), `tone` scales its brightness,
    `clipped` keeps it within its parent, and `joins` makes it one part with the piece before it.
    """

    rings: tuple[Ring, ...]
    noun: str
    surface: str
    parent: int | None = None
    relief: float = 0.6
    tone: float = 1.0
    clipped: bool = False
    joins: bool = False


@dataclass(frozen=True)
class Figure:
    """An object: its noun and its pieces, back to front. `height` is how tall it stands, in metres."""

    noun: str
    pieces: tuple[Piece, ...]
    height: float = 1.0


def piece(
    noun: str,
    surface: str,
    *rings: Ring,
    parent: int | None = None,
    relief: float = 0.6,
    tone: float = 1.0,
    joins: bool = False,
) -> Piece:
    """A piece from its outline(s)."""
    return Piece(rings, noun, surface, parent, relief, tone, joins=joins)


def patch(noun: str, surface: str, ring: Ring, parent: int, relief: float = 0.2) -> Piece:
    """A mark on another piece, cut off at that piece's edge."""
    return Piece((ring,), noun, surface, parent, relief, clipped=True)


def fitted(figure: Figure, mirrored: bool = False) -> Figure:
    """The figure moved and scaled so that it is 2 high, its foot at y = 1 and its middle at x = 0."""
    points = np.concatenate([ring for part in figure.pieces for ring in part.rings])
    low, high = points.min(axis=0), points.max(axis=0)
    scale = 2.0 / max(high[1] - low[1], 1e-6)
    shift = np.array([0.5 * (low[0] + high[0]), high[1]])
    flip = np.array([-1.0 if mirrored else 1.0, 1.0])

    def fit(ring: Ring) -> Ring:
        return (ring - shift) * scale * flip + (0.0, 1.0)

    return replace(figure, pieces=tuple(replace(p, rings=tuple(map(fit, p.rings))) for p in figure.pieces))


def joined(noun: str, pieces: Sequence[Piece], height: float) -> Figure:
    """A figure from a list of pieces."""
    return Figure(noun, tuple(pieces), height)
