import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner

from models.masks.rle import encode_masks
from models.sam.build import build_sam
from models.sam.config import SAM_SIZES
from models.weight_files import read_metadata
from models.weights import save_sam
from pipeline.cli import app
from pipeline.dataset import open_dataset
from pipeline.loop.loop import LoopSummary, loop, plan_trainings
from pipeline.loop.rollback import rollback
from pipeline.loop.settings import LoopRecipe
from pipeline.recipes.load_recipe import load_loop_recipe, validate_recipe
from pipeline.store.index import read_index
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder
from pipeline.training.files import read_metrics
from pipeline.training.recipe import TrainRecipe
from pipeline.training.worker import train_on

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture
def recipe(tmp_path: Path) -> LoopRecipe:
    """Two pictures, a tiny model of random weights whose every mask is kept, and the gate wide open."""
    torch.manual_seed(0)
    save_sam(tmp_path / "start.safetensors", build_sam(SAM_SIZES["debug"]), SAM_SIZES["debug"], torch.float32)
    coco: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
    (tmp_path / "photos").mkdir()
    for index in range(2):
        pixels = np.random.default_rng(index).integers(0, 255, (40, 60, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{index}.png")
        mask = np.zeros((1, 40, 60), np.uint8)
        mask[0, 5:25, 5:40] = 1
        (rle,) = encode_masks(mask)
        coco["images"].append({"id": index, "file_name": f"{index}.png", "width": 60, "height": 40})
        segmentation = {"size": [40, 60], "counts": rle.decode()}
        coco["annotations"].append({"id": index, "image_id": index, "segmentation": segmentation, "iscrowd": 0})
    (tmp_path / "photos" / "annotations.json").write_text(json.dumps(coco))
    content = {
        "work": str(tmp_path / "work"),
        "run": {
            "input": str(tmp_path / "photos"),
            "output": str(tmp_path / "out"),
            "preset": "sam_amg",
            "model": {"checkpoint": str(tmp_path / "start.safetensors")},
            "generate": {"points_per_side": 2, "store_floor": {"predicted_iou": 0, "stability_score": 0}},
            "filter": {"pred_iou_thresh": 0, "stability_score_thresh": 0, "box_nms_thresh": None},
            "resources": {"sam_actors": 1},
        },
        "gate": {"data": str(tmp_path / "photos"), "max_fall": 1},
        "train": {
            "images_per_step": 2,
            "checkpoint_every": 1,
            "training": {
                "num_steps": 2,
                "prompts": {"num_prompts": 2, "num_clicks": 0, "num_refinements": 0},
                "optim": {"warmup_steps": 1, "learning_rate": 0.001},
            },
            "augment": {"min_mask_cells": 1},
            "resources": {"cpus_per_worker": 1},
        },
    }
    (tmp_path / "loop.yaml").write_text(yaml.safe_dump(content))
    return load_loop_recipe(str(tmp_path / "loop.yaml"))


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The training itself, without the processes that Ray Train starts for it."""

    def train(recipe: TrainRecipe, quiet: bool) -> SimpleNamespace:
        train_on(recipe, torch.device("cpu"))
        return SimpleNamespace(num_steps_done=len(read_metrics(Path(recipe.output))))

    monkeypatch.setattr("pipeline.loop.loop.train", train)


def _with(recipe: LoopRecipe, **train: Any) -> LoopRecipe:
    return recipe.model_copy(update={"train": {**recipe.train, **train}})


@pytest.mark.usefixtures("in_process")
def test_killed_between_and_within_steps_it_goes_on(
    recipe: LoopRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    output, weights = tmp_path / "out", tmp_path / "work" / "round-001" / "model.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.loop.loop._trained", killed)
        with pytest.raises(KeyboardInterrupt):
            loop(recipe, 1, quiet=True)
    first = {path: path.stat().st_mtime_ns for path in output.glob("round=000/part-*")}
    assert len(first) == 1 and read_index(Folder(str(output))).published == (0,)

    assert loop(_with(recipe, stop_after=1), 1, quiet=True).status == "interrupted"
    assert read_metadata(str(weights))["steps"] == "1"
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.loop.refresh.carry_round", killed)
        with pytest.raises(KeyboardInterrupt):
            loop(recipe, 1, quiet=True)
    assert read_metadata(str(weights))["steps"] == "2"
    trained = weights.stat().st_mtime_ns
    assert open_dataset(str(output)).rounds == (0,)

    found = loop(recipe, 1, quiet=True)
    assert _told(found) == ("done", [0, 1]) and weights.stat().st_mtime_ns == trained
    assert {path: path.stat().st_mtime_ns for path in output.glob("round=000/part-*")} == first
    rows = list(open_dataset(str(output)).rows())
    assert [row["round"] for row in rows] == [1, 1]
    record = Round(Folder(str(output)), 1).read_record()
    assert record is not None
    seen = read_metadata(str(weights))["training_data"]
    assert record["refresh"]["trained_on"] == seen == _checkpoint(weights)["training_data"]
    assert found.rounds[1].churn == record["refresh"]["churn"]
    assert found.rounds[0].figures == record["refresh"]["gate"]["before"]

    again = loop(recipe, 1, quiet=True)
    assert again.as_dict() == found.as_dict(), "nothing is left to do"
    with pytest.raises(ValueError, match=r"round-001 holds a training with training.seed 0, not 5"):
        loop(_with(recipe, training={**recipe.train["training"], "seed": 5}), 1, quiet=True)
    rollback(str(output))
    assert loop(recipe, 1, quiet=True).status == "taken_back"


@pytest.mark.slow
def test_two_rounds_from_the_command_line(recipe: LoopRecipe, tmp_path: Path) -> None:
    answer = CliRunner().invoke(app, ["loop", str(tmp_path / "loop.yaml"), "--rounds", "2", "--json"])
    assert answer.exit_code == 0, answer.output
    found = json.loads(answer.stdout)
    assert found["status"] == "done" and [one["round"] for one in found["rounds"]] == [0, 1, 2]
    assert open_dataset(str(tmp_path / "out")).rounds == (0, 1, 2)


def test_mistakes_are_one_line(recipe: LoopRecipe, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"train.start: 'x' is chosen by the loop; leave it out"):
        loop(_with(recipe, start="x"), 1, quiet=True)
    with pytest.raises(ValueError, match=r"gate.dat: no such field; did you mean gate.data"):
        load_loop_recipe(str(tmp_path / "loop.yaml"), ["gate.dat=x"])
    path = tmp_path / "no_gate.yaml"
    path.write_text("run: {}\ntrain: {}\nwork: x\n")
    with pytest.raises(ValueError, match="gate: missing; set it in the recipe"):
        load_loop_recipe(str(path))
    assert not (tmp_path / "out").exists()
    assert load_loop_recipe("loop").gate.max_fall == 0.01


@pytest.mark.parametrize(("name", "num_steps"), [("loop", 2000), ("loop_sam", 800)])
def test_the_loops_that_ship_have_valid_trainings(name: str, num_steps: int) -> None:
    recipe = load_loop_recipe(name)
    assert validate_recipe(recipe.run).output
    [training] = plan_trainings(recipe, "dataset", "sam_small", 1)
    assert training.training.num_steps == num_steps


def _checkpoint(weights: Path) -> dict[str, Any]:
    return dict(torch.load(weights.parent / "checkpoint.pt", weights_only=True))


def _told(found: LoopSummary) -> tuple[str, list[int | None]]:
    return found.status, [one.round for one in found.rounds]
