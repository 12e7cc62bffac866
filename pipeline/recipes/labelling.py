"""What a run labels with, read once on the driver: the vocabulary, and the hashes of what decides the labels."""

from functools import lru_cache
from typing import Any

from models.weight_files import read_checkpoint
from models.weights import load_clip_tokenizer, read_clip_config
from pipeline.recipes.recipe import Recipe
from pipeline.recipes.texts import direction_of
from pipeline.recipes.vocabularies import read_vocabulary
from pipeline.video.recipe import VideoRecipe
from stages.caption_masks import min_score_for
from stages.caption_rules import check_caption_templates
from stages.tagger import thresholds_for, views_for
from stages.text_embeddings import check_lengths
from stages.vocabulary import Vocabulary


def vocabulary_of(recipe: Recipe | VideoRecipe) -> Vocabulary:
    """The vocabulary of a recipe that tags. Raises ValueError if it cannot be read."""
    assert recipe.tag is not None
    return read_vocabulary(recipe.tag.vocabulary)


def label_content(recipe: Recipe | VideoRecipe) -> dict[str, dict[str, Any]]:
    """What the links `embed`, `tag`, `caption` and `text` of the fingerprint stand for, as far as the recipe has them.

    Raises ValueError (CheckpointError among them) for a checkpoint or vocabulary that cannot be read, for a word or
    text that is too long for the model, and for captions' templates that do not fit.
    """
    if recipe.tag is None:
        return {}
    settings, thresholds = recipe.tag, thresholds_for(recipe.tag)
    _check_lengths(settings.checkpoint, settings.tokens, vocabulary_of(recipe))
    content: dict[str, dict[str, Any]] = {
        "embed": {
            "weights_sha256": _sha256(settings.checkpoint),
            "views": views_for(settings).model_dump(mode="json"),
            "dense_size": settings.dense_size if settings.dense else None,
        },
        "tag": {
            "vocabulary": vocabulary_of(recipe).sha256(),
            "threshold": settings.threshold,
            "group_thresholds": dict(thresholds.groups),
            "word_thresholds": {group: dict(words) for group, words in thresholds.words.items()},
            "candidates": settings.candidates,
        },
    }
    if (caption := recipe.caption) is not None:
        check_caption_templates(caption.templates, vocabulary_of(recipe))
        plain = caption.model_dump(mode="json", exclude={"captioner"})
        weights = None if caption.captioner is None else _sha256(caption.captioner)
        content["caption"] = plain | {"weights_sha256": weights, "min_score": min_score_for(caption)}
    if direction_of(recipe) is not None:
        content["text"] = {"text": recipe.generate.text}
    return content


def label_weights(recipe: Recipe | VideoRecipe) -> dict[str, str]:
    """The checkpoints that the recipe labels with, and their sha256. Raises CheckpointError."""
    named = [recipe.tag and recipe.tag.checkpoint, recipe.caption and recipe.caption.captioner]
    return {checkpoint: _sha256(checkpoint) for checkpoint in named if checkpoint}


def text_prompt_content(recipe: Recipe) -> dict[str, Any]:
    """What decides a text's prompt, where the recipe has a projection that makes one. Raises CheckpointError."""
    if recipe.model.clip_prompt is None:
        return {}
    assert recipe.tag is not None, "the recipe makes sure of it"
    return {
        "text": recipe.generate.text,
        "clip_prompt_sha256": _sha256(recipe.model.clip_prompt),
        "clip_sha256": _sha256(recipe.tag.checkpoint),
    }


@lru_cache(maxsize=8)
def _check_lengths(checkpoint: str, tokens: str | None, vocabulary: Vocabulary) -> None:
    tokenizer = load_clip_tokenizer(checkpoint, read_clip_config(checkpoint), tokens)
    for group in vocabulary.groups:
        check_lengths(tokenizer, group)


@lru_cache(maxsize=8)
def _sha256(checkpoint: str) -> str:
    return read_checkpoint(checkpoint).sha256
