"""Stamping a figure onto the canvas: its pieces, its shadow, its blur."""

from dataclasses import dataclass

import cv2
import numpy as np

from pipeline.scenes.canvas import Box, Canvas, blend, clip_box, coverage, ring_box, surface
from pipeline.scenes.figure import Figure
from pipeline.scenes.materials import Material, make_material
from pipeline.scenes.outlines import turn


@dataclass(frozen=True)
class Pose:
    """Where and how a figure appears: its foot's place and its height in pixels, its turn, blur and shadow."""

    x: float
    y: float
    size: float
    angle: float = 0.0
    defocus: float = 0.0  # standard deviation, pixels
    motion: tuple[float, float] = (0.0, 0.0)  # pixels moved during exposure
    haze: float = 0.0  # share of the air's colour
    shadow: str = "ground"  # "ground": cast along the floor; "wall": cast on what is close behind; "none"


def make_materials(
    rng: np.random.Generator, canvas: Canvas, figure: Figure, size: float, near: np.ndarray | None = None
) -> dict[str, Material]:
    """A material for each surface the figure names; `near` (3,) is a colour its first surface comes close to."""
    materials: dict[str, Material] = {}
    scale = float(np.clip(2.0 * size, 12.0, canvas.scale))
    for part in figure.pieces:
        if part.surface not in materials:
            kind = part.surface.split("/")[0]
            materials[part.surface] = make_material(rng, kind, scale, canvas.palette, None if materials else near)
    return materials


def stamp(canvas: Canvas, figure: Figure, materials: dict[str, Material], pose: Pose, air: np.ndarray) -> int | None:
    """Draw `figure` (fitted: 2 high, foot at y = 1) over the canvas; its node, None if it lies outside.

    `air` (3,) is the colour of haze. The label map takes the figure's sharp silhouette, whatever its blur.
    """
    drawn = draw_figure(canvas, figure, materials, pose)
    if drawn is None:
        return None
    root, box, colour, alpha = drawn
    if pose.shadow != "none":
        _cast_shadow(canvas, alpha, box, pose)
    _composite(canvas, colour, alpha, box, pose, air)
    return root


def draw_figure(
    canvas: Canvas, figure: Figure, materials: dict[str, Material], pose: Pose
) -> tuple[int, Box, np.ndarray, np.ndarray] | None:
    """Draw `figure` for itself: its node, its box, and over the box its colour, premultiplied, and its coverage.

    The label map takes its silhouette, the image is left as it is; None if it lies outside.
    """
    placed = [tuple(_place(ring, pose) for ring in part.rings) for part in figure.pieces]
    frame = (0, 0, canvas.width, canvas.height)
    blur = 3.0 * pose.defocus + max(abs(pose.motion[0]), abs(pose.motion[1]))
    box = clip_box(ring_box([r for rings in placed for r in rings], 2.0 + blur), frame)
    if box is None:
        return None
    x0, y0, x1, y1 = box
    colour = np.zeros((y1 - y0, x1 - x0, 3), dtype=np.float32)
    alpha = np.zeros(colour.shape[:2], dtype=np.float32)
    labels = canvas.labels[y0:y1, x0:x1]
    largest = max(figure.pieces, key=lambda part: cv2.contourArea(part.rings[0].astype(np.float32)))
    root = canvas.add_node(figure.noun, None, materials[largest.surface].pattern, box)
    nodes: list[int] = []
    shapes: list[tuple[Box, np.ndarray] | None] = []
    for part, rings in zip(figure.pieces, placed, strict=True):
        parent = root if part.parent is None else nodes[part.parent]
        material = materials[part.surface]
        inner = clip_box(ring_box(rings), box)
        nodes.append(nodes[-1] if part.joins else canvas.add_node(part.noun, parent, material.pattern, box))
        if inner is None:
            shapes.append(None)
            continue
        cover = coverage(rings, inner)
        if part.clipped and part.parent is not None:
            cover *= _window(shapes[part.parent], inner)
        shapes.append((inner, cover))
        ys, xs = slice(inner[1] - y0, inner[3] - y0), slice(inner[0] - x0, inner[2] - x0)
        blend(colour[ys, xs], surface(canvas, cover, inner, material, part.relief, part.tone), cover)
        alpha[ys, xs] += (1.0 - alpha[ys, xs]) * cover
        labels[ys, xs][cover >= 0.5] = nodes[-1]
    return root, box, colour, alpha


def _place(ring: np.ndarray, pose: Pose) -> np.ndarray:
    turned = turn(ring, pose.angle) if pose.angle else ring
    return (turned - (0.0, 1.0)) * (0.5 * pose.size) + (pose.x, pose.y)


