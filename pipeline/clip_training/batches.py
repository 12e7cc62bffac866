"""The batches of a CLIP training: which views, which texts, as a function of (seed, step)."""

from collections.abc import Sequence

import cv2
import numpy as np
import torch

from models.clip.config import ClipConfig
from models.clip.regions import ViewSettings, normalise_views, region_view, whole_view
from models.clip.tokenizer import ClipTokenizer
from models.training.clip_trainer import ClipBatch, TextGroup
from pipeline.clip_training.views import LabelledPicture, LabelledView
from stages.vocabulary import Vocabulary

SCALE_JITTER = 0.1
NUM_BLANKS = 4  # views a step that show nothing


class ClipBatches:
    """`images_per_step` pictures a step in a new order each epoch, the whole view of each and `masks_per_image` masks.

    A mask is seen at a scale drawn from the range of the settings' scales, mirrored half the time. The texts of a group
    are put into a template drawn anew for each step; those of a group with few texts (at most `max_texts`) all take
    part in every step, of others only those that the views show. A few views show nothing, so that the model learns to
    say so, by the texts that the vocabulary has for that.
    """

    def __init__(
        self,
        pictures: Sequence[LabelledPicture],
        vocabulary: Vocabulary,
        tokenizer: ClipTokenizer,
        config: ClipConfig,
        views: ViewSettings,
        seed: int,
        images_per_step: int,
        masks_per_image: int,
        max_texts: int = 256,
    ) -> None:
        self.pictures = [picture for picture in pictures if picture.masks]
        self.templates = {group.name: group.templates for group in vocabulary.groups}
        self.blank_texts = {group.name: group.nothing[0] for group in vocabulary.groups if group.nothing}
        self.tokenizer = tokenizer
        self.config = config
        self.views = views
        self.seed = seed
        self.images_per_step = images_per_step
        self.masks_per_image = masks_per_image
        known: dict[str, set[str]] = {}
        for picture in self.pictures:
            for view in picture.masks:
                for group, text in view.texts.items():
                    known.setdefault(group, set()).add(text)
        for group in known:
            known[group].update([self.blank_texts[group]] if group in self.blank_texts else [])
        self.always = {group: sorted(texts) for group, texts in known.items() if len(texts) <= max_texts}

    def __call__(self, step: int) -> ClipBatch:
        rng = np.random.default_rng([self.seed, 1, step])
        images: list[np.ndarray] = []
        shown: list[LabelledView] = []
        for number in range(step * self.images_per_step, (step + 1) * self.images_per_step):
            epoch, place = divmod(number, len(self.pictures))
            order = np.random.default_rng([self.seed, 0, epoch]).permutation(len(self.pictures))
            self._see(self.pictures[int(order[place])], rng, images, shown)
        for _ in range(NUM_BLANKS if self.blank_texts else 0):
            images.append(blank_view(rng, self.config.image_size))
            shown.append(LabelledView(None, (0, 0, 0, 0), self.blank_texts))
        return ClipBatch(normalise_views(images, self.config), self._groups(shown, rng))

    def _see(
        self, picture: LabelledPicture, rng: np.random.Generator, images: list[np.ndarray], shown: list[LabelledView]
    ) -> None:
        pixels = picture.pixels()
        if picture.whole is not None:
            images.append(_mirror(whole_view(pixels, self.config), rng))
            shown.append(picture.whole)
        count = min(self.masks_per_image, len(picture.masks))
        for index in rng.choice(len(picture.masks), count, replace=False):
            view = picture.masks[int(index)]
            assert view.rle is not None
            scale = rng.uniform(min(self.views.scales), max(self.views.scales)) + rng.uniform(0, SCALE_JITTER)
            seen = region_view(pixels, view.rle, view.bbox, scale, self.views, self.config)
            images.append(_mirror(seen, rng))
            shown.append(view)

    def _groups(self, shown: list[LabelledView], rng: np.random.Generator) -> list[TextGroup]:
        groups = []
        for name in sorted({group for view in shown for group in view.texts}):
            rows = [row for row, view in enumerate(shown) if name in view.texts]
            texts = self.always.get(name) or sorted({shown[row].texts[name] for row in rows})
            place = {text: index for index, text in enumerate(texts)}
            template = str(rng.choice(self.templates.get(name, ["{}"])))
            tokens = self.tokenizer([template.replace("{}", text) for text in texts])
            targets = torch.tensor([place[shown[row].texts[name]] for row in rows])
            groups.append(TextGroup(name, tokens, torch.tensor(rows), targets, classes=name in self.always))
        return groups


def blank_view(rng: np.random.Generator, size: int) -> np.ndarray:
    """What shows nothing, (size, size, 3): one colour, noise in every pixel, or coarse noise."""
    kind = int(rng.integers(3))
    if kind == 0:
        return np.broadcast_to(rng.integers(0, 256, 3).astype(np.uint8), (size, size, 3))
    cells = size if kind == 1 else int(rng.integers(4, 17))
    noise = rng.integers(0, 256, (cells, cells, 3)).astype(np.uint8)
    return cv2.resize(noise, (size, size), interpolation=cv2.INTER_NEAREST)


def _mirror(view: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return view[:, ::-1] if rng.random() < 0.5 else view
