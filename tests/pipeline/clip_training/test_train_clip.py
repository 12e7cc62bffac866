import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from models.masks.rle import areas, encode_masks
from models.weight_files import read_metadata
from models.weights import CAPTION_NOTE, VIEWS_NOTE, load_clip, load_clip_tokenizer
from pipeline.cli import app
from pipeline.clip_training.batches import ClipBatches
from pipeline.clip_training.packed import pack_views
from pipeline.clip_training.recipe import CaptionerTrainRecipe, ClipTrainRecipe
from pipeline.clip_training.train_captioner import train_captioner
from pipeline.clip_training.train_clip import train_clip
from pipeline.clip_training.views import read_labelled_views
from pipeline.evaluation.captions import LabelledCaptions, calibrate_captions
from pipeline.evaluation.tags import (
    NamedMasks,
    blank_pictures,
    calibrate_tags,
    choose_thresholds,
    measure_tags,
    raise_above_blanks,
)
from pipeline.recipes.load_recipe import load_train_recipe
from pipeline.recipes.vocabularies import read_vocabulary
from pipeline.scenes.write import write_scenes
from stages.embed_masks import Regions
from stages.tag_rules import Thresholds, choose_tags
from stages.tag_settings import TagSettings
from stages.tagger import Tagger
from stages.tagging import read_tagging

LABELS = {"thing": "category", "colour": "colour", "pattern": "pattern", "caption": "caption"}
MODEL = {
    "embed_dim": 16,
    "image_size": 32,
    "patch_size": 16,
    "vision_layers": [1],
    "vision_width": 16,
    "vision_heads": 2,
    "context_length": 32,
    "text_width": 16,
    "text_heads": 2,
    "text_layers": 1,
}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(str(tmp_path_factory.mktemp("scenes") / "s"), 3, width=160, height=120).parent


def recipe(scenes: Path, output: Path, **changes: object) -> ClipTrainRecipe:
    content = {
        "kind": "clip",
        "data": [str(scenes)],
        "output": str(output),
        "labels": LABELS,
        "model": MODEL,
        "images_per_step": 2,
        "masks_per_step": 12,
        "checkpoint_every": 2,
        "training": {"num_steps": 4, "optim": {"learning_rate": 1e-3, "warmup_steps": 1}},
    }
    return ClipTrainRecipe.model_validate({**content, **changes})


