"""Materials: which colours and patterns a kind of surface may have, and painting them."""

from dataclasses import dataclass

import cv2
import numpy as np

from pipeline.scenes.colours import Lab, Palette, lab_to_linear, linear_to_lab, near_lab, sample_lab
from pipeline.scenes.patterns import PATTERNS
from pipeline.scenes.tiles import Tiles, sample


@dataclass(frozen=True)
class Material:
    """A surface: two linear-light colours, a pattern, how strong its natural variation, relief and gloss are."""

    pattern: str
    base: np.ndarray  # (3,)
    second: np.ndarray  # (3,)
    period: float  # pixels
    angle: float  # radians
    variation: float  # deviation of log brightness
    stretch: float  # how much larger the noise is than a tile pixel
    bump: float
    gloss: float
    offset: tuple[float, float]


@dataclass(frozen=True)
class Kind:
    """What a kind of surface may look like. Without `centres` its colour is free."""

    patterns: tuple[str, ...]
    centres: tuple[Lab, ...] = ()
    period: tuple[float, float] = (0.03, 0.14)  # of the scene's scale
    variation: tuple[float, float] = (0.06, 0.3)
    bump: tuple[float, float] = (0.0, 1.0)
    gloss: float = 0.15
    second_apart: float = 1.0  # how far the second colour is from the first
    level: bool = False  # the pattern keeps upright


_ANY = (
    "plain", "plain", "plain", "striped", "checked", "plaid", "dotted", "spotted", "mottled", "marbled", "wooden",
    "scaly", "furry", "woven", "speckled", "ribbed", "cobbled", "leafy",
)  # fmt: skip

