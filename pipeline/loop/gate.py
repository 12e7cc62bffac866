"""The gate: new weights become labels only if they do not fall behind on a held-out labelled set."""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

import torch

from models.weights import CheckpointError
from pipeline.evaluation.evaluate import Evaluation, evaluate
from pipeline.labels.layout import coco_path
from pipeline.loop.settings import GateSettings
from pipeline.recipes.recipe import Recipe


@dataclass(frozen=True)
class Measured:
    """A recipe's figures on a held-out set, and what they are the figures of: hashes of the labels, and of the weights
    and settings."""

    labels: str
    model: str
    figures: dict[str, float | None]


@dataclass(frozen=True)
class Verdict:
    """`before` is None where no model made the round before (an import)."""

    passed: bool
    before: dict[str, float | None] | None
    after: dict[str, float | None]
    max_fall: float
    fell: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def measure(
    recipe: Recipe, sha256: str, model: str, gate: GateSettings, known: dict[str, Any] | None, quiet: bool
) -> Measured:
    """The recipe's figures, with weights of `sha256`; `known` ones (of an earlier `Measured`) are taken if they are of
    the same labels and the same `model`, the fingerprint's link `filter`.

    Raises ValueError for labels that are missing or wrong, and for a checkpoint that cannot be read.
    """
    labels = _labels_hash(gate)
    if known and (known["labels"], known["model"]) == (labels, model):
        return Measured(**known)
    try:
        found = evaluate(recipe, gate.data, gate.images, gate.limit, quiet)
    except CheckpointError as error:
        raise ValueError(f"gate: the weights to compare with cannot be read ({error}); put them back") from None
    torch.cuda.empty_cache()  # what torch keeps of this process's GPU would be missing to the workers
    if found.weights_sha256 != sha256:
        raise ValueError(
            f"gate: {recipe.model.checkpoint} is no longer the file that made the round before; put that back"
        )
    return Measured(labels, model, figures_of(found))


def figures_of(found: Evaluation) -> dict[str, float | None]:
    """The measures that a gate may ask for."""
    return {
        "point_miou": found.point_miou["all"],
        "box_miou": found.box_miou["all"],
        "average_recall_100": found.average_recall["100"]["all"],
        "best_overlap": found.best_overlap.mean_best if found.best_overlap else None,
    }


def judge(before: Measured | None, after: Measured, gate: GateSettings) -> Verdict:
    """Whether no measure falls by more than the gate allows."""
    fell: list[str] = []
    for name in gate.measures:
        old, new = (before.figures[name] if before else None), after.figures[name]
        if old is not None and (new is None or old - new > gate.max_fall):
            fell.append(name)
    return Verdict(not fell, before.figures if before else None, after.figures, gate.max_fall, fell)


def _labels_hash(gate: GateSettings) -> str:
    try:
        content = hashlib.sha256(coco_path(gate.data).read_bytes()).hexdigest()
    except OSError as error:
        raise ValueError(f"gate.data: {gate.data!r} holds no labels ({error}); give a held-out labelled set") from None
    return hashlib.sha256(json.dumps([content, gate.limit]).encode()).hexdigest()
