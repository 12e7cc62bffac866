"""A worker that dies for one image: retried, made smaller, given up; the others are done once each."""

import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pytest

from models.generator.generate import MaskGenerator
from models.generator.settings import GenerateSettings
from pipeline.recipes.load_recipe import validate_recipe
from pipeline.runs.attempts import RayAttempts
from pipeline.runs.run import run
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder
from pipeline.store.verify import verify_dataset
from stages.generate_masks import GenerateMasks
from tests.pinned import pinned

pytestmark = pytest.mark.usefixtures("ray_session")


class DiesAtBlack(GenerateMasks):
    """A real stage in a real actor, whose process ends like that of a crashing driver when it meets a black image."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.real_generate = self.generator.generate

    def __call__(self, batch: pa.Table) -> pa.Table:
        generate = self.real_generate

        def deadly(images: Any, prompts: Any) -> Any:
            if any(not image.any() for image in images):
                os._exit(139)
            return generate(images, prompts)

        MaskGenerator.generate = lambda _, *given: deadly(*given)  # type: ignore[method-assign]
        return super().__call__(batch)


def test_a_poison_image_fails_alone() -> None:
    import ray.data
    from ray.data import ActorPoolStrategy

    images = [np.full((16, 16, 3), 40 * (index != 2) + index, np.uint8) for index in range(6)]
    images[2][:] = 0
    table = pa.table(
        {
            "image_id": [f"{index}" for index in range(6)],
            "width": pa.array([16] * 6, pa.int32()),
            "height": pa.array([16] * 6, pa.int32()),
            "status": ["ok"] * 6,
            "error": pa.nulls(6, pa.string()),
            "boxes": pa.nulls(6),
            "points": pa.nulls(6),
            "pixels": pa.array([image.tobytes() for image in images], pa.large_binary()),
        }
    )
    arguments = {
        "weights": pinned("sam_tiny"),
        "image_size": None,
        "settings": GenerateSettings(points_per_side=1),
        "min_predicted_iou": 0.0,
        "min_stability": 0.0,
        "points_per_batch": 4,
        "crops_per_batch": 1,
        "device": "cpu",
        "num_threads": 1,
        "round_number": 0,
        "attempts": RayAttempts(),
        "image_timeout": None,
    }
    done = ray.data.from_arrow(table).map_batches(
        DiesAtBlack,
        fn_constructor_kwargs=arguments,
        compute=ActorPoolStrategy(size=1),
        batch_size=3,
        batch_format="pyarrow",
        num_cpus=1,
    )
    rows = {row["image_id"]: row for row in done.take_all()}
    assert sorted(rows) == [f"{index}" for index in range(6)]
    assert {name for name, row in rows.items() if row["status"] == "failed"} == {"2"}
    assert rows["2"]["error"] == "generate: RuntimeError: the worker died or hung at each of 3 attempts"


def test_an_actor_killed_from_outside_costs_nothing_but_time(photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    recipe = validate_recipe(
        {
            "input": str(photos),
            "output": str(output),
            "model": {"checkpoint": "sam_tiny"},
            "generate": {"points_per_side": 12, "store_floor": {"predicted_iou": 0.05, "stability_score": 0.2}},
            "filter": {"pred_iou_thresh": 0.1, "stability_score_thresh": 0.3},
            "run": {"commit_every": 2},
        }
    )
    killed: list[int] = []

    def kill_one_actor() -> None:
        deadline = time.time() + 60
        while not killed and time.time() < deadline:
            for process in psutil.process_iter(["name", "cmdline"]):
                if any("MapWorker" in part for part in process.info["cmdline"] or []) and _is_ours(process):
                    process.kill()
                    killed.append(process.pid)
                    return
            time.sleep(0.05)

    killer = threading.Thread(target=kill_one_actor)
    killer.start()
    summary = run(recipe, quiet=True)
    killer.join()
    assert killed, "no actor was found to kill"
    assert (summary.status, summary.tally.images, summary.tally.failed) == ("done", 5, 0)
    assert Round(Folder(str(output)), 0).committed().num_rows == 5
    assert verify_dataset(str(output)).num_problems == 0


def _is_ours(process: psutil.Process) -> bool:
    """Whether a Ray worker belongs to this test's own Ray, whose raylet is a child of this process."""
    here = os.getpid()
    return any(parent.pid == here for parent in process.parents())
