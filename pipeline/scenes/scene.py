"""A labelled synthetic scene from a seed."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipeline.scenes.backdrops import Setting, landscape, mosaic, room, street, tabletop, thicket
from pipeline.scenes.camera import dapple, expose
from pipeline.scenes.canvas import Canvas
from pipeline.scenes.colours import name_colour, sample_palette
from pipeline.scenes.describe import Place, phrase, relation, scene_caption, with_article
from pipeline.scenes.light import sample_light
from pipeline.scenes.population import add_clutter, populate
from pipeline.scenes.tiles import make_tiles

MIN_AREA = 30  # pixels; smaller visible surfaces are no segments of their own
MAX_SHARE = 0.9  # of the image; a larger region is no segment
MIN_SEGMENTS, MAX_SEGMENTS = 20, 120
MIN_SIDE, MAX_SIDE = 32, 4096

BACKDROPS: tuple[tuple[Callable[[np.random.Generator, Canvas], Setting], float], ...] = (
    (landscape, 0.26),
    (street, 0.2),
    (room, 0.15),
    (tabletop, 0.14),
    (mosaic, 0.12),
    (thicket, 0.13),
)


@dataclass(frozen=True)
class SceneObject:
    """One segment: an object, a part of one, or a region of the backdrop.

    `mask` (H, W) bool is what is visible of it, parts included; `parent` is the index of the object or part this is a
    part of. Masks of segments with the same parent never overlap, and a part lies within its parent.
    """

    mask: np.ndarray
    parent: int | None
    colour: str
    pattern: str
    shape: str
    caption: str
    relation: str


@dataclass(frozen=True)
class Scene:
    """A picture, (H, W, 3) uint8 RGB, its segments (parents before parts) and one sentence about it."""

    image: np.ndarray
    objects: tuple[SceneObject, ...]
    caption: str


def render_scene(seed: int, width: int = 640, height: int = 480) -> Scene:
    """Render the scene of a seed: the same seed and size give the same bytes, whatever was rendered before.

    Raises ValueError if the seed is negative or a side is outside 32 to 4096 pixels.
    """
    check_size(seed, width, height)
    rng = np.random.default_rng(seed)
    side = 1 << int(np.clip(np.round(np.log2(np.sqrt(width * height))), 6, 9))
    canvas = Canvas(
        image=np.zeros((height, width, 3), dtype=np.float32),
        labels=np.full((height, width), -1, dtype=np.int32),
        tiles=make_tiles(rng, side),
        palette=sample_palette(rng),
        light=sample_light(rng),
    )
    backdrop = BACKDROPS[int(rng.choice(len(BACKDROPS), p=[share for _, share in BACKDROPS]))][0]
    setting = backdrop(rng, canvas)
    populate(rng, canvas, setting, num_objects=int(rng.integers(6, 34)), max_nodes=170)
    enough = min(MIN_SEGMENTS, width * height // 1000)  # a tiny picture has no room for more
    for _ in range(60):
        if len(_segments(canvas)) >= enough and node_areas(canvas).max() <= MAX_SHARE * canvas.labels.size:
            break
        add_clutter(rng, canvas, setting)
    dapple(rng, canvas)
    image = expose(rng, canvas.image)
    objects, places = _describe(canvas, image)
    return Scene(image, objects, scene_caption(setting.place, places))


def check_size(seed: int, width: int, height: int) -> None:
    """Raise a one-line ValueError for a seed or a size that no scene can have."""
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, got {seed}; choose a non-negative seed")
    for name, value in (("width", width), ("height", height)):
        if not MIN_SIDE <= value <= MAX_SIDE:
            raise ValueError(f"{name} must be {MIN_SIDE} to {MAX_SIDE} pixels, got {value}; choose a side in between")


def _segments(canvas: Canvas) -> list[int]:
    """The nodes that count as segments, at most MAX_SEGMENTS, in painting order (parents before parts)."""
    area = node_areas(canvas)
    limit = MAX_SHARE * canvas.labels.size
    kept: list[int] = []
    chosen: set[int] = set()
    for index, node in enumerate(canvas.nodes):
        if not MIN_AREA <= area[index] <= limit:
            continue
        above = _nearest(canvas, node.parent, chosen)
        # A part that is nearly all of its object would be the same segment twice.
        if above is not None and area[index] > 0.95 * area[above]:
            continue
        kept.append(index)
        chosen.add(index)
    if len(kept) > MAX_SEGMENTS:
        # Whole objects first, then the larger parts.
        order = sorted(kept, key=lambda i: (canvas.nodes[i].parent is not None, -int(area[i])))
        kept = sorted(order[:MAX_SEGMENTS])
    return kept


def node_areas(canvas: Canvas) -> np.ndarray:
    """Visible pixels of each node with all of its parts."""
    area = np.bincount(canvas.labels.ravel() + 1, minlength=len(canvas.nodes) + 1)[1:]
    for index in range(len(canvas.nodes) - 1, -1, -1):
        parent = canvas.nodes[index].parent
        if parent is not None:
            area[parent] += area[index]
    return area


def _nearest(canvas: Canvas, node: int | None, chosen: set[int]) -> int | None:
    """The nearest of `node` and its ancestors that is chosen."""
    while node is not None and node not in chosen:
        node = canvas.nodes[node].parent
    return node


def families(canvas: Canvas) -> list[list[int]]:
    """For each node, itself and all of its parts."""
    family: list[list[int]] = [[index] for index in range(len(canvas.nodes))]
    for index in range(len(canvas.nodes) - 1, -1, -1):
        parent = canvas.nodes[index].parent
        if parent is not None:
            family[parent] += family[index]
    return family


def _describe(canvas: Canvas, image: np.ndarray) -> tuple[tuple[SceneObject, ...], list[Place]]:
    """Cut the masks out of the label map and put each segment into words, with the colours of the final image."""
    kept = _segments(canvas)
    family, chosen = families(canvas), set(kept)
    number = {node: k for k, node in enumerate(kept)}
    masks: list[np.ndarray] = []
    colours: list[str] = []
    places: dict[int, Place] = {}
    for index in kept:
        node = canvas.nodes[index]
        x0, y0, x1, y1 = node.box
        member = np.zeros(len(canvas.nodes) + 1, dtype=bool)
        member[family[index]] = True  # the last entry stands for label -1
        part = member[canvas.labels[y0:y1, x0:x1]]
        mask = np.zeros(canvas.labels.shape, dtype=bool)
        mask[y0:y1, x0:x1] = part
        masks.append(mask)
        rows, columns = np.nonzero(part)
        step = max(1, len(rows) // 300)
        colours.append(name_colour(image[rows[::step] + y0, columns[::step] + x0]))
        if node.parent is None:
            box = (int(columns.min()) + x0, int(rows.min()) + y0, int(columns.max()) + x0, int(rows.max()) + y0)
            middle = (float(columns.mean()) + x0, float(rows.mean()) + y0)
            words = phrase(colours[-1], node.pattern, node.noun)
            places[index] = Place(words, box, middle, len(rows), node.backdrop)
    tops = list(places)
    listed = list(places.values())
    objects: list[SceneObject] = []
    for index, mask, colour in zip(kept, masks, colours, strict=True):
        node = canvas.nodes[index]
        parent = _nearest(canvas, node.parent, chosen)
        words = phrase(colour, node.pattern, node.noun)
        if parent is None:
            where = relation(tops.index(index), listed, canvas.scale) if index in places else ""
        else:
            above = objects[number[parent]]
            where = f"of the {phrase(above.colour, above.pattern, above.shape)}"
        caption = f"{with_article(words)} {where}".strip()
        up = None if parent is None else number[parent]
        objects.append(SceneObject(mask, up, colour, node.pattern, node.noun, caption, where))
    return tuple(objects), listed
