"""Backdrops: the regions behind the objects, and where objects may stand in front of them."""

from dataclasses import dataclass

import cv2
import numpy as np

from pipeline.scenes.canvas import Canvas, add_region
from pipeline.scenes.colours import lab_to_linear, near_lab
from pipeline.scenes.materials import Material, make_material
from pipeline.scenes.outlines import Ring, blob, box, polygon, ridge, roughen, turn
from pipeline.scenes.patterns import ramp
from pipeline.scenes.tiles import sample


@dataclass(frozen=True)
class Setting:
    """A finished backdrop: what to call the place, its horizon, and its air.

    `horizon` is the row where the ground ends, in pixels, None where things lie on or hang before a surface; `eye` is
    the camera's height above the ground in metres; `air` (3,) is the colour of haze and `haze` its share far away;
    `far` is how near the farthest objects are, 0 at the horizon and 1 at the bottom row.
    """

    place: str
    horizon: float | None
    eye: float
    air: np.ndarray
    haze: float
    far: float = 0.1


def landscape(rng: np.random.Generator, canvas: Canvas) -> Setting:
    """Sky, hills, perhaps a row of woods, and ground with a path, a field or water."""
    h = canvas.height
    horizon = h * float(rng.uniform(0.2, 0.65))
    _sky(rng, canvas, horizon + 0.15 * h)
    air, haze = lab_to_linear(near_lab(rng, (75.0, -1.0, -5.0), (8.0, 2.0, 5.0))), float(rng.beta(1.2, 2.5))
    num_hills = int(rng.integers(0, 4))
    for k in range(num_hills):
        distance = 1.0 - k / max(num_hills, 1)
        top = horizon - h * float(rng.uniform(0.02, 0.22)) * (0.4 + distance)
        kind = str(rng.choice(("rock", "leaf", "grass", "snow"), p=(0.35, 0.35, 0.2, 0.1)))
        hill = _skyline(rng, canvas, top, horizon + 0.03 * h, float(rng.uniform(0.01, 0.08)), 1.35)
        _distant(rng, canvas, "mountain" if kind in ("rock", "snow") else "hill", hill, kind, air, haze * distance)
    if rng.random() < 0.4:
        woods = _skyline(rng, canvas, horizon - 0.05 * h, horizon + 0.03 * h, 0.025, 0.8)
        _distant(rng, canvas, "woods", woods, "leaf", air, 0.4 * haze)
    kind = str(rng.choice(("grass", "soil", "water", "snow", "rock"), p=(0.45, 0.25, 0.15, 0.08, 0.07)))
    place = {"grass": "meadow", "soil": "field", "water": "lake", "snow": "snow field", "rock": "plain"}[kind]
    _ground(rng, canvas, "water" if kind == "water" else "snow" if kind == "snow" else "ground", kind, horizon)
    if rng.random() < 0.45:
        _path(rng, canvas, horizon, "path", str(rng.choice(("soil", "road", "water"))))
    if rng.random() < 0.4:
        _near_strip(rng, canvas, kind)
    return Setting(place, horizon, float(np.exp(rng.uniform(np.log(0.4), np.log(3.5)))), air, haze)


def street(rng: np.random.Generator, canvas: Canvas) -> Setting:
    """Sky, a distant skyline, a road with lines, and pavements."""
    w, h = canvas.width, canvas.height
    horizon = h * float(rng.uniform(0.25, 0.55))
    _sky(rng, canvas, horizon + 0.1 * h)
    air, haze = lab_to_linear(near_lab(rng, (70.0, 0.0, 0.0), (8.0, 2.0, 5.0))), float(rng.beta(1.0, 4.0))
    woods = _skyline(rng, canvas, horizon - 0.06 * h, horizon + 0.05 * h, 0.02, 0.9)
    _distant(rng, canvas, "skyline", woods, str(rng.choice(("leaf", "wall"))), air, 0.5 * haze)
    _ground(rng, canvas, "pavement", "road", horizon)
    road = _path(rng, canvas, horizon, "road", "road", wide=True)
    centre, foot = road
    if rng.random() < 0.7:
        paint = make_material(rng, "snow", canvas.scale, canvas.palette)
        for near in (0.95, 0.45, 0.24, 0.14):  # dashes shrink towards the horizon
            far = near * 0.7
            line = polygon(*(
                (centre + (foot + side * 0.02 * w - centre) * t, horizon + (h - horizon) * t)
                for side, t in ((-1, near), (1, near), (1, far), (-1, far))
            ))  # fmt: skip
            add_region(canvas, "line", line, paint)
    return Setting("street", horizon, float(rng.uniform(1.3, 4.0)), air, haze)


