"""A recipe with all that its files hold: read here, once, so that nothing later in a run can be another."""

from dataclasses import dataclass

import numpy as np
import torch

from models.pinned_weights import PinnedWeights
from models.sam2.weights import load_segmenter
from models.weight_files import read_metadata
from models.weights import CheckpointError, load_clip_prompt
from pipeline.recipes.recipe import Recipe
from pipeline.recipes.vocabularies import read_vocabulary
from stages.caption_settings import CaptionSettings
from stages.captioning import Captioning, read_captioning
from stages.tag_settings import TagSettings
from stages.tagging import Tagging, read_tagging


@dataclass(frozen=True)
class ResolvedLabels:
    """What names masks, and what describes them, if the recipe asks for that."""

    tagging: Tagging
    captioning: Captioning | None

    def checkpoints(self) -> dict[str, str]:
        """The checkpoints that it needs, and the sha256 of each."""
        pinned = [self.tagging.weights]
        if self.captioning is not None and self.captioning.captioner is not None:
            pinned.append(self.captioning.captioner)
        return {weights.checkpoint: weights.sha256 for weights in pinned}


@dataclass(frozen=True)
class TextPrompt:
    """A recipe's `generate.text` as a prompt (C,) of the SAM, and the projection that made it."""

    token: np.ndarray
    projection_sha256: str


@dataclass(frozen=True)
class ResolvedRun:
    """A recipe and what it stands for. `labels` are there where it has a `tag` section, `direction` (D,) where it has
    a text, `prompt` where that text prompts the SAM too."""

    recipe: Recipe
    weights: PinnedWeights
    labels: ResolvedLabels | None
    direction: np.ndarray | None
    prompt: TextPrompt | None

    def checkpoints(self) -> dict[str, str]:
        """The checkpoints that workers load, and the sha256 of each."""
        labels = {} if self.labels is None else self.labels.checkpoints()
        return {self.weights.checkpoint: self.weights.sha256} | labels


def resolve(recipe: Recipe) -> ResolvedRun:
    """Reads every file that decides a result of the recipe.

    Raises ValueError (CheckpointError among them) for a checkpoint, vocabulary, text or projection that cannot be read
    or that do not fit each other.
    """
    sam, sha256 = load_segmenter(recipe.model.checkpoint, recipe.model.image_size)
    resolved = resolve_labels_of(recipe, PinnedWeights(recipe.model.checkpoint, sha256))
    width = sam.config.prompt_embed_dim
    if resolved.prompt is not None and len(resolved.prompt.token) != width:
        raise CheckpointError(
            f"model.clip_prompt: {recipe.model.clip_prompt} makes prompts of {len(resolved.prompt.token)} values, "
            f"{recipe.model.checkpoint} reads {width}; choose a projection that was trained with this SAM"
        )
    return resolved


def resolve_labels_of(recipe: Recipe, weights: PinnedWeights) -> ResolvedRun:
    """As `resolve`, for work without a SAM: its `weights` are known from before and need not be at hand."""
    labels = resolve_labels(recipe.tag, recipe.caption)
    if labels is None or recipe.generate.text is None:
        return ResolvedRun(recipe, weights, labels, None, None)
    direction = labels.tagging.direction(recipe.generate.text)
    path = recipe.model.clip_prompt
    prompt = None if path is None else _text_prompt(path, labels.tagging, direction)
    return ResolvedRun(recipe, weights, labels, direction, prompt)


def resolve_labels(tag: TagSettings | None, caption: CaptionSettings | None) -> ResolvedLabels | None:
    """Reads what a recipe's sections `tag` and `caption` name; None without `tag`. Raises ValueError as `resolve`."""
    if tag is None:
        return None
    tagging = read_tagging(tag, read_vocabulary(tag.vocabulary))
    return ResolvedLabels(tagging, None if caption is None else read_captioning(caption, tagging))


def _text_prompt(path: str, tagging: Tagging, direction: np.ndarray) -> TextPrompt:
    projection, sha256 = load_clip_prompt(path)
    trained_for = read_metadata(path).get("clip_sha256")
    width = projection.projection.in_features
    if width != len(direction) or trained_for not in (None, tagging.weights.sha256):
        sizes = f" (of {width} values, not {len(direction)})" if width != len(direction) else ""
        raise CheckpointError(
            f"model.clip_prompt: {path} projects the embeddings of another CLIP than {tagging.weights.checkpoint}"
            f"{sizes}; set tag.checkpoint to the one that it was trained with"
        )
    return TextPrompt(projection(torch.from_numpy(direction)[None])[0, 0].numpy(), sha256)
