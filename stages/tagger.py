"""A CLIP with a vocabulary: what encodes masks, and what chooses their tags from the features."""

import json
from typing import Any

import numpy as np

from models.clip.regions import ViewSettings
from models.clip.resnet import ModifiedResNet, fold_batch_norms
from models.weight_files import read_metadata
from models.weights import TAGS_NOTE, VIEWS_NOTE, CheckpointError, load_clip, load_clip_tokenizer
from stages.embed_masks import Features, MaskEncoder
from stages.tag_rules import (
    GroupScores,
    Tag,
    Thresholds,
    best_candidates,
    choose_tags,
    image_tags,
    join_tags,
    score_group,
)
from stages.tag_settings import TagSettings
from stages.text_embeddings import text_embeddings
from stages.vocabulary import Vocabulary


class Tagger:
    """Raises CheckpointError and ValueError for a checkpoint, views or words that cannot be used."""

    def __init__(self, settings: TagSettings, vocabulary: Vocabulary, device: str, views_per_batch: int) -> None:
        self.clip, sha256 = load_clip(settings.checkpoint)
        if isinstance(self.clip.visual, ModifiedResNet):
            fold_batch_norms(self.clip.visual)
        self.clip = self.clip.to(device)
        self.tokenizer = load_clip_tokenizer(settings.checkpoint, self.clip.config, settings.tokens)
        self.vocabulary = vocabulary
        self.candidates = settings.candidates
        self.words = text_embeddings(self.clip, self.tokenizer, vocabulary, sha256)
        self.scale = float(self.clip.logit_scale.exp())
        self.thresholds = thresholds_for(settings)
        dense_size = settings.dense_size if settings.dense else None
        self.encoder = MaskEncoder(self.clip, views_for(settings), views_per_batch, dense_size)

    def scores(self, image: Features, regions: Features) -> list[GroupScores]:
        """Of each group, for N regions (N, D) of the image with the feature (D,)."""
        found = []
        for group, words in zip(self.vocabulary.groups, self.words, strict=True):
            candidates = best_candidates(image, words, len(group.words), self.candidates)
            found.append(score_group(group, regions, words, self.scale, candidates))
        return found

    def tags(self, image: Features, masks: Features) -> tuple[list[Tag], list[list[Tag]]]:
        """The image's tags, of the first group only (an image has no one colour), and those of each mask (N, D)."""
        scores = self.scores(image, np.concatenate([image[None], masks]))
        chosen = [choose_tags(one, self.thresholds) for one in scores]
        of_masks = join_tags(self.vocabulary, [one[1:] for one in chosen], len(masks))
        return image_tags(chosen[0][1:], chosen[0][0]), of_masks


def views_for(settings: TagSettings) -> ViewSettings:
    """The recipe's views, else those that the checkpoint was trained with, else the default."""
    if settings.views is not None:
        return settings.views
    note = read_metadata(settings.checkpoint).get(VIEWS_NOTE)
    return ViewSettings() if note is None else ViewSettings.model_validate_json(note)


def thresholds_for(settings: TagSettings) -> Thresholds:
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
