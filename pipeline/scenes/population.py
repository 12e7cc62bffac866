"""Populating a backdrop: which objects, where, how large, how sharp."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np

from pipeline.scenes import animals, plants, primitives, things, vehicles
from pipeline.scenes.backdrops import Setting
from pipeline.scenes.canvas import Canvas
from pipeline.scenes.figure import Figure, fitted
from pipeline.scenes.stamp import Pose, make_materials, stamp

Maker = Callable[[np.random.Generator], Figure]

_WILD: tuple[Maker, ...] = (plants.tree, plants.tree, plants.bush, primitives.pebble, primitives.pebble,
                            animals.quadruped, animals.quadruped, animals.bird, plants.flower, plants.mushroom,
                            plants.cactus, animals.snake, primitives.strand, things.fence, animals.person,
                            things.house, vehicles.boat)  # fmt: skip
_TOWN: tuple[Maker, ...] = (vehicles.car, vehicles.car, vehicles.car, vehicles.lorry, vehicles.bus, animals.person,
                            animals.person, animals.person, vehicles.bicycle, things.street_lamp, things.sign,
                            plants.tree, plants.bush, things.fence, animals.quadruped, primitives.crate,
                            things.umbrella, things.table, things.chair)  # fmt: skip
_HOME: tuple[Maker, ...] = (things.chair, things.chair, things.table, things.lamp, things.bottle, things.cup,
                            primitives.crate, primitives.ball, plants.flower, plants.bush, things.book, things.can,
                            animals.person, animals.quadruped, primitives.simple_shape, things.umbrella)  # fmt: skip
_SMALL: tuple[Maker, ...] = (things.bottle, things.cup, things.can, things.book, plants.fruit, plants.fruit,
                             primitives.ball, primitives.simple_shape, primitives.simple_shape, primitives.pebble,
                             primitives.strand, primitives.crate, animals.bug, animals.fish, animals.snake,
                             plants.flower, plants.mushroom)  # fmt: skip
ANYTHING: tuple[Maker, ...] = (*_WILD, *_TOWN, *_HOME, *_SMALL, vehicles.plane, things.tower, things.picture)
_SKY: tuple[Maker, ...] = (animals.bird, vehicles.plane, primitives.ball, primitives.simple_shape, animals.bug)
_CAST: dict[str, tuple[Maker, ...]] = {"street": _TOWN, "room": _HOME, "table": _SMALL}


@dataclass(frozen=True)
class _Group:
    """Objects of a kind that stand together, and how near they are: 1 at the viewer's feet, 0 at the horizon."""

    figure: Figure
    count: int
    near: float


def populate(rng: np.random.Generator, canvas: Canvas, setting: Setting, num_objects: int, max_nodes: int) -> None:
    """Stamp about `num_objects` objects, back to front, as long as they come to at most `max_nodes` pieces."""
    cast = _CAST.get(setting.place, _WILD if setting.horizon is not None else ANYTHING)
    if setting.place == "street":
        _line_street(rng, canvas, setting)
    if setting.place == "room":
        _hang_on_wall(rng, canvas)
    groups: list[_Group] = []
    budget = max_nodes - len(canvas.nodes)
    for _ in range(num_objects):
        pool = ANYTHING if rng.random() < 0.12 else cast
        figure = pool[int(rng.integers(len(pool)))](rng)
        count = int(rng.integers(2, 6)) if rng.random() < 0.2 else 1
        budget -= count * (len(figure.pieces) + 1)
        if budget < 0:
            break
        near = float(np.exp(rng.uniform(np.log(setting.far), np.log(1.15))))
        if setting.horizon is not None:  # what is tall stands back, so that it fits into the view
            fits = canvas.scale * float(rng.uniform(0.45, 1.1)) * setting.eye / figure.height
            near = max(min(near, fits / (canvas.height - setting.horizon)), setting.far)
        groups.append(_Group(figure, count, near))
    groups.sort(key=lambda group: group.near)
    focus = groups[int(rng.integers(len(groups)))].near if groups and rng.random() < 0.4 else None
    blur = canvas.scale * float(rng.uniform(0.001, 0.005))
    if focus is not None and focus > 0.45:
        canvas.image = cv2.GaussianBlur(canvas.image, (0, 0), blur)  # what lies behind is out of focus too
    for group in groups:
        defocus = 0.0 if focus is None else blur * float(abs(np.log(group.near / focus)))
        _place_group(rng, canvas, setting, group, min(defocus, 1.7 * blur))


def add_clutter(rng: np.random.Generator, canvas: Canvas, setting: Setting) -> None:
    """Stamp one more object near the viewer, small enough to hide little."""
    size = canvas.scale * float(rng.uniform(0.07, 0.2))
    x, y = rng.uniform(0.05, 0.95) * canvas.width, rng.uniform(0.15, 0.98) * canvas.height
    figure = _SMALL[int(rng.integers(len(_SMALL)))](rng)
    _stamp(rng, canvas, setting, figure, Pose(float(x), float(y), size, shadow="wall"))