KINDS: dict[str, Kind] = {
    "any": Kind(_ANY, gloss=0.35),
    "paint": Kind(
        ("plain", "plain", "plain", "shiny", "striped"), variation=(0.02, 0.1), gloss=0.8, bump=(0.0, 0.08),
    ),
    "cloth": Kind(("plain", "plain", "striped", "plaid", "checked", "dotted", "woven"), bump=(0.4, 2.0), gloss=0.0),
    "fur": Kind(
        ("furry", "furry", "furry", "spotted", "striped", "mottled", "plain"),
        ((35, 12, 25), (60, 6, 22), (20, 2, 4), (80, 1, 8), (50, 2, 4), (45, 18, 35)),
        period=(0.03, 0.09), variation=(0.1, 0.35), bump=(0.3, 1.0), gloss=0.05, second_apart=0.7,
    ),
    "feather": Kind(("scaly", "furry", "plain", "striped", "mottled"), period=(0.02, 0.05), gloss=0.1),
    "skin": Kind(("plain",), ((70, 14, 20), (55, 16, 22), (38, 14, 20), (80, 10, 15)), variation=(0.03, 0.08),
                 bump=(0.0, 0.2)),
    "scale": Kind(("scaly", "spotted", "striped", "plain", "mottled"), period=(0.015, 0.05), gloss=0.6),
    "leaf": Kind(
        ("leafy", "leafy", "leafy", "mottled", "furry"),
        ((38, -22, 28), (28, -14, 20), (50, -24, 38), (55, 5, 45), (40, 20, 35), (22, -8, 10)),
        period=(0.06, 0.2), variation=(0.2, 0.5), bump=(0.5, 1.6), gloss=0.1, second_apart=1.3,
    ),
    "stem": Kind(("plain", "ribbed", "mottled"), ((40, -16, 25), (32, -8, 18), (48, -20, 32)), gloss=0.1),
    "bark": Kind(
        ("furry", "cobbled", "furry", "mottled"),
        ((28, 6, 12), (40, 4, 10), (18, 3, 6), (62, 1, 5)),
        period=(0.03, 0.08), variation=(0.25, 0.5), bump=(0.8, 2.0), gloss=0.0, level=True,
    ),
    "grass": Kind(
        ("furry", "leafy", "furry", "mottled"),
        ((45, -18, 34), (38, -20, 28), (58, -10, 40), (55, 4, 32), (30, -10, 18)),
        period=(0.05, 0.14), variation=(0.2, 0.45), bump=(0.4, 1.2), gloss=0.0, level=True,
    ),
    "soil": Kind(
        ("mottled", "cobbled", "leafy", "speckled", "plain"),
        ((40, 8, 20), (60, 6, 20), (28, 6, 12), (72, 4, 16), (50, 14, 26)),
        period=(0.05, 0.2), variation=(0.2, 0.45), bump=(0.4, 1.6), gloss=0.0, second_apart=0.6,
    ),
    "road": Kind(
        ("speckled", "plain", "tiled", "cobbled", "speckled"),
        ((45, 0, 2), (32, 0, 0), (60, 0, 4), (55, 2, 8)),
        period=(0.08, 0.4), variation=(0.1, 0.25), bump=(0.2, 0.8), gloss=0.05, second_apart=0.4,
    ),
    "water": Kind(
        ("rippled",), ((45, -6, -12), (30, -4, -8), (60, -6, -10), (40, -10, 0), (22, -2, -4)),
        period=(0.1, 0.3), variation=(0.05, 0.15), bump=(0.2, 0.5), gloss=0.6, second_apart=0.8, level=True,
    ),
    "snow": Kind(("plain", "mottled"), ((92, 0, -3), (86, -1, -5)), variation=(0.04, 0.1), second_apart=0.3),
    "rock": Kind(
        ("mottled", "cobbled", "marbled", "speckled", "plain"),
        ((50, 1, 5), (35, 2, 4), (65, 3, 10), (45, 8, 14), (28, 0, 0)),
        period=(0.04, 0.2), variation=(0.2, 0.5), bump=(0.8, 2.5), gloss=0.0, second_apart=0.6,
    ),
    "wall": Kind(
        ("plain", "plain", "brick", "brick", "tiled", "mottled", "cobbled", "striped", "wooden"),
        ((80, 1, 8), (65, 4, 14), (50, 16, 22), (70, -3, -4), (45, 3, 6), (88, 0, 3), (60, 10, 20)),
        period=(0.04, 0.14), variation=(0.06, 0.25), bump=(0.2, 1.0), gloss=0.0, second_apart=0.6, level=True,
    ),
    "roof": Kind(
        ("scaly", "ribbed", "brick", "plain", "tiled"), ((40, 20, 22), (35, 2, 4), (50, 14, 24), (30, 0, -6)),
        period=(0.02, 0.05), second_apart=0.5, level=True,
    ),
    "wood": Kind(
        ("wooden", "wooden", "plain"), ((50, 10, 26), (38, 12, 22), (68, 6, 24), (26, 8, 12)),
        period=(0.04, 0.18), variation=(0.08, 0.2), bump=(0.2, 0.8), gloss=0.25, second_apart=0.5,
    ),
    "metal": Kind(
        ("plain", "shiny", "ribbed", "shiny"), ((60, 0, -1), (40, 0, 0), (75, 0, 2), (55, 3, 15)),
        variation=(0.02, 0.12), bump=(0.0, 0.15), gloss=1.0,
    ),
    "dark": Kind(("plain", "ribbed"), ((12, 0, 0), (20, 0, 1), (16, 1, -2)), period=(0.01, 0.03), gloss=0.3),
    "glass": Kind(
        ("plain", "shiny", "shiny", "mottled"), ((28, -2, -8), (18, 0, -3), (60, -4, -8), (78, -2, -3)),
        period=(0.1, 0.3), variation=(0.03, 0.12), gloss=1.0, bump=(0.0, 0.03), second_apart=1.2,
    ),
    "light": Kind(
        ("plain",), ((92, 0, 8), (85, 2, 30), (70, 40, 30)), variation=(0.02, 0.05), bump=(0.0, 0.1), gloss=0.8,
    ),
    "fruit": Kind(
        ("plain", "speckled", "mottled", "plain", "striped"),
        ((45, 50, 35), (65, 35, 60), (80, 0, 65), (60, -30, 45), (35, 25, 5), (75, 15, 40)),
        variation=(0.05, 0.15), gloss=0.6, bump=(0.0, 0.4), second_apart=0.4,
    ),
    "petal": Kind(("plain", "plain", "striped", "speckled"), second_apart=0.7, gloss=0.1),
}  # fmt: skip


