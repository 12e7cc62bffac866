"""`generate.text` end to end: the order of the masks, replays without a SAM, the projection to SAM's prompts."""

import shutil
from pathlib import Path

import pytest
import torch

from models.clip.config import CLIP_SIZES
from models.sam.clip_prompt import ClipPrompt
from models.weights import load_clip, load_sam, save_clip_prompt
from pipeline.dataset import open_dataset
from pipeline.queries.find import find
from pipeline.queries.query import query
from pipeline.recipes.load_recipe import validate_recipe, validate_video_recipe
from pipeline.recipes.recipe import Recipe
from pipeline.replays.refilter import refilter
from pipeline.runs.fingerprint import fingerprint
from pipeline.runs.resolve import resolve
from pipeline.runs.run import run
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder
from pipeline.store.verify import verify_dataset
from tests.stages.tag_cases import WORDS, save_tiny_clip

DIM = CLIP_SIZES["debug"].embed_dim


@pytest.fixture
def content(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    monkeypatch.setenv("MASKFOUNDRY_CACHE", str(tmp_path / "cache"))
    (tmp_path / "words.yaml").write_text(WORDS)
    return {
        "input": str(photos),
        "output": str(tmp_path / "out"),
        "model": {"checkpoint": "sam_tiny"},
        "generate": {"points_per_side": 5, "store_floor": {"predicted_iou": 0.05, "stability_score": 0.2}},
        "filter": {"pred_iou_thresh": 0.1, "stability_score_thresh": 0.3},
        "tag": {
            "checkpoint": save_tiny_clip(tmp_path / "clip.safetensors"),
            "vocabulary": str(tmp_path / "words.yaml"),
            "store_embeddings": True,
        },
        "run": {"commit_every": 3},
        "resources": {"sam_actors": 1},
    }


def recipe(content: dict, text: str | None, clip_prompt: str | None = None, **tag: object) -> Recipe:
    model = content["model"] | ({} if clip_prompt is None else {"clip_prompt": clip_prompt})
    changed = {"generate": content["generate"] | {"text": text}, "tag": content["tag"] | tag, "model": model}
    return validate_recipe(content | changed)


def rows(content: dict) -> list[dict]:
    target = Round(Folder(content["output"]), 0)
    return [row for part in target.parts() for row in target.read_part(part).to_pylist()]


def projection(path: Path, clip_dim: int = DIM, notes: dict[str, str] | None = None) -> str:
    """Random, about the embedding of a point's kind: a token such as the decoder has met."""
    torch.manual_seed(5)
    sam, _ = load_sam("sam_tiny")
    made = ClipPrompt(clip_dim, sam.config.prompt_embed_dim).requires_grad_(False)
    made.projection.bias.copy_(sam.prompt_encoder.point_embeddings[1].get_parameter("weight")[0])
    save_clip_prompt(path, made.state_dict(), torch.float32, notes)
    return str(path)


def ids(row: dict) -> list[str]:
    return [mask["mask_id"] for mask in row["masks"]]


def assert_ranked(content: dict, text: str) -> None:
    """Every row by its scores, which are those that `find` gives."""
    near = find(open_dataset(content["output"]), text, 10_000, quiet=True).masks.to_pylist()
    scores = {mask["mask_id"]: mask["score"] for mask in near}
    assert len(scores) > 10
    for row in rows(content):
        kept = [mask for mask in row["masks"] if mask["keep"]]
        assert [mask["keep"] for mask in row["masks"]] == sorted((m["keep"] for m in row["masks"]), reverse=True)
        assert [mask["text_score"] for mask in kept] == pytest.approx([scores[m["mask_id"]] for m in kept], abs=1e-6)
        assert [mask["text_score"] for mask in kept] == sorted((m["text_score"] for m in kept), reverse=True)
        assert all(mask["text_score"] is None for mask in row["masks"] if not mask["keep"])
    assert verify_dataset(content["output"]).num_problems == 0


@pytest.mark.usefixtures("ray_session")
def test_masks_are_ranked_and_another_text_runs_no_sam(content: dict, photos: Path, tmp_path: Path) -> None:
    run(recipe(content, None), quiet=True)
    plain = rows(content)
    away = tmp_path / "away"
    shutil.move(photos, away)
    photos.mkdir()
    shutil.copy2(away / "0.png", photos / "0.png")  # the run wants some input; the rest stay as they are

    ranked = run(recipe(content, "a red ball"), quiet=True)
    assert (ranked.replayed.labelled, ranked.tally.images) == (5, 0)
    assert_ranked(content, "a red ball")
    assert [ids(row) for row in rows(content)] != [ids(row) for row in plain]
    best, _ = query(
        open_dataset(content["output"]), "select image_id, max(text_score) s from masks group by all order by all"
    )
    expected = {row["image_id"]: row["masks"][0]["text_score"] for row in rows(content)}
    assert dict(zip(best["image_id"].to_pylist(), best["s"].to_pylist(), strict=True)) == expected

    changed = run(recipe(content, "ein blauer мяч", threshold=0.0), quiet=True)
    assert changed.replayed.labelled == 5
    assert_ranked(content, "ein blauer мяч")
    assert all(mask["tags"] for row in rows(content) for mask in row["masks"] if mask["keep"])

    replayed = refilter(content["output"], ["filter.box_nms_thresh=0.6"], quiet=True)
    assert replayed["replayed_images"] == 5
    shutil.rmtree(photos)
    shutil.move(away, photos)  # masks that other rules kept have no features, so their pictures are read again
    back = run(recipe(content, None), quiet=True)
    assert (back.replayed.images, back.replayed.labelled, back.tally.images) == (5, 5, 0)
    for one, other in zip(plain, rows(content), strict=True):
        assert one["rles"] == other["rles"] and one["raw_rles"] == other["raw_rles"]
        assert [mask | {"tags": []} for mask in one["masks"]] == [mask | {"tags": []} for mask in other["masks"]]


@pytest.mark.usefixtures("ray_session")
def test_a_run_ranks_as_it_goes_and_a_projection_prompts_the_sam(content: dict, tmp_path: Path) -> None:
    prompt = projection(
        tmp_path / "prompt.safetensors", notes={"clip_sha256": load_clip(str(tmp_path / "clip.safetensors"))[1]}
    )
    content["generate"]["store_floor"] = {"predicted_iou": 0.02, "stability_score": 0.0}  # the projection is random
    run(recipe(content | {"caption": {"max_masks": 2}}, "a red ball", prompt), quiet=True)
    assert_ranked(content, "a red ball")
    prompted = {
        mask["mask_id"]
        for row in rows(content)
        for mask in row["masks"]
        if int(mask["mask_id"].split("/")[-1]) >= 3 * 25
    }
    assert prompted, "the text found masks of its own"
    with pytest.raises(
        ValueError, match=r"made with other settings \(text: 'a red ball' → 'a tree'\); use --new-round"
    ):
        run(recipe(content, "a tree", prompt), quiet=True)
    lean = content | {"output": str(tmp_path / "lean")}
    run(recipe(lean, "a red ball", store_embeddings=False), quiet=True)
    found = rows(lean)
    assert all(row["mask_embeddings"] is None for row in found)
    assert [mask["text_score"] for row in found for mask in row["masks"] if mask["keep"]]
    assert not {mask["mask_id"] for row in found for mask in row["masks"]} & prompted


def test_a_text_is_a_link_of_its_own_unless_it_prompts(content: dict, tmp_path: Path) -> None:
    plain, one, other = (fingerprint(resolve(recipe(content, text))).links for text in (None, "a ball", "a tree"))
    assert "text" not in plain and one.keys() - plain.keys() == {"text"}
    assert all(one[link] == other[link] == plain[link] for link in plain) and one["text"] != other["text"]
    first = projection(tmp_path / "prompt.safetensors")
    prompted, another = (fingerprint(resolve(recipe(content, text, first))) for text in ("a ball", "a tree"))
    assert len({one["generate"], prompted.links["generate"], another.links["generate"]}) == 3
    moved = str(shutil.copy2(first, tmp_path / "elsewhere.safetensors"))
    assert fingerprint(resolve(recipe(content, "a ball", moved))) == prompted


def test_what_cannot_be_is_one_line_before_anything_is_written(content: dict, tmp_path: Path) -> None:
    def refused(message: str, *arguments: object) -> None:
        with pytest.raises(ValueError, match=message) as caught:
            run(recipe(content, *arguments), quiet=True)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)

    refused("^generate.text: it is empty; say what", "  ")
    refused(r"^generate.text: 'ball ball .* tokens, the model reads \d+; shorten it$", "ball " * 80)
    small = projection(tmp_path / "small.safetensors", clip_dim=7)
    refused(rf"projects the embeddings of another CLIP than .* \(of 7 values, not {DIM}\); set tag", "a ball", small)
    other = projection(tmp_path / "other.safetensors", notes={"clip_sha256": "0"})
    refused("projects the embeddings of another CLIP than .*clip.safetensors; set tag.checkpoint", "a ball", other)
    narrow = tmp_path / "narrow.safetensors"
    save_clip_prompt(narrow, ClipPrompt(DIM, 6).state_dict(), torch.float32)
    refused(r"makes prompts of 6 values, sam_tiny reads \d+; choose a projection", "a ball", str(narrow))
    refused("holds no projection of CLIP embeddings", "a ball", content["tag"]["checkpoint"])
    refused(r"^model.clip_prompt prompts with generate.text; set that or", None, small)
    with pytest.raises(ValueError, match=r"^generate.text needs the CLIP of tag; add a tag section or leave text out$"):
        validate_recipe({"input": "a", "output": "b", "generate": {"text": "a ball"}})
    with pytest.raises(ValueError, match=r"^generate.text and model.clip_prompt are for images; leave them out for"):
        validate_video_recipe({"kind": "video", "input": "a", "output": "b", "generate": {"text": "a ball"}})
    assert not Path(content["output"]).exists()
