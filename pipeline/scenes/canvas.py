"""The canvas: paints surfaces back to front and keeps which surface owns each pixel."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from pipeline.scenes.colours import Palette
from pipeline.scenes.light import Light, inflate, shade
from pipeline.scenes.materials import Material, paint
from pipeline.scenes.outlines import Ring
from pipeline.scenes.tiles import Tiles

Box = tuple[int, int, int, int]  # x0, y0, x1, y1; x1 and y1 are outside
_SHIFT = 4  # fractional bits of polygon corners
_FAR = 30000.0  # OpenCV's fixed-point corners must stay small
_TINY = 40  # below this many pixels a surface gets no texture


@dataclass
class Node:
    """A surface or an object: the name, whose part it is, its pattern and where it may have pixels."""

    noun: str
    parent: int | None
    pattern: str
    box: Box
    backdrop: bool = False


@dataclass
class Canvas:
    """An image under construction, in linear light, and its label map (index of a node, -1 for none)."""

    image: np.ndarray  # (H, W, 3) float32
    labels: np.ndarray  # (H, W) int32
    tiles: Tiles
    palette: Palette
    light: Light
    nodes: list[Node] = field(default_factory=list)

    @property
    def width(self) -> int:
        return int(self.image.shape[1])

    @property
    def height(self) -> int:
        return int(self.image.shape[0])

    @property
    def scale(self) -> float:
        """The length that sizes are fractions of, in pixels."""
        return float(np.sqrt(self.width * self.height))

    def add_node(self, noun: str, parent: int | None, pattern: str, box: Box, backdrop: bool = False) -> int:
        """Add a node and return its index; its ancestors' boxes grow to hold it."""
        self.nodes.append(Node(noun, parent, pattern, box, backdrop))
        while parent is not None:
            above = self.nodes[parent]
            above.box = _union(above.box, box)
            parent = above.parent
        return len(self.nodes) - 1


def add_region(
    canvas: Canvas,
    noun: str,
    ring: Ring,
    material: Material,
    coordinates: tuple[np.ndarray, np.ndarray] | None = None,
    fade: np.ndarray | None = None,
    tone: float = 1.0,
    parent: int | None = None,
) -> int | None:
    """Paint a part of the backdrop within `ring`, in pixels; the new node's index, None if it lies outside.

    `coordinates` are the texture's (u, v) for the whole canvas, (H, W) each (flat if None); `fade` (H, 1) or (H, W)
    in [0, 1] scales the texture's contrast.
    """
    box = clip_box(ring_box((ring,)), (0, 0, canvas.width, canvas.height))
    if box is None:
        return None
    x0, y0, x1, y1 = box
    alpha = coverage((ring,), box)
    u, v = (grid[y0:y1, x0:x1] for grid in coordinates) if coordinates else flat_coordinates(box)
    colour, relief = paint(material, u, v, canvas.tiles)
    if fade is not None:
        part = np.broadcast_to(fade, (canvas.height, canvas.width))[y0:y1, x0:x1]
        mean = 0.6 * material.base + 0.4 * material.second
        colour = mean + (colour - mean) * part[..., None]
        relief = relief * part
    factor, highlight = shade(relief, canvas.light, material.gloss)
    colour = colour * factor * tone + highlight[..., None]
    node = canvas.add_node(noun, parent, material.pattern, box, backdrop=True)
    blend(canvas.image[y0:y1, x0:x1], colour, alpha)
    canvas.labels[y0:y1, x0:x1][alpha >= 0.5] = node
    return node


def coverage(rings: Sequence[Ring], box: Box) -> np.ndarray:
    """How much of each pixel of `box` the rings cover, filled even-odd, (H, W) float32 in [0, 1]."""
    x0, y0, x1, y1 = box
    mask = np.zeros((y1 - y0, x1 - x0), dtype=np.uint8)
    corners = [
        np.round(np.clip(ring - (x0 + 0.5, y0 + 0.5), -_FAR, _FAR) * (1 << _SHIFT)).astype(np.int32) for ring in rings
    ]
    cv2.fillPoly(mask, corners, 255, cv2.LINE_AA, _SHIFT)
    return mask.astype(np.float32) * (1.0 / 255.0)


def surface(canvas: Canvas, alpha: np.ndarray, box: Box, material: Material, relief: float, tone: float) -> np.ndarray:
    """The lit colour of a surface over `box`, (H, W, 3) float32 linear light."""
    if alpha.size < _TINY:
        flat = material.base * (canvas.light.ambient + canvas.light.direct) * tone
        return np.broadcast_to(flat.astype(np.float32), (*alpha.shape, 3))
    colour, bumps = paint(material, *flat_coordinates(box), canvas.tiles)
    height = bumps + inflate(alpha, relief) if relief > 0.0 else bumps
    factor, highlight = shade(height, canvas.light, material.gloss)
    colour *= factor
    colour *= tone
    if material.gloss >= 0.05:
        colour += highlight[..., None]
    return colour


def blend(under: np.ndarray, colour: np.ndarray, alpha: np.ndarray) -> None:
    """Put `colour` (H, W, 3) over `under` in place, with opacity `alpha` (H, W)."""
    under += (colour - under) * alpha[..., None]


def flat_coordinates(box: Box) -> tuple[np.ndarray, np.ndarray]:
    """Pixel coordinates of `box`, each (H, W) float32."""
    x0, y0, x1, y1 = box
    u, v = np.meshgrid(np.arange(x0, x1, dtype=np.float32), np.arange(y0, y1, dtype=np.float32))
    return u, v


def ring_box(rings: Sequence[Ring], pad: float = 1.0) -> Box:
    """The smallest box of whole pixels around the rings, `pad` pixels wider."""
    low = np.floor(np.min([ring.min(axis=0) for ring in rings], axis=0) - pad)
    high = np.ceil(np.max([ring.max(axis=0) for ring in rings], axis=0) + pad)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def clip_box(box: Box, limits: Box) -> Box | None:
    """The part of `box` within `limits`, None if there is none."""
    x0, y0 = max(box[0], limits[0]), max(box[1], limits[1])
    x1, y1 = min(box[2], limits[2]), min(box[3], limits[3])
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def _union(a: Box, b: Box) -> Box:
    return min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])