def make_material(
    rng: np.random.Generator, kind: str, scale: float, palette: Palette, near: np.ndarray | None = None
) -> Material:
    """Draw a material of `kind` for a scene of `scale` pixels; `near` (3,) makes its colour close to that one."""
    look = KINDS[kind]
    centre = look.centres[int(rng.integers(len(look.centres)))] if look.centres else sample_lab(rng, palette)
    base = near_lab(rng, centre, (7.0, 4.0, 5.0))
    if near is not None:
        base = near_lab(rng, linear_to_lab(near), (5.0, 3.0, 4.0))
    if look.centres or rng.random() < 0.5:
        shift = rng.choice((-1.0, 1.0)) * rng.uniform(10.0, 32.0) * look.second_apart
        second = near_lab(rng, (base[0] + shift, base[1] * 0.85, base[2] * 0.85), (3.0, 3.0, 3.0))
    else:
        second = sample_lab(rng, palette)
    period = scale * np.exp(rng.uniform(*np.log(look.period)))
    return Material(
        pattern=look.patterns[int(rng.integers(len(look.patterns)))],
        base=lab_to_linear(base),
        second=lab_to_linear(second),
        period=float(max(period, 2.5)),
        angle=float(rng.normal(0.0, 0.03) if look.level else rng.choice((0.0, 0.5 * np.pi, rng.uniform(0.0, np.pi)))),
        variation=float(rng.uniform(*look.variation)),
        stretch=float(np.exp(rng.uniform(np.log(0.35), np.log(2.0)))),
        bump=float(rng.uniform(*look.bump)),
        gloss=float(look.gloss * rng.uniform(0.3, 1.0)),
        offset=(float(rng.uniform(0.0, 4096.0)), float(rng.uniform(0.0, 4096.0))),
    )


def paint(material: Material, u: np.ndarray, v: np.ndarray, tiles: Tiles) -> tuple[np.ndarray, np.ndarray]:
    """Paint a surface with coordinates `u, v` in pixels, (H, W) float32.

    Returns its colour in linear light, (H, W, 3), and its relief in pixels, (H, W), both float32.
    """
    grain = 1.0 / material.stretch
    wobble = sample(tiles.cloud, (u + material.offset[0]) * grain, (v + material.offset[1]) * grain)
    cos, sin = np.cos(material.angle) / material.period, np.sin(material.angle) / material.period
    across = u * float(cos) + v * float(sin) + material.offset[0] * 0.01
    along = v * float(cos) - u * float(sin) + material.offset[1] * 0.01
    mix, relief = PATTERNS[material.pattern](across, along, wobble, tiles)
    # Log brightness varies most, the two opponent colour axes less: the correlations of photographs.
    opponent = np.array([[1.0, 0.16, -0.1], [1.0, 0.0, 0.1], [1.0, -0.24, -0.05]], dtype=np.float32)
    fine = sample(tiles.rough, u + material.offset[1], v + material.offset[0])
    change = cv2.transform(wobble, opponent * material.variation)
    change += (fine * (material.variation * 0.4))[..., None]
    colour = (material.second - material.base) * mix[..., None] + material.base
    colour *= np.exp(change)
    relief = (relief * material.period + (wobble[..., 0] * 0.22 + fine * 0.06)) * material.bump
    return colour.astype(np.float32, copy=False), relief.astype(np.float32, copy=False)
