"""The batches of a CLIP training: which views, which texts, as a function of (seed, step)."""

import cv2
import numpy as np
import torch

from models.clip.config import ClipConfig
from models.clip.tokenizer import ClipTokenizer
from models.training.clip_trainer import ClipBatch, TextGroup
from pipeline.clip_training.packed import PackedViews
from pipeline.clip_training.views import LabelledView
from stages.vocabulary import Vocabulary

NUM_BLANKS = 4  # views a step that show nothing


class ClipBatches:
    """`masks_per_step` masks and `images_per_step` whole images a step, each in a new order each epoch.

    A mask is seen at all scales, mirrored half the time. The texts of a group are put into a template drawn anew for
    each step; those of a group with few texts (at most `max_texts`) all take part in every step, of others only those
    that the views show. A few views show nothing, so that the model learns to say so, by the texts that the vocabulary
    has for that.
    """

    def __init__(
        self,
        views: PackedViews,
        vocabulary: Vocabulary,
        tokenizer: ClipTokenizer,
        config: ClipConfig,
        seed: int,
        images_per_step: int,
        masks_per_step: int,
        max_texts: int = 256,
    ) -> None:
        self.views = views
        self.templates = {group.name: group.templates for group in vocabulary.groups}
        self.blank_texts = {group.name: group.nothing[0] for group in vocabulary.groups if group.nothing}
        self.tokenizer = tokenizer
        self.config = config
        self.seed = seed
        self.images_per_step = images_per_step
        self.masks_per_step = masks_per_step
        known: dict[str, set[str]] = {}
        for view in views.masks:
            for group, text in view.texts.items():
                known.setdefault(group, set()).add(text)
        for group in known:
            known[group].update([self.blank_texts[group]] if group in self.blank_texts else [])
        self.always = {group: sorted(texts) for group, texts in known.items() if len(texts) <= max_texts}

    def __call__(self, step: int) -> ClipBatch:
        rng = np.random.default_rng([self.seed, 1, step])
        images: list[np.ndarray] = []
        shown: list[LabelledView] = []
        shows: list[int] = []
        for place in self._places(step, 0, self.masks_per_step, len(self.views.masks)):
            mirrored = rng.random() < 0.5
            for view in self.views.of_masks[place]:
                images.append(view[:, ::-1] if mirrored else view)
                shows.append(len(shown))
            shown.append(self.views.masks[place])
        for place in self._places(step, 1, self.images_per_step, len(self.views.wholes)):
            whole = self.views.of_wholes[place]
            images.append(whole[:, ::-1] if rng.random() < 0.5 else whole)
            shows.append(len(shown))
            shown.append(self.views.wholes[place])
        for _ in range(NUM_BLANKS if self.blank_texts else 0):
            images.append(blank_view(rng, self.config.image_size))
            shows.append(len(shown))
            shown.append(LabelledView(None, (0, 0, 0, 0), self.blank_texts))
        return ClipBatch(torch.from_numpy(np.stack(images)), torch.tensor(shows), self._groups(shown, rng))

    def _places(self, step: int, kind: int, count: int, length: int) -> list[int]:
        """Of `length` things the `count` of this step."""
        found: list[int] = []
        for number in range(step * count, (step + 1) * count) if length else ():
            epoch, place = divmod(number, length)
            if not found or place == 0:
                order = np.random.default_rng([self.seed, 0, kind, epoch]).permutation(length)
            found.append(int(order[place]))
        return found

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
