"""A CLIP with a vocabulary: what encodes masks, and what chooses their tags from the features."""

import numpy as np

from models.clip.resnet import ModifiedResNet, fold_batch_norms
from models.weights import load_clip
from stages.embed_masks import Features, MaskEncoder
from stages.tag_rules import (
    GroupScores,
    Tag,
    best_candidates,
    choose_tags,
    image_tags,
    join_tags,
    score_group,
)
from stages.tagging import Tagging
from stages.text_embeddings import text_embeddings


class Tagger:
    """Loads the CLIP on a device. Raises CheckpointError for weights that are not the tagging's, and ValueError for
    settings that do not fit them."""

    def __init__(self, tagging: Tagging, device: str, views_per_batch: int) -> None:
        settings, weights = tagging.settings, tagging.weights
        self.clip = weights.checked(*load_clip(weights.checkpoint))
        if isinstance(self.clip.visual, ModifiedResNet):
            fold_batch_norms(self.clip.visual)
        self.clip = self.clip.to(device)
        self.tokenizer = tagging.tokenizer
        self.vocabulary = tagging.vocabulary
        self.candidates = settings.candidates
        self.words = text_embeddings(self.clip, self.tokenizer, self.vocabulary, weights.sha256)
        self.scale = float(self.clip.logit_scale.exp())
        self.thresholds = tagging.thresholds
        dense_size = settings.dense_size if settings.dense else None
        self.encoder = MaskEncoder(self.clip, tagging.views, views_per_batch, dense_size)

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
