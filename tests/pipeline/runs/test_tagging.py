import shutil
from pathlib import Path

import pytest

from pipeline.recipes.load_recipe import validate_recipe
from pipeline.recipes.recipe import Recipe
from pipeline.replays.refilter import refilter
from pipeline.runs.run import run
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder
from tests.stages.tag_cases import WORDS, save_tiny_clip

pytestmark = pytest.mark.usefixtures("ray_session")


def recipe(photos: Path, output: Path, clip: str, words: Path, **tag: object) -> Recipe:
    return validate_recipe(
        {
            "input": str(photos),
            "output": str(output),
            "model": {"checkpoint": "sam_tiny"},
            "generate": {"points_per_side": 5, "store_floor": {"predicted_iou": 0.05, "stability_score": 0.2}},
            "filter": {"pred_iou_thresh": 0.1, "stability_score_thresh": 0.3},
            "tag": {"checkpoint": clip, "vocabulary": str(words), "threshold": 0.0, "store_embeddings": True, **tag},
            "caption": {"templates": ["a {thing}"], "max_masks": 3},
            "run": {"commit_every": 3},
            "resources": {"sam_actors": 1},
        }
    )


def rows(output: Path) -> list[dict]:
    target = Round(Folder(str(output)), 0)
    return [row for part in target.parts() for row in target.read_part(part).to_pylist()]


def tag_names(found: list[dict]) -> set[str]:
    return {tag["name"] for row in found for mask in row["masks"] for tag in mask["tags"]}


def without_labels(found: list[dict]) -> list[dict]:
    names = ("tags", "caption", "caption_score", "fingerprints", "run_id", "masks")
    masks = [[{k: v for k, v in mask.items() if k not in names} for mask in row["masks"]] for row in found]
    return [{k: v for k, v in row.items() if k not in names} | {"m": m} for row, m in zip(found, masks, strict=True)]


def test_a_run_tags_and_another_vocabulary_tags_again_without_pictures(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASKFOUNDRY_CACHE", str(tmp_path / "cache"))
    clip, words, output = save_tiny_clip(tmp_path / "clip.safetensors"), tmp_path / "words.yaml", tmp_path / "out"
    words.write_text(WORDS)
    first = run(recipe(photos, output, clip, words), quiet=True)
    assert first.tally.failed == 0 and first.tally.masks > 0 and first.tally.stage_seconds["tag"] > 0
    before = rows(output)
    for row in before:
        links = row["fingerprints"]
        assert all(links[link] for link in ("generate", "filter", "embed", "tag", "caption"))
        captioned = [mask for mask in row["masks"] if mask["caption"]]
        assert len(captioned) == min(3, sum(mask["keep"] for mask in row["masks"]))
        assert all(mask["caption"] == f"a {mask['tags'][0]['name']}" for mask in captioned)
        for mask in row["masks"]:
            assert bool(mask["tags"]) == mask["keep"]
    assert tag_names(before) <= {"ball", "car", "vehicle", "bus", "tree", "red", "green", "blue"}

    again = run(recipe(photos, output, clip, words), quiet=True)
    assert again.replayed.labelled == 0 and again.tally.images == 0
    short = {"groups": {"thing": {"templates": ["a {}"], "words": ["kite", "роза"]}}}
    own = tmp_path / "own.yaml"
    own.write_text(str(short).replace("'", '"'))
    shutil.move(photos, tmp_path / "away")
    photos.mkdir()
    shutil.copy2(tmp_path / "away" / "0.png", photos / "0.png")  # the run wants some input; the rest stay as they are
    changed = run(recipe(photos, output, clip, own), quiet=True)
    assert changed.replayed.labelled == 5 and changed.tally.images == 0
    after = rows(output)
    assert tag_names(after) <= {"kite", "роза"} and without_labels(after) == without_labels(before)
    assert {row["caption"] for row in after} <= {"a kite", "a роза"}
    assert all(row["fingerprints"]["embed"] == before[0]["fingerprints"]["embed"] for row in after)

    # other rules keep other masks: those have no features yet, so the pictures that are left are read again
    result = refilter(str(output), ["filter.pred_iou_thresh=0.3"], quiet=True)
    assert result["replayed_images"] == 5
    found = {row["image_id"]: row for row in rows(output)}
    assert found["0.png"]["error"] is None and tag_names([found["0.png"]]) <= {"kite", "роза"}
    assert all(bool(mask["tags"]) == mask["keep"] for mask in found["0.png"]["masks"])
    gone = [row for name, row in found.items() if name != "0.png"]
    assert all(row["error"].startswith("tag: FileNotFoundError") and row["status"] == "ok" for row in gone)


def test_what_cannot_be_used_is_one_line_before_anything_is_written(photos: Path, tmp_path: Path) -> None:
    clip, words = save_tiny_clip(tmp_path / "clip.safetensors"), tmp_path / "words.txt"
    words.write_text("# nothing\n")
    with pytest.raises(ValueError, match=r"vocabulary words\.txt: group 'thing' is empty"):
        run(recipe(photos, tmp_path / "out", clip, words), quiet=True)
    words.write_text("very " * 300 + "long\n")
    with pytest.raises(ValueError, match=r"'very very .*' has \d+ tokens, the model reads \d+ of them"):
        run(recipe(photos, tmp_path / "out", clip, words), quiet=True)
    with pytest.raises(ValueError, match=r"neither a file nor a shipped one; did you mean 'scenes'"):
        run(recipe(photos, tmp_path / "out", clip, Path("scene")), quiet=True)
    with pytest.raises(ValueError, match="there is no file or folder"):
        run(recipe(photos, tmp_path / "out", str(tmp_path / "none.safetensors"), words), quiet=True)
    assert not (tmp_path / "out").exists()
