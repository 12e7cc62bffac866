from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

import stages.text_embeddings
from models.clip.regions import ViewSettings
from models.weights import VIEWS_NOTE, CheckpointError
from stages.mask_columns import embedding_hash
from stages.record import SCHEMA, conform, set_columns
from stages.tag_masks import TagMasks, stored_features
from stages.tag_settings import TagSettings
from stages.tagger import Tagger
from stages.tagging import read_tagging, views_for
from stages.text_embeddings import text_embeddings
from stages.vocabulary import parse_vocabulary
from tests.stages.tag_cases import filtered_rows, pictures, save_tiny_clip, vocabulary


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MASKFOUNDRY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def clip(tmp_path: Path) -> str:
    return save_tiny_clip(tmp_path / "clip.safetensors")


def stage(clip: str, views_per_batch: int = 7, **settings: object) -> TagMasks:
    tagging = read_tagging(TagSettings(checkpoint=clip, **settings), vocabulary())
    return TagMasks(tagging, views_per_batch, "cpu", 1, keep_features=True)


def names(masks: list[dict]) -> list[list[str]]:
    return [[tag["name"] for tag in mask["tags"]] for mask in masks]


def test_batches_across_images_give_what_one_mask_at_a_time_gives(clip: str) -> None:
    images, masks = pictures(np.random.default_rng(0))
    together = conform(stage(clip, threshold=0.0)(filtered_rows(images, masks))).to_pylist()
    alone = stage(clip, views_per_batch=1, threshold=0.0)
    for index, row in enumerate(together):
        assert row["error"] is None
        one = conform(alone(filtered_rows([images[index]], [masks[index]]))).to_pylist()[0]
        assert names(one["masks"]) == names(row["masks"]) and len(row["masks"]) == len(masks[index])
        np.testing.assert_allclose(one["embedding"], row["embedding"], atol=1e-5)
        assert [tag["name"] for tag in one["tags"]] == [tag["name"] for tag in row["tags"]]
        for mask in row["masks"]:  # a word of each group, the parents behind their child
            assert {"red", "green", "blue"} & {tag["name"] for tag in mask["tags"]}


def test_only_kept_masks_have_tags_and_features(clip: str) -> None:
    images, masks = pictures(np.random.default_rng(1))
    rows = stage(clip, threshold=0.0)(filtered_rows(images, masks, [[True, False, True], [], [False, False]]))
    first, empty, none = conform(rows).to_pylist()
    assert [bool(mask["tags"]) for mask in first["masks"]] == [True, False, True]
    assert [one is not None for one in first["mask_embeddings"]] == [True, False, True]
    assert empty["mask_embeddings"] == [] and none["mask_embeddings"] == [None, None]
    assert all(tag["name"] not in ("red", "green", "blue") for row in (first, empty, none) for tag in row["tags"])
    assert "pixels" not in rows.column_names
    image, stored = stored_features(rows, 0)
    assert stored.shape == (2, 24) and image.shape == (24,)
    np.testing.assert_allclose(np.linalg.norm(stored, axis=1), 1, atol=1e-3)


def test_stored_features_are_used_only_by_the_masks_that_they_are_of(clip: str) -> None:
    images, masks = pictures(np.random.default_rng(1))
    rows = stage(clip)(filtered_rows(images, masks))
    hashes = [
        [embedding_hash(rle, vector) for rle, vector in zip(row["rles"], row["mask_embeddings"], strict=True)]
        for row in rows.to_pylist()
    ]
    assert rows["embedding_hashes"].to_pylist() == hashes
    swapped = {name: rows[name].to_pylist() for name in ("mask_embeddings", "embedding_hashes")}
    for values in swapped.values():
        values[0][0], values[0][2] = values[0][2], values[0][0]
    columns = {name: pa.array(values, SCHEMA.field(name).type) for name, values in swapped.items()}
    damaged = set_columns(rows, columns)
    assert stored_features(damaged, 0) is None and stored_features(damaged, 2) is not None
    earlier = set_columns(rows, {"embedding_hashes": pa.nulls(3, SCHEMA.field("embedding_hashes").type)})
    for index in range(3):
        both = zip(stored_features(earlier, index), stored_features(rows, index), strict=True)
        assert all(np.array_equal(one, other) for one, other in both)


def test_thresholds_and_features_that_are_not_kept(clip: str) -> None:
    images, masks = pictures(np.random.default_rng(2))
    tagging = read_tagging(TagSettings(checkpoint=clip, threshold=1.0), vocabulary())
    strict = TagMasks(tagging, 4, "cpu", 1, keep_features=False)
    rows = conform(strict(filtered_rows(images, masks))).to_pylist()
    assert all(mask["tags"] == [] for row in rows for mask in row["masks"]) and all(row["tags"] == [] for row in rows)
    assert all(row["embedding"] is None and row["mask_embeddings"] is None for row in rows)


def test_a_mask_without_a_pixel_and_a_broken_one(clip: str) -> None:
    images, masks = pictures(np.random.default_rng(3))
    masks[0][1] = 0
    tagger = stage(clip)
    rows = conform(tagger(filtered_rows(images, masks))).to_pylist()
    assert np.frombuffer(rows[0]["mask_embeddings"][1], np.float16).max() == 0
    table = filtered_rows(images, masks)
    broken = table["rles"].to_pylist()
    broken[2][0] = b"5"
    table = table.set_column(table.column_names.index("rles"), "rles", pa.array(broken, pa.list_(pa.binary())))
    rows = conform(tagger(table)).to_pylist()
    assert rows[2]["error"].startswith("tag: ValueError") and rows[2]["status"] == "ok"
    assert rows[2]["tags"] == [] and len(rows[2]["masks"]) == 2
    assert rows[0]["error"] is None and rows[0]["embedding"] is not None