def _window(shape: tuple[Box, np.ndarray] | None, box: Box) -> np.ndarray:
    """The part of an earlier coverage that lies in `box`, zero where it has none."""
    out = np.zeros((box[3] - box[1], box[2] - box[0]), dtype=np.float32)
    shared = clip_box(shape[0], box) if shape else None
    if shape is None or shared is None:
        return out
    (ox, oy, _, _), cover = shape
    x0, y0, x1, y1 = shared
    out[y0 - box[1] : y1 - box[1], x0 - box[0] : x1 - box[0]] = cover[y0 - oy : y1 - oy, x0 - ox : x1 - ox]
    return out


def _composite(canvas: Canvas, colour: np.ndarray, alpha: np.ndarray, box: Box, pose: Pose, air: np.ndarray) -> None:
    """Blur the drawn figure as one layer and put it over the image; `colour` is premultiplied by coverage."""
    if pose.haze > 0.0:
        colour += (air * alpha[..., None] - colour) * pose.haze
    if pose.defocus > 0.3:
        colour = cv2.GaussianBlur(colour, (0, 0), pose.defocus)
        alpha = cv2.GaussianBlur(alpha, (0, 0), pose.defocus)
    if max(map(abs, pose.motion)) >= 1.0:
        kernel = motion_kernel(pose.motion)
        colour, alpha = cv2.filter2D(colour, -1, kernel), cv2.filter2D(alpha, -1, kernel)
    target = canvas.image[box[1] : box[3], box[0] : box[2]]
    target *= (1.0 - alpha)[..., None]
    target += colour


def motion_kernel(motion: tuple[float, float]) -> np.ndarray:
    """The blur of a straight movement by (dx, dy) pixels, summing to 1."""
    radius = int(np.ceil(max(map(abs, motion)) / 2.0)) + 1
    kernel = np.zeros((2 * radius + 1, 2 * radius + 1), dtype=np.float32)
    half = np.array(motion) * 0.5
    start, end = np.round((radius - half) * 16.0).astype(int), np.round((radius + half) * 16.0).astype(int)
    cv2.line(kernel, tuple(map(int, start)), tuple(map(int, end)), 1.0, 1, cv2.LINE_8, 4)
    return kernel / kernel.sum()


def _cast_shadow(canvas: Canvas, alpha: np.ndarray, box: Box, pose: Pose) -> None:
    """Darken what lies behind: a soft cast shadow away from the lamp, and a dark seam where things meet."""
    lx, ly, lz = canvas.light.direction
    if pose.shadow == "ground":
        lean, squash = -1.1 * lx / lz, float(np.clip(0.55 * ly / lz, -0.6, -0.12))
        # A point h above the foot falls h * lean sideways and h * -squash up the picture, away from the viewer.
        matrix = np.array([[1.0, -lean, lean * pose.y], [0.0, -squash, pose.y * (1.0 + squash)]])
        softness = 0.03
    else:
        offset = 0.06 * pose.size / lz
        matrix = np.array([[1.0, 0.0, -lx * offset], [0.0, 1.0, -ly * offset]])
        softness = 0.02 + 0.02 * lz
    hidden = float(canvas.light.direct.mean())
    _darken(canvas, alpha, box, matrix, max(1.0, softness * pose.size + pose.defocus), 0.85 * hidden)
    still = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    _darken(canvas, alpha, box, still, max(1.0, 0.02 * pose.size + pose.defocus), 0.35)


def _darken(canvas: Canvas, alpha: np.ndarray, box: Box, matrix: np.ndarray, sigma: float, strength: float) -> None:
    """Multiply the image by 1 - strength * (alpha moved by `matrix`, canvas to canvas, and blurred)."""
    x0, y0, x1, y1 = box
    corners = np.array([[x0, y0, 1.0], [x1, y0, 1.0], [x0, y1, 1.0], [x1, y1, 1.0]]) @ matrix.T
    area = clip_box(ring_box((corners,), 3.0 * sigma), (0, 0, canvas.width, canvas.height))
    if area is None:
        return
    ax, ay, bx, by = area
    shrink = max(1.0, sigma / 1.5)
    size = (max(1, round((bx - ax) / shrink)), max(1, round((by - ay) / shrink)))
    shrink_x, shrink_y = (bx - ax) / size[0], (by - ay) / size[1]
    step = max(1, int(shrink))
    moved = matrix.copy()
    moved[:, 2] += matrix[:, :2] @ (x0, y0) - (ax, ay)
    moved[:, :2] *= step
    moved /= np.array([[shrink_x], [shrink_y]])
    small = cv2.warpAffine(np.ascontiguousarray(alpha[::step, ::step]), moved, size, flags=cv2.INTER_LINEAR)
    small = cv2.GaussianBlur(small, (0, 0), sigma / shrink)
    soft = cv2.resize(small, (bx - ax, by - ay), interpolation=cv2.INTER_LINEAR)
    canvas.image[ay:by, ax:bx] *= (1.0 - strength * np.clip(soft, 0.0, 1.0))[..., None]
