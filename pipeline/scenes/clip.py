"""A labelled synthetic clip from a seed: things that move, turn, cover each other, leave and come back."""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from pipeline.scenes.camera import dapple, expose
from pipeline.scenes.canvas import Canvas
from pipeline.scenes.colours import name_colour, sample_palette
from pipeline.scenes.describe import phrase, with_article
from pipeline.scenes.figure import fitted
from pipeline.scenes.light import Light, sample_light
from pipeline.scenes.motion import Motion, sample_camera_motion, sample_motion
from pipeline.scenes.population import ANYTHING, extent, populate
from pipeline.scenes.scene import BACKDROPS, MIN_AREA, check_size, families, node_areas
from pipeline.scenes.stamp import Pose, draw_figure, make_materials
from pipeline.scenes.tiles import make_tiles

_MARGIN = 0.25  # of a side, how far the world goes on beyond the frame
_MAX_STILL = 6  # objects of the backdrop that are labelled


@dataclass(frozen=True)
class ClipObject:
    """What a clip's object is: a noun, words for it, and whether it moves in the world."""

    noun: str
    caption: str
    moves: bool


@dataclass(frozen=True)
class ClipFrame:
    """One frame: (H, W, 3) uint8 RGB; `owners` (H, W) int32, the object that one sees at each pixel, -1 for none;
    `visibility` (O,) float32, how much of each object is seen, of all of it, frame and covers aside, in [0, 1]."""

    image: np.ndarray
    owners: np.ndarray
    visibility: np.ndarray


@dataclass(frozen=True)
class _Sprite:
    """A moving object, drawn once: premultiplied linear colour (h, w, 3), coverage (h, w), its middle and path."""

    colour: np.ndarray
    alpha: np.ndarray
    middle: tuple[float, float]
    area: int
    motion: Motion
    shadow: tuple[float, float]  # pixels, where its shadow falls