def test_views_that_no_memory_holds_at_once_are_halved(clip: str, monkeypatch: pytest.MonkeyPatch) -> None:
    table = filtered_rows(*pictures(np.random.default_rng(3)))
    tagger = stage(clip)
    expected = conform(tagger(table)).to_pylist()
    real, sizes = tagger.tagger.clip.encode_image, []

    def hungry(images: torch.Tensor) -> torch.Tensor:
        if len(images) > 2:
            raise torch.OutOfMemoryError("out of memory")
        sizes.append(len(images))
        return real(images)

    monkeypatch.setattr(tagger.tagger.clip, "encode_image", hungry)
    rows = conform(tagger(table)).to_pylist()
    assert set(sizes) == {1, 2} and all(row["error"] is None for row in rows)
    for row, other in zip(rows, expected, strict=True):
        np.testing.assert_allclose(row["embedding"], other["embedding"], atol=1e-5)
        assert names(row["masks"]) == names(other["masks"])


def test_a_failed_image_passes_through(clip: str) -> None:
    table = filtered_rows([np.zeros((8, 8, 3), np.uint8)], [np.zeros((0, 8, 8), np.uint8)])
    failed = table.set_column(table.column_names.index("status"), "status", pa.array(["failed"]))
    failed = failed.set_column(table.column_names.index("pixels"), "pixels", pa.nulls(1, pa.large_binary()))
    [row] = conform(stage(clip)(failed)).to_pylist()
    assert row["status"] == "failed" and row["tags"] == [] and row["embedding"] is None


def test_texts_are_embedded_once(clip: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tagger = Tagger(read_tagging(TagSettings(checkpoint=clip), vocabulary()), "cpu", 8)
    [stored] = (cache / "texts").iterdir()

    def fail(*_: object) -> None:
        raise AssertionError("embedded again")

    monkeypatch.setattr(stages.text_embeddings, "class_embeddings", fail)
    again = Tagger(read_tagging(TagSettings(checkpoint=clip), vocabulary()), "cpu", 8)
    assert all(np.array_equal(one, other) for one, other in zip(tagger.words, again.words, strict=True))
    assert [len(words) for words in again.words] == [5, 3]
    stored.write_bytes(stored.read_bytes()[:100])
    with pytest.raises(AssertionError, match="embedded again"):
        Tagger(read_tagging(TagSettings(checkpoint=clip), vocabulary()), "cpu", 8)


def test_synonyms_are_averaged_and_other_scripts_are_words(clip: str) -> None:
    tagger = Tagger(read_tagging(TagSettings(checkpoint=clip), vocabulary()), "cpu", 8)

    def directions(text: str) -> np.ndarray:
        words = parse_vocabulary(f"groups: {{thing: {{templates: ['a {{}}'], words: {text}}}}}", "w.yaml")
        return text_embeddings(tagger.clip, tagger.tokenizer, words, "x")[0]

    apart, joined = directions("[car, automobile]"), directions("['car, automobile']")
    mean = apart.mean(axis=0)
    np.testing.assert_allclose(joined[0], mean / np.linalg.norm(mean), atol=1e-5)
    assert directions("[車, мяч]").shape == (2, 24)


def test_a_word_that_is_too_long_is_one_line(clip: str) -> None:
    tagger = Tagger(read_tagging(TagSettings(checkpoint=clip), vocabulary()), "cpu", 8)
    with pytest.raises(ValueError, match=r"'a b c.*tokens, the model reads .*; shorten it"):
        text_embeddings(tagger.clip, tagger.tokenizer, parse_vocabulary("a b c d e f g h i j k l", "w.txt"), "x")


def test_views_are_the_recipes_then_the_checkpoints(tmp_path: Path) -> None:
    own = ViewSettings(fade=0.5)
    path = save_tiny_clip(tmp_path / "other.safetensors", notes={VIEWS_NOTE: own.model_dump_json()})
    assert views_for(TagSettings(checkpoint=path)) == own
    assert views_for(TagSettings(checkpoint=path, views=ViewSettings(blur=0.0))).blur == 0
    with pytest.raises(CheckpointError):
        views_for(TagSettings(checkpoint=str(tmp_path / "absent.safetensors")))


def test_dense_features_need_a_convolutional_clip(tmp_path: Path, clip: str) -> None:
    with pytest.raises(ValueError, match=r"tag\.dense: only a ModifiedResNet .* set tag\.dense false"):
        stage(clip, dense=True)
    resnet = save_tiny_clip(tmp_path / "resnet.safetensors", "debug_resnet")
    images, masks = pictures(np.random.default_rng(4))
    rows = stage(resnet, dense=True, dense_size=64, threshold=0.0)(filtered_rows(images, masks))
    row = conform(rows).to_pylist()[0]
    assert all(mask["tags"] for mask in row["masks"])
    _, features = stored_features(rows, 0)
    assert torch.tensor(features).norm(dim=1).min() > 0.99
    assert not np.allclose(features[0], features[1], atol=1e-3)