def room(rng: np.random.Generator, canvas: Canvas) -> Setting:
    """One or two walls, a floor, perhaps a skirting board and a rug."""
    w, h = canvas.width, canvas.height
    horizon = h * float(rng.uniform(0.25, 0.5))
    edge = h * float(rng.uniform(0.55, 0.8))
    kind = str(rng.choice(("wall", "wall", "wood", "cloth")))
    wall = make_material(rng, kind, canvas.scale, canvas.palette)
    add_region(canvas, "wall", box(-9, -9, w + 9, edge + 9), wall, tone=float(rng.uniform(0.8, 1.1)))
    corner, left_edge = w * float(rng.uniform(-0.6, 0.5)), edge + h * float(rng.uniform(0.05, 0.2))
    if corner > 0.08 * w:
        side = polygon((-9, -9), (corner, -9), (corner, edge + 9), (-9, left_edge + 9))
        add_region(canvas, "side wall", side, wall, tone=float(rng.uniform(0.5, 0.8)))
    start = (-9.0, left_edge) if corner > 0.08 * w else (-9.0, edge)
    floor = polygon(start, (max(corner, 0.0), edge), (w + 9.0, edge), (w + 9.0, h + 9.0), (-9.0, h + 9.0))
    kind = str(rng.choice(("wood", "wood", "road", "cloth", "rock")))
    material = make_material(rng, kind, canvas.scale, canvas.palette)
    add_region(canvas, "floor", floor, material, *_perspective(canvas, horizon), tone=0.9)
    if rng.random() < 0.5:
        board = make_material(rng, "wood", canvas.scale, canvas.palette)
        thick = h * float(rng.uniform(0.015, 0.04))
        add_region(canvas, "skirting board", box(max(corner, -9.0), edge - thick, w + 9.0, edge), board)
    if rng.random() < 0.5:
        cloth = make_material(rng, "cloth", canvas.scale, canvas.palette)
        x, y, r = w * rng.uniform(0.2, 0.8), edge + (h - edge) * rng.uniform(0.3, 0.8), w * rng.uniform(0.15, 0.4)
        rug = polygon((-1.0, 0.25), (-0.7, -0.2), (0.7, -0.2), (1.0, 0.25)) * r + (x, y)
        add_region(canvas, "rug", np.minimum(rug, (w + 9.0, h + 9.0)), cloth, *_perspective(canvas, horizon))
    far = (edge - horizon) / (h - horizon) + 0.02
    return Setting("room", horizon, float(rng.uniform(0.8, 1.8)), wall.base, 0.0, far)


def tabletop(rng: np.random.Generator, canvas: Canvas) -> Setting:
    """Looking down on a surface that fills the view, with a cloth, board or second surface."""
    w, h = canvas.width, canvas.height
    kind = str(rng.choice(("wood", "cloth", "rock", "soil", "grass", "any", "wall")))
    add_region(canvas, "surface", box(-9, -9, w + 9, h + 9), make_material(rng, kind, canvas.scale, canvas.palette))
    cut = turn(box(-3 * w, -3 * h, 0, 3 * h), float(rng.uniform(0.0, 6.3))) + rng.uniform(0.3, 0.7, 2) * (w, h)
    material = make_material(rng, str(rng.choice(("wood", "cloth", "any", "road"))), canvas.scale, canvas.palette)
    if rng.random() < 0.5:
        cut = roughen(rng, cut, 0.01 * canvas.scale, 400)
    add_region(canvas, "edge", cut, material, tone=float(rng.uniform(0.6, 1.2)))
    if rng.random() < 0.5:
        size = canvas.scale * float(rng.uniform(0.2, 0.45))
        mat = turn(box(-size, -size * 0.7, size, size * 0.7), float(rng.uniform(0.0, 3.2)))
        material = make_material(rng, str(rng.choice(("cloth", "wood", "paint"))), canvas.scale, canvas.palette)
        add_region(canvas, "mat", mat + rng.uniform(0.25, 0.75, 2) * (w, h), material)
    return Setting("table", None, 1.0, np.full(3, 0.3, np.float32), 0.0)


def mosaic(rng: np.random.Generator, canvas: Canvas) -> Setting:
    """Large irregular surfaces that cover each other, as in a close-up of unknown things."""
    w, h = canvas.width, canvas.height
    kinds = ("any", "rock", "leaf", "cloth", "wood", "soil", "grass", "wall", "fur", "bark")
    first = str(rng.choice(kinds))
    add_region(canvas, "backdrop", box(-9, -9, w + 9, h + 9), make_material(rng, first, canvas.scale, canvas.palette))
    for _ in range(int(rng.integers(3, 12))):
        size = canvas.scale * float(0.12 * rng.random() ** -0.45)
        ring = blob(rng, float(rng.random())) * size
        if rng.random() < 0.4:
            ring = turn(box(-3 * canvas.scale, -size, 3 * canvas.scale, size), float(rng.uniform(0.0, 3.2)))
        if rng.random() < 0.5:
            ring = roughen(rng, ring, 0.03 * size, 200)
        material = make_material(rng, str(rng.choice(kinds)), canvas.scale, canvas.palette)
        ring = ring + rng.uniform(0.0, 1.0, 2) * (w, h)
        add_region(canvas, "patch", ring, material, tone=float(rng.uniform(0.6, 1.2)))
    return Setting("collage", None, 1.0, np.full(3, 0.3, np.float32), 0.0)


