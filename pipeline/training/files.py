"""What a training keeps on disk: its recipe, the checkpoint to go on from, metrics and exported weights."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import torch

from models.clip.regions import ViewSettings
from models.sam.build import build_sam
from models.sam.clip_prompt import ClipPrompt
from models.sam.config import SamConfig
from models.sam.model import Sam
from models.training.start import align_cross_attention, pass_pixels, warm_start
from models.training.text_prompt import TextPrompter
from models.weight_files import read_metadata
from models.weights import VIEWS_NOTE, load_clip, load_sam
from pipeline.training.recipe import TrainRecipe

CHECKPOINT = "checkpoint.pt"
METRICS = "metrics.jsonl"
RECIPE = "recipe.json"
WEIGHTS = "model.safetensors"
CLIP_PROMPT = "clip_prompt.safetensors"


class Identified(Protocol):
    """A recipe of any kind of training."""

    def identity(self) -> dict[str, Any]: ...


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """The checkpoint appears whole or not at all."""
    _replace(folder / CHECKPOINT, lambda path: torch.save(state, path))


def read_checkpoint_state(folder: Path) -> dict[str, Any] | None:
    """The state of the last checkpoint, on the CPU, or None if there is none yet."""
    path = folder / CHECKPOINT
    return torch.load(path, map_location="cpu", weights_only=True) if path.is_file() else None


def claim(folder: Path, recipe: Identified, training_data: str | None = None) -> None:
    """Makes the folder the recipe's, for data of this fingerprint (None for any). Raises ValueError, naming a field, if
    a training with another one is in it."""
    path = folder / RECIPE
    identity = recipe.identity() | ({} if training_data is None else {"training_data": training_data})
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.is_file():
            text = json.dumps(identity, indent=2)
            _replace(path, lambda part: part.write_text(text, encoding="utf-8"))
            return
        before = json.loads(path.read_text(encoding="utf-8"))
        if training_data is None:
            before.pop("training_data", None)
    except OSError as error:
        raise ValueError(f"output: {folder} cannot be written ({error}); check its permissions") from None
    old, new = dict(_leaves("", before)), dict(_leaves("", identity))
    changed = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    if changed:
        name = changed[0]
        if name == "training_data":
            raise ValueError(
                f"output: {folder} holds a training whose images or masks have changed since it began; "
                "choose another output to train on them as they are now"
            )
        raise ValueError(
            f"output: {folder} holds a training with {name} {old.get(name)!r}, not {new.get(name)!r}; "
            "go on with that recipe or choose another output"
        )


def starting_model(recipe: TrainRecipe) -> Sam:
    """The model that the recipe begins with, on the CPU.

    Raises ValueError (CheckpointError among them) for a checkpoint that cannot be read or has other sizes.
    """
    sizes = recipe.sizes()
    start = None if recipe.start is None else load_sam(recipe.start)[0]
    if start is not None and (sizes is None or sizes == start.config):
        return start
    assert sizes is not None, "a recipe names sizes or a checkpoint"
    torch.manual_seed(recipe.training.seed)
    model = build_sam(sizes)
    if start is None:
        align_cross_attention(model)
        if recipe.pass_pixels:
            pass_pixels(model)
    elif recipe.adapt:
        warm_start(model, start.state_dict())
    else:
        name = _first_difference(start.config, sizes)
        raise ValueError(
            f"start: {recipe.start} has {name} {getattr(start.config, name)}, model has {getattr(sizes, name)}; "
            "set adapt: true to take over what fits, or leave model out"
        )
    return model


def starting_text(recipe: TrainRecipe, sam: Sam) -> TextPrompter | None:
    """The recipe's CLIP with a fresh projection to the SAM's prompts, on the CPU; None if it names none.

    Raises CheckpointError for a CLIP that cannot be read.
    """
    how = recipe.text_prompt
    if how is None:
        return None
    clip, _ = load_clip(how.clip)
    note = read_metadata(how.clip).get(VIEWS_NOTE)
    views = ViewSettings() if note is None else ViewSettings.model_validate_json(note)
    torch.manual_seed(recipe.training.seed)
    return TextPrompter(clip, views, ClipPrompt(clip.config.embed_dim, sam.config.prompt_embed_dim), how)


class MetricsLog:
    """Rows as JSON lines and, as curves, to TensorBoard. Rows of steps that a resume does again are dropped."""

    def __init__(self, folder: Path, num_steps_done: int) -> None:
        from tensorboardX import SummaryWriter  # type: ignore[import-untyped]

        self.path = folder / METRICS
        kept = [row for row in read_metrics(folder) if row["step"] < num_steps_done]
        text = "".join(json.dumps(row) + "\n" for row in kept)
        _replace(self.path, lambda part: part.write_text(text, encoding="utf-8"))
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=num_steps_done)
        self._file = self.path.open("a", encoding="utf-8")

    def write(self, row: dict[str, Any]) -> None:
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        for name, value in row.items():
            if name != "step" and isinstance(value, int | float):
                self._board.add_scalar(name, value, row["step"])

    def close(self) -> None:
        self._file.close()
        self._board.close()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of a training so far; a last line that a kill cut short is left out."""
    path = folder / METRICS
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def _first_difference(one: SamConfig, other: SamConfig) -> str:
    return next(name for name in vars(one) if getattr(one, name) != getattr(other, name))


def _leaves(prefix: str, value: Any) -> Iterable[tuple[str, Any]]:
    if not isinstance(value, dict):
        yield prefix, value
        return
    for name, part in value.items():
        yield from _leaves(f"{prefix}.{name}" if prefix else name, part)


def _replace(path: Path, write: Any) -> None:
    temporary = path.with_name(f".{path.name}.part")
    write(temporary)
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
