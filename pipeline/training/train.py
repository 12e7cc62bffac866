"""`maskfoundry train`: a training on Ray Train, from a recipe to exported weights."""

import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import TrainingError
from pipeline.labels.notes import Notes
from pipeline.progress import progress_bar
from pipeline.runs.ray_runtime import connected_ray
from pipeline.training.files import METRICS, WEIGHTS, claim, read_metrics, starting_model, starting_text
from pipeline.training.recipe import TrainRecipe
from pipeline.training.sources import data_fingerprint, data_notes, open_training_images
from pipeline.training.worker import train_worker


@dataclass(frozen=True)
class TrainSummary:
    """`weights` is the exported file, `last` the metrics of the last step; `num_steps_done` counts earlier sittings.
    `notes` counts what was left out of the labels or mended, by reason."""

    output: str
    weights: str
    num_steps_done: int
    num_steps: int
    num_images: int
    num_masks: int
    seconds: float
    last: dict[str, Any]
    notes: Notes = field(default_factory=Notes)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def train(recipe: TrainRecipe, quiet: bool = False) -> TrainSummary:
    """Trains, or goes on where the last checkpoint in `recipe.output` was written.

    Raises ValueError for wrong data, a wrong checkpoint or an output of another recipe before anything starts, and
    TrainingError when a step's loss is no number or a worker dies; the last checkpoint stays in `recipe.output`.
    """
    started = time.time()
    recipe = recipe.model_copy(update={"output": str(Path(recipe.output).expanduser().resolve())})
    folder = Path(recipe.output)
    images = open_training_images(recipe.data)
    # built here once as well, so that a wrong checkpoint is one line now and not a failed worker later
    starting_text(recipe, starting_model(recipe))
    claim(folder, recipe, data_fingerprint(images))
    before = len(read_metrics(folder))
    with connected_ray(None), _progress(recipe, quiet):
        _fit(recipe)
    rows = read_metrics(folder)
    return TrainSummary(
        output=recipe.output,
        weights=str(folder / WEIGHTS),
        num_steps_done=len(rows),
        num_steps=recipe.training.num_steps,
        num_images=sum(len(one) for one in images),
        num_masks=sum(row["num_masks"] for row in rows[min(before, len(rows)) :]),
        seconds=time.time() - started,
        last=rows[-1] if rows else {},
        notes=data_notes(images),
    )


def _fit(recipe: TrainRecipe) -> None:
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError

    resources = recipe.resources
    with tempfile.TemporaryDirectory() as scratch:
        trainer = TorchTrainer(
            train_worker,
            train_loop_config={"recipe": recipe.model_dump(mode="json")},
            scaling_config=ScalingConfig(
                num_workers=resources.num_workers,
                use_gpu=resources.gpus,
                resources_per_worker={"CPU": 1, **({"GPU": 1} if resources.gpus else {})},
            ),
            run_config=RunConfig(name="training", storage_path=scratch),
        )
        try:
            trainer.fit()
        except WorkerGroupError as error:
            first = next(iter(error.worker_failures.values()))
            raise TrainingError(f"{_reason(first)}; what was saved last stays in {recipe.output}") from error
        except TrainingFailedError as error:
            raise TrainingError(f"{_reason(error)}; what was saved last stays in {recipe.output}") from error


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__


@contextmanager
def _progress(recipe: TrainRecipe, quiet: bool) -> Iterator[None]:
    """A bar that follows the metrics file, which the workers write."""
    stopped = threading.Event()
    path = Path(recipe.output) / METRICS

    with progress_bar("training", recipe.training.num_steps, "steps", quiet) as update:

        def follow() -> None:
            size = -1
            while not stopped.wait(1.0):
                if path.is_file() and path.stat().st_size != size:
                    size = path.stat().st_size
                    rows = read_metrics(path.parent)
                    if rows:
                        update(rows[-1]["step"] + 1, _note(rows[-1]))

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stopped.set()
            thread.join()


def _note(row: dict[str, Any]) -> str:
    values = {"loss": row.get("loss"), "dense": row.get("dense_loss"), "point IoU": row.get("point_iou_best")}
    return " · ".join(f"{name} {value:.3f}" for name, value in values.items() if value is not None)