def thicket(rng: np.random.Generator, canvas: Canvas) -> Setting:
    """Dense foliage behind, ground below, trunks between, as inside a wood."""
    w, h = canvas.width, canvas.height
    horizon = h * float(rng.uniform(0.35, 0.75))
    leaf = make_material(rng, "leaf", canvas.scale, canvas.palette)
    add_region(canvas, "foliage", box(-9, -9, w + 9, horizon + 0.1 * h), leaf, tone=float(rng.uniform(0.3, 0.9)))
    if rng.random() < 0.6:
        bright = _skyline(rng, canvas, horizon * rng.uniform(0.3, 0.7), horizon + 0.1 * h, 0.06, 0.9)
        near = make_material(rng, "leaf", canvas.scale, canvas.palette)
        add_region(canvas, "bushes", bright, near, tone=float(rng.uniform(0.4, 1.1)))
    kind = str(rng.choice(("grass", "soil", "grass", "water", "snow")))
    _ground(rng, canvas, "water" if kind == "water" else "ground", kind, horizon, rugged=True)
    bark = make_material(rng, "bark", canvas.scale * 0.5, canvas.palette)
    for _ in range(int(rng.integers(0, 7))):
        x, half = w * rng.random(), w * rng.uniform(0.006, 0.05)
        foot = horizon + (h - horizon) * min(1.1, half / (0.04 * w)) * rng.uniform(0.3, 1.0)
        below, wide = x + rng.normal(0.0, 0.03) * w, 1.2 * half
        trunk = polygon((x - half, -9.0), (x + half, -9.0), (below + wide, foot), (below - wide, foot))
        add_region(canvas, "trunk", roughen(rng, trunk, half * 0.1), bark, tone=float(rng.uniform(0.4, 1.1)))
    return Setting("wood", horizon, float(rng.uniform(0.5, 2.0)), leaf.base, 0.2)


def _sky(rng: np.random.Generator, canvas: Canvas, bottom: float) -> None:
    """A sky down to row `bottom`: a vertical gradient with clouds."""
    w, rows = canvas.width, min(canvas.height, max(1, round(bottom)))
    centres = ((55.0, -4.0, -32.0), (70.0, -5.0, -22.0), (85.0, 0.0, -2.0), (72.0, 12.0, 25.0), (60.0, 0.0, -2.0),
               (35.0, 2.0, -25.0))  # fmt: skip
    top = lab_to_linear(near_lab(rng, centres[int(rng.choice(6, p=(0.25, 0.25, 0.22, 0.08, 0.15, 0.05)))], (6, 3, 5)))
    low = lab_to_linear(near_lab(rng, (85.0, 0.0, 2.0), (6.0, 2.0, 6.0)))
    t = np.linspace(0.0, 1.0, rows, dtype=np.float32)[:, None, None]
    colour = np.broadcast_to(top + (low - top) * t ** float(rng.uniform(0.8, 2.0)), (rows, w, 3)).copy()
    if rng.random() < 0.75:
        u, v = np.meshgrid(np.arange(w, dtype=np.float32), np.arange(rows, dtype=np.float32))
        zoom = canvas.tiles.size / w * float(rng.uniform(0.3, 0.9))
        field = sample(canvas.tiles.cloud, u * zoom, v * zoom * float(rng.uniform(1.5, 3.0)))
        threshold = float(rng.uniform(-0.8, 1.2))
        cover = ramp(field[..., 0], threshold, threshold + float(rng.uniform(0.3, 1.5))) * float(rng.uniform(0.3, 0.95))
        shade = lab_to_linear(near_lab(rng, (82.0, 0.0, -1.0), (10.0, 1.0, 3.0)))
        cloud = shade * np.exp(0.12 * field[..., 1:2])
        colour += (cloud - colour) * cover[..., None]
    canvas.image[:rows] = colour * float(rng.uniform(0.9, 1.5))
    canvas.labels[:rows] = canvas.add_node("sky", None, "plain", (0, 0, w, rows), backdrop=True)


