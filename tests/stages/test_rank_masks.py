from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F

from models.clip.regions import normalise_views, region_view
from models.clip.zero_shot import class_embeddings
from models.masks.rle import decode_masks
from models.weights import load_clip, load_clip_tokenizer
from stages.mask_columns import MaskColumns, without_embeddings
from stages.rank_masks import RankMasks
from stages.record import conform, mask_structs, set_columns
from stages.row_masks import masks_of
from stages.tag_masks import TagMasks
from stages.tag_settings import TagSettings
from stages.tagging import read_tagging
from stages.text_embeddings import text_direction
from tests.stages.tag_cases import filtered_rows, pictures, save_tiny_clip, vocabulary

TEXT = "a red ball"


@pytest.fixture
def clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MASKFOUNDRY_CACHE", str(tmp_path / "cache"))
    return save_tiny_clip(tmp_path / "clip.safetensors")


def tagged(clip: str, keep: list[list[bool]]) -> pa.Table:
    """Rows as they leave the tag stage; ids as the generator gives them, the last row's second mask from a person."""
    images, masks = pictures(np.random.default_rng(0))
    rows = filtered_rows(images, masks, keep)
    fields = {
        "mask_id": pa.array(["i0/0/4", "i0/0/9", "i0/0/10", "i2/0/3", "person"]),
        "source": pa.array(["auto"] * 4 + ["human"]),
    }
    rows = set_columns(rows, MaskColumns.of(rows).with_fields(fields).columns())
    return TagMasks(read_tagging(TagSettings(checkpoint=clip), vocabulary()), 8, "cpu", 1, keep_features=True)(rows)


def direction(clip: str, text: str = TEXT) -> np.ndarray:
    model, _ = load_clip(clip)
    return text_direction(model, load_clip_tokenizer(clip, model.config), text)


def scores_by_hand(clip: str) -> list[float]:
    """Of all five masks, straight from CLIP: the mean of its features of the two views, and the text's."""
    model, _ = load_clip(clip)
    text = class_embeddings(model, load_clip_tokenizer(clip, model.config), [TEXT], ["{}"])[0]
    images, masks = pictures(np.random.default_rng(0))
    rows = filtered_rows(images, masks).to_pylist()
    settings = read_tagging(TagSettings(checkpoint=clip), vocabulary()).views
    found = []
    for image, row in zip(images, rows, strict=True):
        for mask, rle in zip(row["masks"], row["rles"], strict=True):
            views = [region_view(image, rle, tuple(mask["bbox"]), s, settings, model.config) for s in settings.scales]
            features = F.normalize(model.encode_image(normalise_views(views, model.config)), dim=-1)
            found.append(float(F.normalize(features.mean(0), dim=0) @ text))
    return found


def test_scores_are_clips_and_the_nearest_mask_comes_first(clip: str) -> None:
    rows = tagged(clip, [[True, True, True], [], [True, True]])
    before = conform(rows).to_pylist()
    after = conform(RankMasks(direction(clip))(rows)).to_pylist()
    by_hand = dict(zip(["i0/0/4", "i0/0/9", "i0/0/10", "i2/0/3", "person"], scores_by_hand(clip), strict=True))
    assert np.ptp(list(by_hand.values())) > 0.01
    for one, other in zip(before, after, strict=True):
        ids = [mask["mask_id"] for mask in other["masks"]]
        assert ids == sorted((mask["mask_id"] for mask in one["masks"]), key=lambda name: -by_hand[name])
        assert [mask["text_score"] for mask in other["masks"]] == pytest.approx([by_hand[n] for n in ids], abs=1e-3)
        places = [[mask["mask_id"] for mask in one["masks"]].index(name) for name in ids]
        for column in ("rles", "raw_rles", "mask_embeddings"):
            assert other[column] == [one[column][place] for place in places]
        for mask, decoded in zip(other["masks"], decode_masks(other["rles"], one["height"], one["width"]), strict=True):
            assert mask["area"] == decoded.sum()


def test_refused_masks_have_no_score_and_come_last_and_all_return(clip: str) -> None:
    rows = tagged(clip, [[False, True, True], [], [False, False]])
    before = conform(rows).to_pylist()
    ranked = RankMasks(direction(clip))(rows)
    first, _, third = conform(ranked).to_pylist()
    assert [mask["keep"] for mask in first["masks"]] == [True, True, False]
    assert first["masks"][2]["text_score"] is None and first["masks"][2]["mask_id"] == "i0/0/4"
    assert [mask["mask_id"] for mask in third["masks"]] == ["i2/0/3", "person"]
    assert conform(RankMasks(None)(ranked)).to_pylist() == before
    again = RankMasks(direction(clip, "a blue bus"))(ranked)
    assert conform(again).equals(conform(RankMasks(direction(clip, "a blue bus"))(rows)))


def test_embeddings_follow_their_masks_there_and_back(clip: str) -> None:
    rows = tagged(clip, [[True, True, True], [], [True, True]])
    before = {mask.fields["mask_id"]: mask for row in conform(rows).to_pylist() for mask in masks_of(row)}
    ranked = RankMasks(direction(clip))(rows)
    for row in conform(ranked).to_pylist():
        for mask in masks_of(row):
            assert mask.rle == before[mask.fields["mask_id"]].rle
            assert mask.embedding == before[mask.fields["mask_id"]].embedding
            assert mask.embedding is not None and mask.embedding.hash is not None and mask.has_own_embedding
    assert ranked["mask_embeddings"].to_pylist() != rows["mask_embeddings"].to_pylist()
    assert conform(RankMasks(None)(ranked)).equals(conform(rows))


def test_features_that_are_not_kept_and_rows_that_have_none(clip: str) -> None:
    rows = tagged(clip, [[True, True, True], [], [True, True]])
    lean = conform(RankMasks(direction(clip), keep_features=False)(rows)).to_pylist()
    assert all(row["embedding"] is None and row["mask_embeddings"] is None for row in lean)
    assert all(mask["text_score"] is not None for row in lean for mask in row["masks"])
    nothing = MaskColumns.made(mask_structs({}, 0), [], [0, 0, 0]).columns()
    empty = conform(RankMasks(direction(clip))(set_columns(rows, nothing))).to_pylist()
    assert [(row["masks"], row["mask_embeddings"]) for row in empty] == [([], None)] * 3
    untagged = without_embeddings(rows)
    found = conform(RankMasks(direction(clip))(untagged)).to_pylist()
    assert all(mask["text_score"] is None for row in found for mask in row["masks"])
    assert [len(row["masks"]) for row in found] == [3, 0, 2]


@pytest.mark.parametrize("text", ["", " \n", "&nbsp;"])
def test_an_empty_text_is_one_line(clip: str, text: str) -> None:
    with pytest.raises(ValueError, match=r"^text: it is empty; say what the masks should show"):
        direction(clip, text)


def test_long_texts_and_other_scripts(clip: str) -> None:
    with pytest.raises(ValueError, match=r"^text: 'ball ball .*'… has 40 tokens, the model reads \d+; shorten it$"):
        direction(clip, "ball " * 40)
    found = [direction(clip, text) for text in ("мяч", "球", "{} 🙂", "a red ball")]
    assert all(abs(np.linalg.norm(one) - 1) < 1e-5 for one in found)
    assert len({tuple(np.round(one, 3)) for one in found}) == 4
    assert torch.isfinite(torch.from_numpy(np.stack(found))).all()
