"""Prompts that say what to segment: the CLIP embedding of a mask's own crop, in the place where a text's stands later.

Kirillov et al. 2023, arXiv:2304.02643, appendix D.5: the embedding is the first prompt, clicks follow as for any other;
only masks of at least 100 x 100 pixels, their boxes enlarged by a random factor of up to 2. What is not the mask is
blurred and not blacked out, as everywhere here. CLIP itself does not learn.
"""

from collections.abc import Sequence
from typing import Annotated

import cv2
import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from models.clip.model import Clip
from models.clip.regions import ViewSettings, normalise_views, region_view
from models.masks.rle import bounding_boxes, encode_masks
from models.sam.clip_prompt import ClipPrompt
from models.sam.mask_decoder import EmbeddedImage
from models.sam.model import Sam
from models.training.augment import Example
from models.training.clicks import sample_masks
from models.training.interactive import PromptGroup, PromptSettings, PromptTally, attention_of_few, click_rounds
from models.training.losses import LossWeights


class TextPromptSettings(BaseModel):
    """`num_prompts` an image, of masks of at least `min_side` squared pixels of the frame; a crop's side is up to
    `max_expand` times its box's. With `alone` nothing but the projection learns, and the SAM stays as it is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_prompts: Annotated[int, Field(ge=1)] = 8
    min_side: Annotated[int, Field(ge=1)] = 100
    max_expand: Annotated[float, Field(ge=1, le=8)] = 2.0
    alone: bool = False


class TextPrompter:
    """A frozen CLIP with the views that it is used to, and the projection that learns to prompt a SAM with it."""

    def __init__(self, clip: Clip, views: ViewSettings, projection: ClipPrompt, settings: TextPromptSettings) -> None:
        self.clip = clip.eval().requires_grad_(False)
        self.views = views
        self.projection = projection.train().requires_grad_(True)
        self.settings = settings

    def to(self, device: torch.device) -> "TextPrompter":
        self.clip.to(device)
        self.projection.to(device)
        return self

    @torch.no_grad()
    def embed(self, image: Tensor, masks: Tensor, frame: int, generator: torch.Generator) -> Tensor:
        """CLIP embeddings (N, D) of masks (N, M, M) bool of the whole frame, whose picture is `image` (3, h, w) uint8.

        A mask outside of the picture has the embedding of its middle.
        """
        pixels = np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())  # (h, w, 3)
        height, width = pixels.shape[:2]
        cells = masks.cpu().numpy().astype(np.uint8)
        full = np.stack([cv2.resize(one, (frame, frame), interpolation=cv2.INTER_NEAREST) for one in cells])
        rles = encode_masks(full[:, :height, :width])
        random = torch.rand(len(masks), generator=generator, device=generator.device)
        scales = (1 + (self.settings.max_expand - 1) * random).tolist()
        views = []
        for rle, bbox, scale in zip(rles, bounding_boxes(rles, height).tolist(), scales, strict=True):
            x, y, w, h = bbox if bbox[2] else (width // 2, height // 2, 1, 1)
            views.append(region_view(pixels, rle, (x, y, w, h), scale, self.views, self.clip.config))
        return self.clip.encode_image(normalise_views(views, self.clip.config, self.clip.device)).float()


def train_on_text_prompts(
    sam: Sam,
    prompter: TextPrompter,
    images: EmbeddedImage,
    examples: Sequence[Example],
    settings: PromptSettings,
    weights: LossWeights,
    step: int,
    generator: torch.Generator,
    share: float,
    bf16: bool,
) -> PromptTally | None:
    """As `train_on_prompts`, first prompted by what CLIP sees of the mask. None if no image has a mask large enough."""
    frame, how = sam.config.image_size, prompter.settings
    drawn: dict[int, Tensor] = {}
    seen = []
    for index, example in enumerate(examples):
        masks, chance = example.masks.to(sam.device), example.weights.to(sam.device)
        cell_area = (frame / masks.shape[-1]) ** 2
        large = masks.flatten(1).sum(dim=1) * cell_area >= how.min_side**2
        if large.any():
            masks, chance = masks[large], chance[large]
            drawn[index] = masks[sample_masks(masks, chance, how.num_prompts, generator)]
            seen.append(prompter.embed(example.image, drawn[index], frame, generator))
    if not drawn:
        return None
    clip_embeddings = torch.cat(seen)
    places = torch.tensor(list(drawn), device=images.embedding.device)
    rounds = click_rounds(settings, generator)
    group = PromptGroup(
        sam,
        images,
        places,
        torch.cat(list(drawn.values())),
        generator,
        tokens=lambda: prompter.projection(clip_embeddings),
    )
    with attention_of_few(sam.device):
        return group.run(rounds, weights, step, share / (how.num_prompts * (1 + len(rounds))), bf16)