def _skyline(
    rng: np.random.Generator, canvas: Canvas, top: float, bottom: float, rough: float, exponent: float
) -> Ring:
    """The outline of something with a ragged upper edge across the whole view."""
    num = 256
    x = np.linspace(-9.0, canvas.width + 9.0, num)
    y = top + ridge(rng, num, exponent) * rough * canvas.height + (x / canvas.width - 0.5) * rng.normal(0.0, 0.05) * top
    return np.concatenate([np.column_stack([x, np.minimum(y, bottom)]), polygon((x[-1], bottom), (x[0], bottom))])


def _distant(
    rng: np.random.Generator, canvas: Canvas, noun: str, ring: Ring, kind: str, air: np.ndarray, haze: float
) -> None:
    """A hill or wood seen through `haze` of the air's colour."""
    material = make_material(rng, kind, canvas.scale * 0.6, canvas.palette)
    node = add_region(canvas, noun, ring, material, tone=float(rng.uniform(0.5, 1.0)))
    if node is not None and haze > 0.0:
        x0, y0, x1, y1 = canvas.nodes[node].box
        view = canvas.image[y0:y1, x0:x1]
        veil = cv2.GaussianBlur((canvas.labels[y0:y1, x0:x1] == node).astype(np.float32), (0, 0), 0.7) * (0.9 * haze)
        view += (air - view) * veil[..., None]


def _ground(
    rng: np.random.Generator, canvas: Canvas, noun: str, kind: str, horizon: float, rugged: bool = False
) -> Material:
    """Ground from the horizon to the viewer, its texture in perspective."""
    material = make_material(rng, kind, canvas.scale, canvas.palette)
    rough = float(rng.uniform(0.004, 0.02)) if rugged or rng.random() < 0.4 else 0.0004
    ring = _skyline(rng, canvas, horizon, canvas.height + 9.0, rough, 1.2)
    add_region(canvas, noun, ring, material, *_perspective(canvas, horizon), tone=float(rng.uniform(0.7, 1.1)))
    return material


def _path(
    rng: np.random.Generator, canvas: Canvas, horizon: float, noun: str, kind: str, wide: bool = False
) -> tuple[float, float]:
    """A path or road from the viewer to the horizon; returns where its middle meets the horizon and the foot."""
    w, h = canvas.width, canvas.height
    centre, foot = w * float(rng.uniform(0.25, 0.75)), w * float(rng.uniform(0.2, 0.8))
    half = w * float(rng.uniform(0.3, 0.7) if wide else rng.uniform(0.08, 0.35))
    t = np.linspace(0.0, 1.0, 24)
    winding = 0.0 if wide else rng.normal(0.0, 0.15) * w
    middle = centre + (foot - centre) * t + winding * np.sin(np.pi * np.sqrt(t)) * (0.3 + t)
    y = horizon + 1.0 + (h + 9.0 - horizon) * t
    wide_at = half * (t + 0.01)
    ring = np.concatenate([np.column_stack([middle - wide_at, y]), np.column_stack([middle + wide_at, y])[::-1]])
    if not wide:
        ring = roughen(rng, ring, 0.004 * w, 160)
        ring[:, 1] = np.maximum(ring[:, 1], horizon)
    material = make_material(rng, kind, canvas.scale, canvas.palette)
    add_region(canvas, noun, ring, material, *_perspective(canvas, horizon), tone=float(rng.uniform(0.6, 1.1)))
    return centre, foot


def _near_strip(rng: np.random.Generator, canvas: Canvas, kind: str) -> None:
    """A band of different ground close to the viewer."""
    h = canvas.height
    ring = _skyline(rng, canvas, h * float(rng.uniform(0.75, 0.92)), h + 9.0, 0.015, 1.1)
    other = str(rng.choice([name for name in ("grass", "soil", "rock", "leaf") if name != kind]))
    material = make_material(rng, other, canvas.scale, canvas.palette)
    add_region(canvas, "foreground", ring, material, tone=float(rng.uniform(0.5, 1.1)))


def _perspective(canvas: Canvas, horizon: float) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """Texture coordinates of a ground plane, and how much of its contrast is left at each distance.

    The bottom row has the texture's own scale; `(u, v)` are (H, W), the contrast (H, 1).
    """
    w, h = canvas.width, canvas.height
    drop = max(h - horizon, 1.0)
    y = np.maximum(np.arange(h, dtype=np.float32) - horizon, 0.0) / drop
    distance = (1.0 / np.maximum(y, 0.03)).astype(np.float32)[:, None]
    u = (np.arange(w, dtype=np.float32)[None, :] - 0.5 * w) * distance
    v = np.broadcast_to(-drop * 0.9 * distance, u.shape)
    return (np.clip(u, -2e4, 2e4), np.ascontiguousarray(np.clip(v, -2e4, 2e4))), 1.0 / (1.0 + 0.06 * (distance - 1.0))
