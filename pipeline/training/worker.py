"""One worker of a training: what Ray Train runs in each process."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.blank import blank
from models.evaluation.prompts import score_prompts
from models.sam.build import build_sam
from models.sam.model import Sam
from models.training.trainer import StepMetrics, Trainer
from models.weight_files import read_checkpoint
from models.weights import save_clip_prompt, save_sam
from pipeline.coco_labels import read_labels
from pipeline.evaluation.evaluate import all_segments
from pipeline.training.data import ExampleSource, prefetch
from pipeline.training.files import (
    CLIP_PROMPT,
    WEIGHTS,
    MetricsLog,
    claim,
    read_checkpoint_state,
    save_checkpoint,
    starting_model,
    starting_text,
)
from pipeline.training.recipe import TrainRecipe, ValidationSettings
from pipeline.training.sources import data_fingerprint, open_training_images
from pipeline.training.steps import sitting
from stages.decode_pixels import DecodeSettings


def train_worker(config: dict[str, Any]) -> None:
    """Ray Train's entry: `config["recipe"]` is a TrainRecipe as plain values."""
    import ray.train
    import ray.train.torch

    recipe = TrainRecipe.model_validate(config["recipe"])
    context = ray.train.get_context()
    rank, num_workers = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(recipe.resources.cpus_per_worker)
    last = train_on(recipe, ray.train.torch.get_device(), rank, num_workers)
    ray.train.report({} if last is None else {k: v for k, v in asdict(last).items() if v is not None})


def train_on(recipe: TrainRecipe, device: torch.device, rank: int = 0, num_workers: int = 1) -> StepMetrics | None:
    """Trains (or goes on) until the recipe's end; the worker of rank 0 writes. The last step's metrics, if any.

    Raises ValueError for wrong data or checkpoints and NonFiniteLossError; the last checkpoint stays in both cases.
    """
    folder = Path(recipe.output)
    images = open_training_images(recipe.data)
    seen = data_fingerprint(images)
    if rank == 0:
        claim(folder, recipe, seen)
    sam = starting_model(recipe).to(device)
    text = starting_text(recipe, sam)
    trainer = Trainer(sam, recipe.training, None if text is None else text.to(device))
    state = read_checkpoint_state(folder)
    if state is not None:
        trainer.load_state_dict(state)
    source = ExampleSource(
        images,
        sam.config,
        recipe.augment,
        recipe.training.seed,
        recipe.images_per_step,
        rank,
        num_workers,
        [one.repeat for one in recipe.data],
    )
    first = trainer.num_steps_done
    steps = sitting(first, recipe.training.num_steps, recipe.stop_after)
    log = MetricsLog(folder, first) if rank == 0 else None
    metrics: StepMetrics | None = None
    try:
        for _, examples in prefetch(source, steps):
            metrics = trainer.step(examples)
            if log is not None:
                _record(recipe, folder, trainer, metrics, log, steps.stop, seen)
    finally:
        if log is not None:
            log.close()
    return metrics


def _record(
    recipe: TrainRecipe, folder: Path, trainer: Trainer, metrics: StepMetrics, log: MetricsLog, end: int, seen: str
) -> None:
    """Writes down a step: its metrics and, when due, a validation, a checkpoint and the exported weights, which say
    what data they have `seen`."""
    done, last = trainer.num_steps_done, trainer.num_steps_done == end
    row = asdict(metrics)
    if recipe.validation is not None and (done % recipe.validation.every == 0 or last):
        row |= validate(trainer.sam, trainer.weights(), recipe.validation)
    log.write(row)
    if done % recipe.checkpoint_every == 0 or last:
        save_checkpoint(folder, trainer.state_dict() | {"training_data": seen})
        notes = {"steps": str(done), "training_data": seen}
        save_sam(folder / WEIGHTS, trainer.weights(), trainer.sam.config, torch.float16, notes)
        if recipe.text_prompt is not None:
            notes |= {"clip": recipe.text_prompt.clip, "clip_sha256": read_checkpoint(recipe.text_prompt.clip).sha256}
            save_clip_prompt(folder / CLIP_PROMPT, trainer.text_weights(), torch.float16, notes)


def validate(sam: Sam, weights: dict[str, Tensor], settings: ValidationSettings) -> dict[str, float]:
    """Mean IoU of the answers to one point (best output, and the one of the highest predicted IoU) and to one box."""
    started = time.perf_counter()
    with blank():
        model = build_sam(sam.config)
    model.load_state_dict(weights, assign=True)
    model = model.eval().requires_grad_(False)
    best, chosen, box = [], [], []
    for image, pixels in read_labels(settings.data, limit=settings.limit).pictures(DecodeSettings()):
        by_point, by_box = score_prompts(model, pixels, all_segments(image), 64)
        best.append(by_point.best)
        chosen.append(by_point.chosen)
        box.append(by_box.chosen)
    return {
        "validation_point_miou_best": float(np.concatenate(best).mean()),
        "validation_point_miou": float(np.concatenate(chosen).mean()),
        "validation_box_miou": float(np.concatenate(box).mean()),
        "validation_seconds": time.perf_counter() - started,
    }
