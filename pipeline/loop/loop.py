"""`maskfoundry loop`: run, then train, measure and refresh, round after round.

What is done already is read from what is on disk: the dataset's rounds with their weights, and the trainings' folders.
Each step goes on where it was killed, so the whole loop does.
"""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from models.weight_files import read_metadata
from pipeline.loop.refresh import RefreshPlan, refresh
from pipeline.loop.settings import LoopRecipe
from pipeline.recipes.load_recipe import validate_recipe, validate_train_recipe
from pipeline.runs.run import run
from pipeline.store.find_rounds import round_numbers
from pipeline.store.index import read_index
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder
from pipeline.training.files import WEIGHTS, claim
from pipeline.training.recipe import TrainRecipe
from pipeline.training.train import train


@dataclass(frozen=True)
class LoopRound:
    """A round's weights and held-out figures; `churn` is None for the first round and for one that was refused."""

    round: int | None
    checkpoint: str
    figures: dict[str, float | None] | None
    churn: dict[str, Any] | None


@dataclass(frozen=True)
class LoopSummary:
    """`status`: `done`, `refused` (by the gate, at the last weights), `taken_back` (somebody rolled that round back) or
    `interrupted`."""

    dataset: str
    status: str
    rounds: list[LoopRound]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def loop(recipe: LoopRecipe, num_rounds: int, quiet: bool = False) -> LoopSummary:
    """Round 0 with the run's own weights, then `num_rounds` rounds of weights trained on the masks so far. It stops at
    weights that the gate refuses.

    Raises ValueError for wrong recipes before anything is written, and what run, training and refresh raise.
    """
    first = validate_recipe(recipe.run)
    trainings = plan_trainings(recipe, first.output, first.model.checkpoint, num_rounds)
    folder = Folder(first.output)
    rounds: list[LoopRound] = []
    if _is_at_first_round(folder):
        status = run(first, quiet=quiet).status
        if status != "done":
            return LoopSummary(first.output, status, [])
    started = LoopRound(0, first.model.checkpoint, None, None)
    for number, training in enumerate(trainings):
        weights = _trained(training, quiet)
        if weights is None:
            return LoopSummary(first.output, "interrupted", [started, *rounds])
        made = _round_of(folder, _sha256(weights))
        if made is not None and made.number not in read_index(folder).published and _is_finished(made):
            return LoopSummary(first.output, "taken_back", [started, *rounds])
        if made is None or not _is_finished(made):
            plan = RefreshPlan(first.output, str(weights), recipe.gate, recipe.where, recipe.run)
            found = refresh(plan, quiet)
            if number == 0:
                started = LoopRound(0, first.model.checkpoint, found.gate["before"], None)
            rounds.append(LoopRound(found.round, str(weights), found.gate["after"], found.churn))
            if found.status in ("refused", "interrupted", "taken_back"):
                return LoopSummary(first.output, found.status, [started, *rounds])
        else:
            done = (made.read_record() or {})["refresh"]
            if number == 0:
                started = LoopRound(0, first.model.checkpoint, done["gate"]["before"], None)
            rounds.append(LoopRound(made.number, str(weights), done["gate"]["after"], done["churn"]))
    return LoopSummary(first.output, "done", [started, *rounds])


def plan_trainings(recipe: LoopRecipe, dataset: str, checkpoint: str, num_rounds: int) -> list[TrainRecipe]:
    """Each round's training, from the weights of the one before. Raises ValueError for a wrong recipe."""
    for name in ("output", "start"):
        if name in recipe.train:
            raise ValueError(f"train.{name}: {recipe.train[name]!r} is chosen by the loop; leave it out")
    own = [{"path": dataset, **choice} for choice in recipe.masks]
    trainings = []
    for number in range(1, num_rounds + 1):
        output = str(Path(recipe.work).expanduser() / f"round-{number:03d}")
        content = {**recipe.train, "data": [*own, *recipe.train.get("data", [])], "output": output, "start": checkpoint}
        trainings.append(validate_train_recipe(content))
        checkpoint = str(Path(output) / WEIGHTS)
    return trainings


def _is_at_first_round(folder: Folder) -> bool:
    """Whether readers see what the run made (or nothing yet), so that it may go on with it."""
    published = read_index(folder).published
    record = (Round(folder, published[-1]).read_record() or {}) if published else {}
    return not published or ("refresh" not in record and "recipe" in record)


def _trained(training: TrainRecipe, quiet: bool) -> Path | None:
    """The training's weights, None if it was to stop before its end. One that is finished is not looked at again, as
    its masks have newer rounds since."""
    folder = Path(training.output)
    weights = folder / WEIGHTS
    if weights.is_file() and read_metadata(str(weights)).get("steps") == str(training.training.num_steps):
        claim(folder, training)
    elif train(training, quiet).num_steps_done < training.training.num_steps:
        return None
    return weights


def _round_of(folder: Folder, sha256: str) -> Round | None:
    """The newest round of these weights."""
    for number in reversed(round_numbers(folder)):
        record = Round(folder, number).read_record() or {}
        if record.get("weights", {}).get("sha256") == sha256:
            return Round(folder, number)
    return None


def _is_finished(made: Round) -> bool:
    return "churn" in (made.read_record() or {}).get("refresh", {})


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