@pytest.fixture(scope="module")
def trained(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    summary = train_clip(recipe(scenes, tmp_path_factory.mktemp("whole")), quiet=True)
    assert summary.num_steps_done == 4 and summary.num_images == 3 and summary.last["loss"] > 0
    return Path(summary.weights)


def test_a_training_that_was_cut_goes_on_to_the_same_weights(scenes: Path, trained: Path, tmp_path: Path) -> None:
    first = train_clip(recipe(scenes, tmp_path, stop_after=2), quiet=True)
    assert first.num_steps_done == 2
    again = train_clip(recipe(scenes, tmp_path), quiet=True)
    one, other = load_clip(str(trained))[0].state_dict(), load_clip(again.weights)[0].state_dict()
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    with pytest.raises(ValueError, match=r"masks_per_step 12, not 13"):
        train_clip(recipe(scenes, tmp_path, masks_per_step=13), quiet=True)


def test_with_muon_a_training_goes_on_to_the_same_weights_too(scenes: Path, tmp_path: Path) -> None:
    tower = {**MODEL, "image_size": 32, "patch_size": 32, "vision_layers": [1, 1, 1, 1], "vision_width": 4}
    training = {"num_steps": 4, "optim": {"learning_rate": 1e-3, "warmup_steps": 1, "muon": True}}
    changes = {"model": tower, "training": training}
    whole = train_clip(recipe(scenes, tmp_path / "whole", **changes), quiet=True)
    train_clip(recipe(scenes, tmp_path / "cut", **changes, stop_after=2), quiet=True)
    again = train_clip(recipe(scenes, tmp_path / "cut", **changes), quiet=True)
    one, other = (load_clip(path)[0].state_dict() for path in (whole.weights, again.weights))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_the_checkpoint_has_its_own_tokens_and_views(trained: Path) -> None:
    clip, _ = load_clip(str(trained))
    tokenizer = load_clip_tokenizer(str(trained), clip.config)
    assert tokenizer.decode(tokenizer.encode(["a red striped ball"])[0]) == "a red striped ball"
    assert "scales" in read_metadata(str(trained))[VIEWS_NOTE]


def test_batches_are_a_function_of_the_step_and_captions_leave_relations_out(
    scenes: Path, trained: Path, tmp_path: Path
) -> None:
    pictures = read_labelled_views([str(scenes)], LABELS)
    assert all(" of the " not in view.texts["caption"] for picture in pictures for view in picture.masks)
    clip, _ = load_clip(str(trained))
    settings = recipe(scenes, trained)
    tokenizer = load_clip_tokenizer(str(trained), clip.config)
    words = read_vocabulary("scenes")
    packed = [pack_views(pictures, settings.views, clip.config, 0, tmp_path, quiet=True) for _ in range(2)]
    one, other = (ClipBatches(views, words, tokenizer, clip.config, 0, 2, 12) for views in packed)
    first, same, next_one = one(3), other(3), one(4)
    assert first.images.dtype == torch.uint8 and first.images.shape[1:] == (32, 32, 3)
    assert torch.equal(first.images, same.images) and not torch.equal(first.images[:3], next_one.images[:3])
    assert first.shows.tolist() == [*np.repeat(np.arange(12), 2).tolist(), *range(12, 18)]  # two views a mask
    assert [group.name for group in first.groups] == ["caption", "colour", "pattern", "scene", "thing"]
    colours = first.groups[1]
    assert colours.classes and len(colours.rows) == 12 + 4  # masks, and views of nothing


def test_an_epoch_shows_every_mask_once(scenes: Path, trained: Path, tmp_path: Path) -> None:
    pictures = read_labelled_views([str(scenes)], LABELS)
    clip, _ = load_clip(str(trained))
    views = pack_views(pictures, recipe(scenes, trained).views, clip.config, 0, tmp_path, quiet=True)
    tokenizer = load_clip_tokenizer(str(trained), clip.config)
    batches = ClipBatches(views, read_vocabulary("scenes"), tokenizer, clip.config, 0, 1, 1)
    count = len(views.masks)
    seen = [batches(step).groups[0].rows for step in range(3)]
    assert all(len(rows) == 1 for rows in seen)
    order = [place for step in range(-(-count // 5)) for place in batches._places(step, 0, 5, count)]
    assert sorted(order[:count]) == list(range(count))


def test_views_are_rendered_again_when_the_data_changed(scenes: Path, trained: Path, tmp_path: Path) -> None:
    pictures = read_labelled_views([str(scenes)], LABELS)
    clip, _ = load_clip(str(trained))
    settings = recipe(scenes, trained).views
    first = pack_views(pictures, settings, clip.config, 0, tmp_path, quiet=True)
    assert first.of_masks.shape == (len(first.masks), 2, 32, 32, 3) and len(first.of_wholes) == 3
    fewer = pack_views(pictures[:1], settings, clip.config, 0, tmp_path, quiet=True)
    assert len(fewer.of_masks) == len(pictures[0].masks)
    assert np.array_equal(fewer.of_masks, first.of_masks[: len(fewer.of_masks)])


def test_every_word_of_the_scenes_is_in_their_vocabulary(scenes: Path) -> None:
    words = {group.name: {word.name for word in group.words} for group in read_vocabulary("scenes").groups}
    for picture in read_labelled_views([str(scenes)], LABELS):
        for view in picture.masks:
            assert all(view.texts[name] in words[name] for name in words)


def test_a_captioner_learns_from_the_features(scenes: Path, trained: Path, tmp_path: Path) -> None:
    settings = {"kind": "captioner", "data": [str(scenes)], "output": str(tmp_path), "clip": str(trained)}
    summary = train_captioner(
        CaptionerTrainRecipe.model_validate({**settings, "num_steps": 3, "masks_per_image": 4, "width": 16}), quiet=True
    )
    assert summary.num_masks == 3 * 5 and Path(summary.weights).is_file()


@pytest.fixture(scope="module")
def captioner(scenes: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("captioner")
    content = {"kind": "captioner", "data": [str(scenes)], "output": str(output), "clip": str(trained), "num_steps": 2}
    train_captioner(CaptionerTrainRecipe.model_validate({**content, "masks_per_image": 3, "width": 16}), quiet=True)
    return output / "model.safetensors"


def test_captions_are_calibrated_and_measured_by_commands(
    scenes: Path, trained: Path, captioner: Path, tmp_path: Path
) -> None:
    better = tmp_path / "captioner.safetensors"
    common = ["--clip", str(trained), "--data", str(scenes), "--vocabulary", "scenes", "--limit", "1"]
    common += ["--label", "colour=colour", "--label", "thing=category", "--min-area", "200"]
    found = CliRunner().invoke(app, ["models", "calibrate-captions", str(captioner), str(better), *common])
    assert found.exit_code == 0, found.output
    assert float(read_metadata(str(better))[CAPTION_NOTE]) == pytest.approx(
        float(found.output.split("a score of ")[1].split()[0]), abs=1e-3
    )
    measured = CliRunner().invoke(app, ["models", "measure-captions", str(better), *common, "--json"])
    of_images = json.loads(measured.output)
    assert set(of_images["correct"]) == {"colour", "thing", "all"} and of_images["without_caption"] > 0.5
    everyone = [*common, "--min-score", "-1", "--template", "{colour} {thing}", "--json"]
    of_all = json.loads(CliRunner().invoke(app, ["models", "measure-captions", str(better), *everyone]).output)
    first = read_labelled_views([str(scenes)], LABELS)[0].masks
    assert of_all["num_masks"] == sum(areas([view.rle])[0] >= 200 for view in first)
    none = CliRunner().invoke(app, ["models", "measure-captions", str(better), *common[:-1], "999999"])
    assert isinstance(none.exception, ValueError) and "--min-area 999999: no labelled mask" in str(none.exception)


@pytest.mark.parametrize(("right_from", "chosen"), [(0.5, 0.4), (2.0, 0.9)])
def test_the_score_of_captions_is_the_least_from_which_on_enough_are_right(
    captioner: Path, tmp_path: Path, right_from: float, chosen: float
) -> None:
    scores = np.linspace(0, 1, 1001)
    found = LabelledCaptions(("colour",), np.append(scores, np.nan), np.append(scores >= right_from, False)[:, None])
    assert calibrate_captions(str(captioner), found, tmp_path / "c.safetensors", 0.8334) == pytest.approx(
        chosen, abs=0.01
    )


def test_calibration_writes_thresholds_that_measuring_uses(scenes: Path, trained: Path, tmp_path: Path) -> None:
    words, path = read_vocabulary("scenes"), tmp_path / "calibrated.safetensors"
    settings = TagSettings(checkpoint=str(trained), vocabulary="scenes")
    found = calibrate_tags(settings, words, [str(scenes)], LABELS, path, quiet=True)
    assert set(found.groups) == {"thing", "colour", "pattern"}
    again = TagSettings(checkpoint=str(path), vocabulary="scenes")
    measured = measure_tags(again, words, [str(scenes)], LABELS, quiet=True)
    assert measured["colour"].precision >= 0.95 or measured["colour"].abstained == 1.0
    assert load_clip_tokenizer(str(path), load_clip(str(path))[0].config).vocab_size <= 1024


def test_nothing_is_no_thing_from_the_raised_thresholds_on(trained: Path) -> None:
    settings = TagSettings(checkpoint=str(trained), vocabulary="scenes")
    tagger = Tagger(read_tagging(settings, read_vocabulary("scenes")), "cpu", 32)
    low = Thresholds({"thing": 0.0, "colour": 0.0}, {"thing": {"dog": 0.2}})
    raised = raise_above_blanks(tagger, low)
    assert raised.words["thing"]["dog"] >= 0.2 and low.words == {"thing": {"dog": 0.2}}
    rles = encode_masks(np.ones((1, 64, 64), bool))
    regions = [Regions(picture, rles, np.array([[0, 0, 64, 64]], np.int32)) for picture in blank_pictures()]
    things, colours = 0, 0
    for features in tagger.encoder.encode(regions):
        scores = tagger.scores(*features)
        assert choose_tags(scores[0], low)[0], "everything has a tag at a threshold of zero"
        things += len(choose_tags(scores[0], raised)[0])
        colours += len(choose_tags(scores[1], raised)[0])
    assert things == 0 and colours >= len(regions), "one colour all over has a colour"


def test_a_threshold_is_the_least_from_which_on_tags_are_right() -> None:
    share = np.linspace(0, 0.99, 100)
    found = np.where(share > 0.6, 0, 1)
    named = NamedMasks(np.zeros(100, int), found, share, np.ones(100, int))
    group, own = choose_thresholds(named, ["a", "b"], 0.95)
    assert 0.57 < group < 0.61 and own == {"b": pytest.approx(0.605)}
    never = NamedMasks(np.zeros(50, int), np.ones(50, int), share[:50], np.ones(50, int))
    assert choose_thresholds(never, ["a", "b"], 0.95)[0] > 0.49


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": "clip_small"}, "set either model"),
        ({"model": {**MODEL, "vision_width": 15}}, "model: "),
        ({"model": {**MODEL, "vision_widht": 16}}, "did you mean 'vision_width'"),
    ],
)
def test_a_wrong_recipe_is_one_line(scenes: Path, tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe(scenes, tmp_path, **change)


def test_labels_that_no_annotation_has(scenes: Path) -> None:
    with pytest.raises(ValueError, match=r"has one of the fields sort; name others in labels"):
        read_labelled_views([str(scenes)], {"thing": "sort"})


def test_shipped_recipes_are_valid() -> None:
    assert isinstance(load_train_recipe("train_clip"), ClipTrainRecipe)
    assert isinstance(load_train_recipe("train_captioner"), CaptionerTrainRecipe)