def _place_group(rng: np.random.Generator, canvas: Canvas, setting: Setting, group: _Group, defocus: float) -> None:
    """Stamp one object, or several of its kind beside each other."""
    figure, num = group.figure, group.count
    pose = _pose(rng, canvas, setting, figure, group.near, defocus)
    if setting.horizon is not None and rng.random() < 0.08:
        figure = _SKY[int(rng.integers(len(_SKY)))](rng)
        size = canvas.scale * min(0.03 * rng.random() ** -0.6, 0.3)
        pose = Pose(float(rng.random() * canvas.width), float(rng.random() * setting.horizon), size,
                    float(rng.normal(0.0, 0.3)), defocus, shadow="none")  # fmt: skip
    fit = fitted(figure, mirrored=bool(rng.random() < 0.5))
    low, high = extent(fit)
    materials = make_materials(rng, canvas, fit, pose.size, _colour_behind(rng, canvas, pose))
    for k in range(num):
        step = (high - low) * 0.5 * pose.size * float(rng.uniform(0.6, 1.6))
        moved = replace(pose, x=pose.x + k * step * (1 if pose.x < canvas.width / 2 else -1),
                        y=pose.y + float(rng.normal(0.0, 0.05)) * pose.size,
                        size=pose.size * float(np.exp(rng.normal(0.0, 0.12 if num > 1 else 0.0))))  # fmt: skip
        if setting.horizon is None and num > 1:
            moved = replace(moved, angle=float(rng.uniform(0.0, 6.3)))
        stamp(canvas, fit, materials, moved, setting.air)


def _pose(
    rng: np.random.Generator, canvas: Canvas, setting: Setting, figure: Figure, near: float, defocus: float
) -> Pose:
    """A place for a figure: on the ground in perspective, or anywhere on a surface without a horizon."""
    x = float(rng.uniform(-0.05, 1.05)) * canvas.width
    motion = (0.0, 0.0)
    if rng.random() < 0.04:
        motion = (float(rng.normal(0.0, 0.015)) * canvas.scale, float(rng.normal(0.0, 0.004)) * canvas.scale)
    if setting.horizon is None:
        size = canvas.scale * float(np.clip(0.09 * rng.random() ** -0.55, 0.05, 0.8))
        angle = float(rng.uniform(0.0, 6.3)) if rng.random() < 0.7 else float(rng.normal(0.0, 0.1))
        y = float(rng.uniform(0.0, 1.1)) * canvas.height + 0.5 * size
        return Pose(x, y, size, angle, defocus, motion, shadow="wall")
    depth = canvas.height - setting.horizon
    tall = figure.height * float(np.exp(rng.normal(0.0, 0.3)))
    size = tall / setting.eye * near * depth
    size = float(np.clip(size, 0.06 * canvas.scale, 1.1 * canvas.scale))
    y = setting.horizon + near * depth * float(rng.uniform(0.97, 1.03))
    haze = setting.haze * float(np.exp(-5.0 * near)) * 0.8
    return Pose(x, y, size, float(rng.normal(0.0, 0.03)), defocus, motion, haze)


def _colour_behind(rng: np.random.Generator, canvas: Canvas, pose: Pose) -> np.ndarray | None:
    """Sometimes the colour that is already there, for an object that hardly stands out."""
    if rng.random() > 0.15:
        return None
    column = int(np.clip(pose.x, 0, canvas.width - 1))
    row = int(np.clip(pose.y - 0.5 * pose.size, 0, canvas.height - 1))
    return np.asarray(canvas.image[row, column] / (canvas.light.ambient + canvas.light.direct))


def _line_street(rng: np.random.Generator, canvas: Canvas, setting: Setting) -> None:
    """A row of buildings along the far side, some nearer ones at the edges."""
    assert setting.horizon is not None
    depth = canvas.height - setting.horizon
    x, near = -0.1 * canvas.width, float(rng.uniform(0.08, 0.2))
    while x < canvas.width and len(canvas.nodes) < 50:
        figure = (things.tower if rng.random() < 0.6 else things.house)(rng)
        size = figure.height / setting.eye * near * depth
        size = float(np.clip(size, 0.1 * canvas.scale, 0.8 * canvas.height))
        fit = fitted(figure)
        low, high = extent(fit)
        foot = setting.horizon + near * depth
        pose = Pose(x - low * 0.5 * size, foot, size, haze=0.5 * setting.haze, shadow="none")
        stamp(canvas, fit, make_materials(rng, canvas, fit, 0.5 * size), pose, setting.air)
        x += (high - low) * 0.5 * size * float(rng.uniform(0.9, 1.15))


def _hang_on_wall(rng: np.random.Generator, canvas: Canvas) -> None:
    for _ in range(int(rng.integers(0, 4))):
        size = canvas.scale * float(rng.uniform(0.1, 0.3))
        x, y = rng.uniform(0.1, 0.9) * canvas.width, rng.uniform(0.2, 0.5) * canvas.height
        fit = fitted(things.picture(rng))
        pose = Pose(float(x), float(y), size, shadow="wall")
        stamp(canvas, fit, make_materials(rng, canvas, fit, size), pose, np.zeros(3, np.float32))


def _stamp(rng: np.random.Generator, canvas: Canvas, setting: Setting, figure: Figure, pose: Pose) -> None:
    fit = fitted(figure, mirrored=bool(rng.random() < 0.5))
    stamp(canvas, fit, make_materials(rng, canvas, fit, pose.size), pose, setting.air)


def extent(figure: Figure) -> tuple[float, float]:
    """The leftmost and rightmost x of a fitted figure."""
    x = np.concatenate([ring[:, 0] for part in figure.pieces for ring in part.rings])
    return float(x.min()), float(x.max())
