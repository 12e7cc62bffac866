"""What masks are tagged with, read from its files once: a CLIP, its tokens, words, views and thresholds."""

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from models.clip.regions import ViewSettings
from models.clip.tokenizer import ClipTokenizer
from models.pinned_weights import PinnedWeights
from models.weight_files import read_metadata
from models.weights import TAGS_NOTE, VIEWS_NOTE, CheckpointError, load_clip, load_clip_tokenizer
from stages.tag_rules import Thresholds
from stages.tag_settings import TagSettings
from stages.text_embeddings import check_lengths, text_direction
from stages.vocabulary import Vocabulary


@dataclass(frozen=True)
class Tagging:
    """Everything that decides the tags, so that workers read no file but the CLIP's `weights`, and those only if they
    are the same."""

    settings: TagSettings
    weights: PinnedWeights
    tokenizer: ClipTokenizer = field(compare=False)
    vocabulary: Vocabulary
    views: ViewSettings
    thresholds: Thresholds

    def direction(self, text: str) -> np.ndarray:
        """The direction (D,) of unit length that a recipe's `generate.text` has. Raises ValueError (CheckpointError
        among them) for a text that is empty or too long, and for weights that are no longer the same."""
        clip = self.weights.checked(*load_clip(self.weights.checkpoint))
        return text_direction(clip, self.tokenizer, text, "generate.text")


def read_tagging(settings: TagSettings, vocabulary: Vocabulary) -> Tagging:
    """Reads the CLIP that `settings` name, and what is stored with it.

    Raises ValueError (CheckpointError among them) for a checkpoint that cannot be read, and for a word that is too
    long for it.
    """
    clip, sha256 = load_clip(settings.checkpoint)
    tokenizer = load_clip_tokenizer(settings.checkpoint, clip.config, settings.tokens)
    for group in vocabulary.groups:
        check_lengths(tokenizer, group)
    weights = PinnedWeights(settings.checkpoint, sha256)
    return Tagging(settings, weights, tokenizer, vocabulary, views_for(settings), _thresholds_for(settings))


def views_for(settings: TagSettings) -> ViewSettings:
    """The recipe's views, else those that the checkpoint was trained with, else the default."""
    if settings.views is not None:
        return settings.views
    note = read_metadata(settings.checkpoint).get(VIEWS_NOTE)
    return ViewSettings() if note is None else ViewSettings.model_validate_json(note)


def _thresholds_for(settings: TagSettings) -> Thresholds:
    """The recipe's threshold for every tag, else the checkpoint's calibrated ones, else the default."""
    if settings.threshold is not None:
        return Thresholds({}, {}, settings.threshold)
    note = read_metadata(settings.checkpoint).get(TAGS_NOTE)
    if note is None:
        return Thresholds({}, {})
    try:
        stored: dict[str, Any] = json.loads(note)
        return Thresholds(dict(stored["groups"]), {group: dict(words) for group, words in stored["words"].items()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{settings.checkpoint}: its calibrated thresholds are broken ({error})") from error