class Clip:
    """The clip of a seed, a frame at a time: the same seed and size give the same frames, in any order.

    Raises ValueError as `render_scene`.
    """

    def __init__(self, seed: int, width: int = 256, height: int = 256) -> None:
        check_size(seed, width, height)
        self.seed, self.width, self.height = seed, width, height
        rng = np.random.default_rng((seed, 1))
        wide, high = round(width * (1 + 2 * _MARGIN)), round(height * (1 + 2 * _MARGIN))
        side = 1 << int(np.clip(np.round(np.log2(np.sqrt(width * height))), 6, 9))
        tiles, palette, light = make_tiles(rng, side), sample_palette(rng), sample_light(rng)
        world = Canvas(
            np.zeros((high, wide, 3), dtype=np.float32),
            np.full((high, wide), -1, dtype=np.int32),
            tiles,
            palette,
            light,
        )
        backdrop = BACKDROPS[int(rng.choice(len(BACKDROPS), p=[share for _, share in BACKDROPS]))][0]
        populate(rng, world, backdrop(rng, world), num_objects=int(rng.integers(2, 9)), max_nodes=120)
        dapple(rng, world)
        self._world = world.image
        self._camera = sample_camera_motion(rng, width, height, _MARGIN)
        self._owners, still, self._areas = _still_objects(world)
        self._sprites, moving = _make_sprites(rng, world, width, height)
        self._areas += [sprite.area for sprite in self._sprites]
        self.objects: tuple[ClipObject, ...] = (*still, *moving)
        self._lens_seed = int(rng.integers(1 << 31))

    def frame(self, index: int) -> ClipFrame:
        """Render frame `index`."""
        size = (self.width, self.height)
        centre = (0.5 * self._world.shape[1], 0.5 * self._world.shape[0])
        camera = self._camera.matrix(index, centre)
        image = cv2.warpAffine(self._world, camera[:2], size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        owners = cv2.warpAffine(
            self._owners, camera[:2], size, flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=-1
        )
        owners = owners.astype(np.int32)
        whole = np.array(self._areas, dtype=np.float64)
        whole *= abs(float(np.linalg.det(camera[:2, :2])))
        first = len(self.objects) - len(self._sprites)
        for number, sprite in enumerate(self._sprites, start=first):
            move = camera @ sprite.motion.matrix(index, sprite.middle)
            _lay(image, owners, number, sprite, move)
            whole[number] *= np.exp(2.0 * sprite.motion.log_size.at(index))
        picture = expose(np.random.default_rng(self._lens_seed), image, np.random.default_rng((self.seed, 2, index)))
        seen = np.bincount(owners.ravel() + 1, minlength=len(self.objects) + 1)[1:]
        visibility = np.clip(seen / np.maximum(whole, 1.0), 0.0, 1.0)
        return ClipFrame(picture, owners, visibility.astype(np.float32))

    def frames(self, count: int) -> Iterator[ClipFrame]:
        """The first `count` frames."""
        return map(self.frame, range(count))


def _lay(image: np.ndarray, owners: np.ndarray, number: int, sprite: _Sprite, move: np.ndarray) -> None:
    """Put a sprite and its shadow over the frame, in place; `move` (3, 3) takes its pixels to the frame's."""
    size = (image.shape[1], image.shape[0])
    alpha = cv2.warpAffine(sprite.alpha, move[:2], size, flags=cv2.INTER_LINEAR)
    shift = move[:2] + np.array([[0.0, 0.0, sprite.shadow[0]], [0.0, 0.0, sprite.shadow[1]]])
    shade = cv2.GaussianBlur(cv2.warpAffine(sprite.alpha, shift, size, flags=cv2.INTER_LINEAR), (0, 0), 2.5)
    image *= (1.0 - 0.4 * shade)[..., None]
    image *= (1.0 - alpha)[..., None]
    image += cv2.warpAffine(sprite.colour, move[:2], size, flags=cv2.INTER_LINEAR)
    owners[alpha >= 0.5] = number


def _still_objects(world: Canvas) -> tuple[np.ndarray, list[ClipObject], list[int]]:
    """The largest objects of the backdrop: who owns each pixel, (H, W) int16, -1 for none; what they are; areas."""
    area = node_areas(world)
    limit = 0.3 * world.labels.size
    tops = [
        index
        for index, node in enumerate(world.nodes)
        if node.parent is None and not node.backdrop and 4 * MIN_AREA <= area[index] <= limit
    ]
    tops = sorted(sorted(tops, key=lambda index: -int(area[index]))[:_MAX_STILL])
    family = families(world)
    numbers = np.full(len(world.nodes) + 1, -1, dtype=np.int16)  # the last entry stands for label -1
    for number, index in enumerate(tops):
        numbers[family[index]] = number
    owners = numbers[world.labels]
    objects = []
    for number, index in enumerate(tops):
        node = world.nodes[index]
        colour = _colour(world.image[owners == number], world.light)
        objects.append(ClipObject(node.noun, with_article(phrase(colour, node.pattern, node.noun)), False))
    return owners, objects, [int(area[index]) for index in tops]


def _make_sprites(
    rng: np.random.Generator, world: Canvas, width: int, height: int
) -> tuple[list[_Sprite], list[ClipObject]]:
    """The moving objects, back to front; now and then two that look the same."""
    sprites: list[_Sprite] = []
    objects: list[ClipObject] = []
    scale = float(np.sqrt(width * height))
    for _ in range(int(rng.integers(2, 7))):
        figure = fitted(ANYTHING[int(rng.integers(len(ANYTHING)))](rng), mirrored=bool(rng.random() < 0.5))
        size = scale * float(np.exp(rng.uniform(np.log(0.13), np.log(0.5))))
        low, high = extent(figure)
        size = min(size, 1.4 * scale / max(high - low, 1e-3))
        materials = make_materials(rng, world, figure, size)
        w, h = int(0.5 * size * (high - low)) + 6, int(size) + 6
        sheet = Canvas(np.zeros((h, w, 3), dtype=np.float32), np.full((h, w), -1, np.int32), world.tiles,
                       world.palette, world.light)  # fmt: skip
        drawn = draw_figure(sheet, figure, materials, Pose(3.0 - low * 0.5 * size, h - 3.0, size))
        if drawn is None or (area := int((drawn[3] >= 0.5).sum())) < 4 * MIN_AREA:
            continue
        root, (x0, y0, _, _), colour, alpha = drawn
        middle = (0.5 * w - x0, 0.5 * h - y0)
        words = phrase(_colour(colour[alpha >= 0.9], world.light), sheet.nodes[root].pattern, figure.noun)
        for _ in range(2 if rng.random() < 0.2 else 1):
            lx, ly, lz = world.light.direction
            drop = 0.08 * size / lz
            motion = sample_motion(rng, world.image.shape[1], world.image.shape[0])
            sprites.append(_Sprite(colour, alpha, middle, area, motion, (-lx * drop, -ly * drop)))
            objects.append(ClipObject(figure.noun, with_article(words), True))
    return sprites, objects


def _colour(pixels: np.ndarray, light: Light) -> str:
    """The name of linear-light colours (N, 3), as they look under the lamp."""
    lit = pixels / np.maximum(light.ambient + light.direct, 1e-3)
    shown = np.clip(lit, 0.0, 1.0) ** (1.0 / 2.2) * 255.0
    return name_colour(shown.astype(np.uint8))
