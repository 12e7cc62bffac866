"""`maskfoundry train` with a SAM 2's recipe: labelled pictures and clips in, exported weights out."""

import hashlib
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from models.blank import blank
from models.sam.model import Sam
from models.sam2.build import build_sam2
from models.sam2.model import Sam2
from models.sam2.weights import load_sam2, save_sam2
from models.training.sam2_trainer import Sam2Trainer
from models.training.start import align_cross_attention, match_memories, take_over, take_trunk
from models.weights import load_sam
from pipeline.devices import own_device
from pipeline.sam2_training.batches import Sam2Batches
from pipeline.sam2_training.clips import LabelledClips
from pipeline.sam2_training.recipe import Sam2TrainRecipe
from pipeline.sam2_training.trunk import read_trunk
from pipeline.training.data import ExampleSource
from pipeline.training.files import WEIGHTS, claim, read_checkpoint_state, read_metrics, save_checkpoint
from pipeline.training.sources import data_fingerprint, data_notes, open_training_images
from pipeline.training.steps import run_steps, sitting
from pipeline.training.train import TrainSummary


def train_sam2(recipe: Sam2TrainRecipe, quiet: bool = False) -> TrainSummary:
    """Trains, or goes on where the last checkpoint in `recipe.output` was written.

    Raises ValueError for wrong data, a wrong checkpoint or an output of another recipe, and TrainingError when a step's
    loss is no number; the last checkpoint stays.
    """
    started = time.time()
    torch.set_num_threads(recipe.num_threads)
    folder = Path(recipe.output).expanduser()
    images = open_training_images(recipe.pictures)
    clips = LabelledClips(recipe.clips) if recipe.clips else None
    seen = [data_fingerprint(images), "" if clips is None else clips.fingerprint]
    device = own_device()
    model, teacher = _beginning(recipe)
    claim(folder, recipe, hashlib.sha256("".join(seen).encode()).hexdigest())
    trainer = Sam2Trainer(model.to(device), recipe.training, None if teacher is None else teacher.to(device))
    state = read_checkpoint_state(folder)
    if state is not None:
        trainer.load_state_dict(state)
    repeats = [source.repeat for source in recipe.pictures]
    per_step, seed = recipe.pictures_per_step, recipe.training.seed
    pictures = ExampleSource(images, model.config, recipe.augment, seed, per_step, repeats=repeats) if images else None
    batches = Sam2Batches(recipe, model.config, pictures, clips)
    first, num_steps = trainer.num_steps_done, recipe.training.num_steps

    def save(num_steps_done: int) -> None:
        save_checkpoint(folder, trainer.state_dict())
        _export(folder / WEIGHTS, trainer, num_steps_done)

    row = run_steps(
        folder,
        sitting(first, num_steps, recipe.stop_after),
        num_steps,
        recipe.checkpoint_every,
        batches,
        lambda _, batch: asdict(trainer.step(*batch)),
        save,
        quiet,
    )
    return TrainSummary(
        output=str(folder),
        weights=str(folder / WEIGHTS),
        num_steps_done=trainer.num_steps_done,
        num_steps=num_steps,
        num_images=sum(len(one) for one in images) + (0 if clips is None else len(clips)),
        num_masks=sum(one["num_masks"] for one in read_metrics(folder)[first:]),
        seconds=time.time() - started,
        last=row or _last_row(folder),
        notes=data_notes(images),
    )


def _beginning(recipe: Sam2TrainRecipe) -> tuple[Sam2, Sam | None]:
    """The model that the recipe begins with, and whom it imitates. Raises ValueError (CheckpointError among them)."""
    if recipe.start is not None:
        return load_sam2(recipe.start)[0], None
    sizes = recipe.sizes()
    assert sizes is not None
    torch.manual_seed(recipe.training.seed)
    model = build_sam2(sizes)
    match_memories(model)
    if recipe.trunk is not None:
        take_trunk(model, read_trunk(recipe.trunk))
    if recipe.teacher is None:
        align_cross_attention(model)
        return model, None
    teacher, _ = load_sam(recipe.teacher, sizes.image_size)
    take_over(model, teacher)
    return model, teacher


def _last_row(folder: Path) -> dict[str, Any]:
    rows = read_metrics(folder)
    return rows[-1] if rows else {}


def _export(path: Path, trainer: Sam2Trainer, steps: int) -> None:
    with blank():
        model = build_sam2(trainer.model.config)
    model.load_state_dict(trainer.weights(), assign=True)
    save_sam2(path, model, torch.float16, {"steps": str(steps)})
