import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from models.clip.config import CLIP_SIZES
from models.masks.rle import encode_masks
from models.sam.build import build_sam
from models.sam.config import SAM_SIZES
from models.training.optim import NonFiniteLossError
from models.training.trainer import Trainer
from models.weight_files import read_checkpoint, read_metadata
from models.weights import CheckpointError, load_clip_prompt, load_sam, save_sam
from pipeline.training.data import ExampleSource, prefetch
from pipeline.training.files import CLIP_PROMPT, read_metrics
from pipeline.training.recipe import TrainRecipe
from pipeline.training.sources import open_training_images
from pipeline.training.worker import train_on
from tests.stages.tag_cases import save_tiny_clip

CPU = torch.device("cpu")
DEBUG = json.loads(SAM_SIZES["debug"].to_json())


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Three pictures with two masks each, one picture without, as `maskfoundry scenes` lays them out."""
    folder = tmp_path / "scenes"
    (folder / "images").mkdir(parents=True)
    coco: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "segment"}]}
    for index in range(4):
        rng = np.random.default_rng(index)
        pixels = np.full((48, 64, 3), 40, np.uint8)
        masks = np.zeros((2, 48, 64), np.uint8)
        masks[0, 4:30, 4:30] = masks[1, 20:44, 34:60] = 1
        for mask in masks:
            pixels[mask > 0] = rng.integers(90, 255, 3)
        Image.fromarray(pixels).save(folder / "images" / f"{index}.png")
        coco["images"].append({"id": index, "file_name": f"{index}.png", "width": 64, "height": 48})
        for part, rle in enumerate(encode_masks(masks) if index < 3 else []):
            segmentation = {"size": [48, 64], "counts": rle.decode()}
            one = {"id": 2 * index + part, "image_id": index, "category_id": 1, "iscrowd": 0}
            coco["annotations"].append(one | {"segmentation": segmentation})
    (folder / "annotations.json").write_text(json.dumps(coco))
    return folder


def _recipe(labelled: Path, output: Path, **changes: Any) -> TrainRecipe:
    content = {
        "data": [str(labelled)],
        "output": str(output),
        "model": DEBUG,
        "images_per_step": 2,
        "checkpoint_every": 2,
        "training": {
            "num_steps": 6,
            "prompts": {"num_prompts": 4, "num_clicks": 1, "num_refinements": 0},
            "optim": {"warmup_steps": 2, "ema_decay": 0.9},
            "dense": {"weight": 0.1, "num_queries": 4},
        },
        "resources": {"cpus_per_worker": 1},
    }
    return TrainRecipe.model_validate(content | changes)


def _figures(output: Path) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in read_metrics(output)]


def test_kill_and_continue_equals_an_unbroken_run(labelled: Path, tmp_path: Path) -> None:
    train_on(_recipe(labelled, tmp_path / "unbroken"), CPU)
    train_on(_recipe(labelled, tmp_path / "broken", stop_after=2), CPU)
    # a kill after the checkpoint: rows that are done again, and half a line
    with (tmp_path / "broken" / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 2, "loss": 99.0, "num_masks": 1}) + '\n{"step": 3, "lo')
    train_on(_recipe(labelled, tmp_path / "broken"), CPU)

    whole, continued = _figures(tmp_path / "unbroken"), _figures(tmp_path / "broken")
    assert [row["step"] for row in continued] == list(range(6))
    for one, other in zip(whole, continued, strict=True):
        assert other == pytest.approx(one, abs=1e-5)
    first, second = (load_sam(str(tmp_path / name / "model.safetensors"))[0] for name in ("unbroken", "broken"))
    for name, value in first.state_dict().items():
        assert torch.allclose(value, second.state_dict()[name], atol=1e-3)


def test_a_projection_of_clip_embeddings_is_exported_beside_the_sam(labelled: Path, tmp_path: Path) -> None:
    clip = save_tiny_clip(tmp_path / "clip.safetensors")
    recipe = _recipe(labelled, tmp_path / "out", text_prompt={"clip": clip, "num_prompts": 2, "min_side": 8})
    last = train_on(recipe, CPU)
    assert last is not None and last.text_iou is not None
    projection, _ = load_clip_prompt(str(tmp_path / "out" / CLIP_PROMPT))
    assert projection(torch.ones(1, CLIP_SIZES["debug"].embed_dim)).shape == (1, 1, 32)
    notes = read_metadata(str(tmp_path / "out" / CLIP_PROMPT))
    assert (notes["clip"], notes["clip_sha256"]) == (clip, read_checkpoint(clip).sha256)
    with pytest.raises(CheckpointError, match="holds no projection"):
        load_clip_prompt(clip)
    with pytest.raises(CheckpointError, match="gone"):
        train_on(_recipe(labelled, tmp_path / "other", text_prompt={"clip": str(tmp_path / "gone.pt")}), CPU)


def test_a_finished_training_has_nothing_left_to_do(labelled: Path, tmp_path: Path) -> None:
    train_on(_recipe(labelled, tmp_path / "out"), CPU)
    before = (tmp_path / "out" / "checkpoint.pt").stat().st_mtime_ns
    assert train_on(_recipe(labelled, tmp_path / "out"), CPU) is None
    assert (tmp_path / "out" / "checkpoint.pt").stat().st_mtime_ns == before


def test_validation_is_measured_when_due(labelled: Path, tmp_path: Path) -> None:
    validation = {"data": str(labelled), "every": 4, "limit": 2}
    train_on(_recipe(labelled, tmp_path / "out", validation=validation), CPU)
    rows = read_metrics(tmp_path / "out")
    assert [row["step"] for row in rows if "validation_box_miou" in row] == [3, 5]
    assert 0 <= rows[-1]["validation_point_miou"] <= rows[-1]["validation_point_miou_best"] <= 1
    assert list((tmp_path / "out" / "tensorboard").glob("events*"))


def test_every_epoch_shows_every_image_once_and_workers_share_a_step(labelled: Path) -> None:
    images = open_training_images([str(labelled)])
    assert len(images[0]) == 3, "an image without masks is left out"
    recipe = _recipe(labelled, labelled)
    config = SAM_SIZES["debug"]
    whole = ExampleSource(images, config, recipe.augment, 1, 2)
    names = [example.name for step in range(3) for example in whole(step)]
    assert sorted(names[:3]) == sorted(names[3:]) == [str(labelled / "images" / f"{index}.png") for index in range(3)]
    parts = [ExampleSource(images, config, recipe.augment, 1, 2, rank, 2)(1) for rank in range(2)]
    for one, other in zip(whole(1), [part[0] for part in parts], strict=True):
        assert one.name == other.name and one.image.equal(other.image) and one.masks.equal(other.masks)


def test_a_picture_that_vanished_stops_with_its_name(labelled: Path, tmp_path: Path) -> None:
    images = open_training_images([str(labelled)])
    (labelled / "images" / "1.png").unlink()
    source = ExampleSource(images, SAM_SIZES["debug"], _recipe(labelled, tmp_path).augment, 1, 3)
    with pytest.raises(ValueError, match=r"1\.png: cannot be read"):
        list(prefetch(source, range(2)))
    with pytest.raises(ValueError, match=r"1 of 3 images are not in .*1\.png"):
        train_on(_recipe(labelled, tmp_path / "out"), CPU)


def test_masks_without_images_and_images_without_masks(labelled: Path, tmp_path: Path) -> None:
    path = labelled / "annotations.json"
    coco = json.loads(path.read_text())
    path.write_text(json.dumps(coco | {"annotations": []}))
    with pytest.raises(ValueError, match="none of its 4 images has a mask"):
        train_on(_recipe(labelled, tmp_path / "out"), CPU)
    path.write_text(json.dumps(coco | {"images": coco["images"][1:]}))
    with pytest.raises(ValueError, match="2 masks without an image"):
        train_on(_recipe(labelled, tmp_path / "out"), CPU)


def test_a_checkpoint_of_other_sizes_names_the_first_mismatch_and_adapts_if_asked(
    labelled: Path, tmp_path: Path
) -> None:
    start = tmp_path / "start.safetensors"
    torch.manual_seed(0)
    sam = build_sam(SAM_SIZES["debug"])
    save_sam(start, sam, sam.config, torch.float32)
    deeper = DEBUG | {"encoder_depth": 3}
    with pytest.raises(ValueError, match=r"start: .* has encoder_depth 2, model has 3; set adapt: true"):
        train_on(_recipe(labelled, tmp_path / "out", start=str(start), model=deeper), CPU)
    recipe = _recipe(labelled, tmp_path / "adapted", start=str(start), model=deeper, adapt=True, stop_after=2)
    train_on(recipe, CPU)
    assert load_sam(str(tmp_path / "adapted" / "model.safetensors"))[0].config.encoder_depth == 3
    train_on(_recipe(labelled, tmp_path / "same", start=str(start), model=None, stop_after=2), CPU)
    assert load_sam(str(tmp_path / "same" / "model.safetensors"))[0].config == SAM_SIZES["debug"]


def test_an_output_of_another_recipe_is_refused(labelled: Path, tmp_path: Path) -> None:
    train_on(_recipe(labelled, tmp_path / "out", stop_after=2), CPU)
    with pytest.raises(ValueError, match=r"holds a training with images_per_step 2, not 3"):
        train_on(_recipe(labelled, tmp_path / "out", images_per_step=3), CPU)


def test_a_loss_that_is_no_number_keeps_the_last_good_checkpoint(
    labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Trainer.step

    def poisoned(self: Trainer, examples: Any) -> Any:
        if self.num_steps_done == 3:
            with torch.no_grad():
                self.sam.mask_decoder.iou_token.weight.fill_(float("inf"))
        return original(self, examples)

    monkeypatch.setattr(Trainer, "step", poisoned)
    with pytest.raises(NonFiniteLossError, match="step 3: "):
        train_on(_recipe(labelled, tmp_path / "out"), CPU)
    state = torch.load(tmp_path / "out" / "checkpoint.pt", weights_only=True)
    assert state["num_steps_done"] == 2
    assert all(torch.isfinite(value).all() for value in state["sam"].values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": None}, "neither model nor start is set"),
        ({"model": {"encoder_dept": 3}}, "did you mean 'encoder_depth'"),
        ({"model": {"image_size": 100}}, "image_size: 100 is not a positive multiple"),
        ({"data": []}, "data"),
        ({"batch": 4}, "batch"),
        ({"resources": {"num_workers": 3}}, "no multiple of resources.num_workers 3"),
        ({"text_prompt": {"clip": "clip_small", "alone": True}}, "text_prompt.alone: the SAM does not learn then"),
        ({"text_prompt": {"min_side": 9}}, "text_prompt.clip"),
    ],
)
def test_recipes_are_validated(labelled: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _recipe(labelled, tmp_path, **changes)


def test_ray_train_runs_the_recipe_and_goes_on(labelled: Path, tmp_path: Path, ray_session: None) -> None:
    from pipeline.training.train import train

    first = train(_recipe(labelled, tmp_path / "out", stop_after=2), quiet=True)
    assert (first.num_steps_done, first.num_masks) == (2, 2 * 2 * 8)
    second = train(_recipe(labelled, tmp_path / "out"), quiet=True)
    assert second.num_steps_done == second.num_steps == 6
    assert second.num_images == 3 and second.last["step"] == 5
    assert load_sam(second.weights)[0].config == SAM_SIZES["debug"]


def test_two_workers_take_the_steps_of_one(labelled: Path, tmp_path: Path, ray_session: None) -> None:
    from pipeline.training.train import train

    # one mask an image and exact boxes, so that nothing is drawn at random, which each worker does for itself
    coco = json.loads((labelled / "annotations.json").read_text())
    coco["annotations"] = [one for one in coco["annotations"] if one["id"] % 2 == 0]
    (labelled / "annotations.json").write_text(json.dumps(coco))
    prompts = {"num_prompts": 1, "box_share": 1.0, "box_noise": 0.0, "num_clicks": 0, "num_refinements": 0}
    training = {"num_steps": 3, "prompts": prompts, "optim": {"warmup_steps": 2}}
    train_on(_recipe(labelled, tmp_path / "one", training=training), CPU)
    resources = {"num_workers": 2, "cpus_per_worker": 1}
    train(_recipe(labelled, tmp_path / "two", training=training, resources=resources), quiet=True)

    one, two = (torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("one", "two"))
    states, others = (checkpoint["optimizers"][0]["state"] for checkpoint in (one, two))
    assert states.keys() == others.keys(), "what has no gradient is left alone"
    for number, state in states.items():
        # the moving average of the gradients
        average, other = state["exp_avg"], others[number]["exp_avg"]
        assert torch.allclose(other, average, rtol=1e-3, atol=1e-4 * float(average.abs().max()) + 1e-7)
    for first, second in zip(_figures(tmp_path / "one"), _figures(tmp_path / "two"), strict=True):
        assert second["gradient_norm"] == pytest.approx(first["gradient_norm"], rel=1e-3)


def test_a_worker_that_fails_is_one_line(labelled: Path, tmp_path: Path, ray_session: None) -> None:
    from pipeline.errors import TrainingError
    from pipeline.training.train import train

    recipe = _recipe(labelled, tmp_path / "out", training={"num_steps": 4, "optim": {"learning_rate": 1e38}})
    with pytest.raises(TrainingError, match=r"step \d: .* is (nan|inf) on images .*last stays in"):
        train(recipe, quiet=True)
