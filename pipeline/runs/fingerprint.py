"""The fingerprint: a chain of hashes, one link a stage, over what decides a result and nothing else."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from pipeline.recipes.recipe import Recipe
from pipeline.runs.resolve import ResolvedLabels, ResolvedRun

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Fingerprint:
    """`links` name → hash; `content` name → the flat settings that went into the link, to say what changed."""

    links: dict[str, str]
    content: dict[str, dict[str, Any]]


def fingerprint(resolved: ResolvedRun) -> Fingerprint:
    """Hashes links `generate` and `filter`, and of a recipe that names masks `embed`, `tag`, `caption` and `text`.

    Reads no file. Paths, pool and batch sizes, devices and `commit_every` are not part of the links.
    """
    recipe = resolved.recipe
    content = {
        "generate": flat(
            {
                "schema_version": SCHEMA_VERSION,
                "weights_sha256": resolved.weights.sha256,
                "model": {"image_size": recipe.model.image_size},
                "decode": _decode_content(recipe),
                # a text alone ranks what was generated, which is the link `text`
                "generate": recipe.generate.model_dump(mode="json", exclude_none=True, exclude={"text"}),
                # a threshold below the store floor decides which candidates exist at all
                "min_predicted_iou": recipe.min_predicted_iou,
                "min_stability_score": recipe.min_stability,
                **({} if recipe.dedup is None else {"dedup": recipe.dedup}),
                **_prompt_content(resolved),
            }
        ),
        "filter": flat({"filter": _filter_content(recipe)}),
    }
    if resolved.labels is not None:
        content |= {name: flat({name: values}) for name, values in label_content(resolved.labels).items()}
    if resolved.direction is not None:
        content["text"] = {"text.text": recipe.generate.text}
    links: dict[str, str] = {}
    previous = ""
    for name, values in content.items():
        text = json.dumps([previous, values], sort_keys=True)
        previous = links[name] = hashlib.sha256(text.encode()).hexdigest()
    return Fingerprint(links, content)


def label_content(labels: ResolvedLabels) -> dict[str, dict[str, Any]]:
    """What the links `embed`, `tag` and `caption` stand for, as far as there are captions."""
    tagging, captioning = labels.tagging, labels.captioning
    settings, thresholds = tagging.settings, tagging.thresholds
    content: dict[str, dict[str, Any]] = {
        "embed": {
            "weights_sha256": tagging.weights.sha256,
            "views": tagging.views.model_dump(mode="json", exclude_none=True),
            "dense_size": settings.dense_size if settings.dense else None,
        },
        "tag": {
            "vocabulary": tagging.vocabulary.sha256(),
            "threshold": settings.threshold,
            "group_thresholds": dict(thresholds.groups),
            "word_thresholds": {group: dict(words) for group, words in thresholds.words.items()},
            "candidates": settings.candidates,
            # those that come with the checkpoint follow from it
            **({} if settings.tokens is None else {"tokens_sha256": tagging.tokenizer.sha256}),
        },
    }
    if captioning is not None:
        plain = captioning.settings.model_dump(mode="json", exclude={"captioner"})
        weights = captioning.captioner and captioning.captioner.sha256
        content["caption"] = plain | {"weights_sha256": weights, "min_score": captioning.min_score}
    return content


def _prompt_content(resolved: ResolvedRun) -> dict[str, Any]:
    """What decides a text's prompt, where the recipe has a projection that makes one."""
    if resolved.prompt is None or resolved.labels is None:
        return {}
    return {
        "text": resolved.recipe.generate.text,
        "clip_prompt_sha256": resolved.prompt.projection_sha256,
        "clip_sha256": resolved.labels.tagging.weights.sha256,
    }


def _decode_content(recipe: Recipe) -> dict[str, Any]:
    content = recipe.decode.model_dump(mode="json", exclude={"max_bytes"})
    if recipe.decode.sample_range is None:  # a setting of later datasets: those from before it stay as they are
        del content["sample_range"]
    return content


def _filter_content(recipe: Recipe) -> dict[str, Any]:
    content = recipe.filter.model_dump(mode="json")
    if recipe.filter.consensus_thresh is None:  # a rule of later datasets: those from before it stay as they are
        del content["consensus_thresh"]
    return content


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """`field: old → new` for each flat setting that differs."""
    return [
        f"{key}: {before.get(key)!r} → {after.get(key)!r}"
        for key in sorted({*before, *after})
        if before.get(key) != after.get(key)
    ]


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as one level, `section.field` each."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
