"""Masklets end to end, on clips that the project draws itself."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from models.masks.rle import areas
from models.sam2.build import build_sam2
from models.sam2.config import SAM2_SIZES
from models.sam2.weights import save_sam2
from pipeline.recipes.load_recipe import validate_video_recipe
from pipeline.scenes.write_clips import write_clips
from pipeline.store.masklet_round import MaskletRound
from pipeline.store.storage import Folder
from pipeline.store.verify import verify_dataset
from pipeline.video.recipe import VideoRecipe
from pipeline.video.run import run_video

ROOT = Path(__file__).resolve().parents[3]
SETTINGS: dict[str, Any] = {
    "model": {"checkpoint": "sam_tiny"},
    "generate": {"points_per_side": 4, "layers": [0], "points_per_layer": None},
    "filter": {"pred_iou_thresh": 0.1, "stability_score_thresh": 0.3, "min_component_area": 8, "max_hole_area": 8},
    "track": {"key_frame_every": 3, "min_component_area": 8, "max_hole_area": 8, "min_stability": 0.3},
    "run": {"commit_every": 2},
    "resources": {"sam_actors": 1},
}


def recipe(clips: Path, output: Path, **changes: Any) -> VideoRecipe:
    return validate_video_recipe({"kind": "video", "input": str(clips), "output": str(output), **SETTINGS, **changes})


def rows(output: Path) -> list[dict[str, Any]]:
    target = MaskletRound(Folder(str(output)), 0)
    return [row for part in target.parts() for row in target.read_part(part).to_pylist()]


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    folder = tmp_path / "clips"
    write_clips(str(folder / "frames"), 1, num_frames=5, seed=3, width=96, height=64)
    write_clips(str(folder / "mp4"), 2, num_frames=4, seed=5, width=96, height=64, mp4=True)
    return folder


@pytest.mark.usefixtures("ray_session")
def test_a_folder_of_clips_becomes_masklets_and_goes_on_where_it_stopped(clips: Path, tmp_path: Path) -> None:
    (clips / "broken.mp4").write_bytes(b"no video")
    output = tmp_path / "out"
    summary = run_video(recipe(clips, output), quiet=True)
    assert (summary.status, summary.total_videos, summary.tally.failed) == ("done", 4, 1)
    assert summary.tally.frames == 5 + 4 + 4
    found = rows(output)
    videos = {row["video_id"]: row for row in found}
    assert list(videos) == [
        "broken.mp4", "frames/clip_00000003", "mp4/clip_00000005.mp4", "mp4/clip_00000006.mp4"
    ]  # fmt: skip
    assert videos["broken.mp4"]["error"].startswith("decode: InvalidDataError")
    kept = [row for row in found if row["keep"]]
    assert len(kept) == summary.tally.masklets > 0
    for row in kept:
        assert row["masklet_id"].startswith(f"{row['video_id']}/0/") and row["run_id"] == summary.run_id
        assert (row["height"], row["width"]) == (64, 96)
        assert row["frame_indexes"] == list(range(row["key_frame"], row["num_frames"]))
        assert row["key_frame"] in (0, 3)
        assert areas(row["rles"]).tolist() == row["areas"]
        assert row["num_visible"] == sum(row["visible"]) >= 1
    checked = verify_dataset(str(output))
    assert (checked.num_problems, checked.images, checked.failed, checked.masks) == (0, 4, 1, len(kept))

    stamps = {path: path.stat().st_mtime_ns for path in output.glob("round=000/part-*")}
    assert len(stamps) == 2
    again = run_video(recipe(clips, output, track={**SETTINGS["track"], "objects_at_once": 3}), quiet=True)
    assert again.tally.videos == 0 and again.total_videos == 4
    assert {path: path.stat().st_mtime_ns for path in output.glob("round=000/part-*")} == stamps

    shutil.copy(clips / "mp4" / "clip_00000005.mp4", clips / "broken.mp4")
    mended = run_video(recipe(clips, output), retry_failed=True, quiet=True)
    assert (mended.tally.videos, mended.tally.failed, mended.total_videos) == (1, 0, 4)
    by_id = {row["masklet_id"]: row for row in rows(output)}
    for row in kept:
        assert by_id[row["masklet_id"]]["rles"] == row["rles"]
    twin = [row for row in by_id.values() if row["video_id"] == "broken.mp4"]
    model = [row for row in by_id.values() if row["video_id"] == "mp4/clip_00000005.mp4"]
    assert [row["rles"] for row in twin] == [row["rles"] for row in model]
    assert verify_dataset(str(output)).num_problems == 0

    with pytest.raises(ValueError, match=r"made with other settings \(track\.merge_iou: 0\.5 → 0\.6\)"):
        run_video(recipe(clips, output, track={**SETTINGS["track"], "merge_iou": 0.6}), quiet=True)


@pytest.mark.usefixtures("ray_session")
def test_a_memory_follows_the_objects_where_the_recipe_names_a_sam_2(clips: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_sam2(tmp_path / "sam2.safetensors", build_sam2(SAM2_SIZES["debug"]), torch.float32)
    track = {**SETTINGS["track"], "checkpoint": str(tmp_path / "sam2.safetensors"), "min_stability": 0.0}
    changes = {"include": ["frames/**"], "track": track, "generate": {**SETTINGS["generate"], "points_per_side": 2}}
    summary = run_video(recipe(clips, tmp_path / "out", **changes), quiet=True)
    assert (summary.status, summary.tally.videos, summary.tally.failed) == ("done", 1, 0)
    found = rows(tmp_path / "out")
    assert found and all(row["frame_indexes"][-1] == 4 for row in found)
    assert verify_dataset(str(tmp_path / "out")).num_problems == 0
    without = run_video(recipe(clips, tmp_path / "other", **changes | {"track": SETTINGS["track"]}), quiet=True)
    assert without.tally.failed == 0
    assert rows(tmp_path / "other")[0]["fingerprints"] != found[0]["fingerprints"]


@pytest.mark.usefixtures("ray_session")
def test_masklets_are_named_where_the_recipe_names_a_clip(clips: Path, tmp_path: Path) -> None:
    tag = {"checkpoint": "clip_small", "vocabulary": "scenes", "threshold": 0.3}
    caption = {"templates": ["something {colour}"], "min_score": -1.0, "max_masks": 2}
    changes = {"include": ["mp4/**"], "tag": tag, "caption": caption}
    summary = run_video(recipe(clips, tmp_path / "out", **changes), quiet=True)
    assert (summary.status, summary.tally.failed) == ("done", 0)
    kept = [row for row in rows(tmp_path / "out") if row["keep"]]
    assert any(row["tags"] for row in kept) and all(0.3 <= tag["score"] <= 1 for row in kept for tag in row["tags"])
    captions = [row["caption"] for row in kept if row["caption"]]
    assert captions and all(text.startswith("something ") for text in captions) and len(captions) <= 4
    with pytest.raises(ValueError, match=r"made with other settings \(tag\.threshold: 0\.3 → 0\.4\)"):
        run_video(recipe(clips, tmp_path / "out", **changes | {"tag": tag | {"threshold": 0.4}}), quiet=True)
    with pytest.raises(ValueError, match=r"caption needs the features of tag"):
        recipe(clips, tmp_path / "out", caption=caption)


def start(clips: Path, output: Path) -> subprocess.Popen[str]:
    settings = [
        f"input={clips}", f"output={output}", "run.commit_every=1", "model.checkpoint=sam_tiny",
        "generate.points_per_side=4", "generate.layers=[0]", "generate.points_per_layer=null",
        "filter.min_component_area=8", "track.min_component_area=8", "resources.sam_actors=1",
    ]  # fmt: skip
    arguments = ["run", "video", *(part for setting in settings for part in ("-o", setting))]
    return subprocess.Popen(
        [sys.executable, "-c", "from pipeline.cli import main; main()", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_kill_loses_and_doubles_nothing(tmp_path: Path) -> None:
    clips, output = write_clips(str(tmp_path / "clips"), 10, num_frames=12, width=96, height=64), tmp_path / "out"
    process = start(clips, output)
    deadline = time.time() + 300
    while len(list(output.glob("round=000/part-*.parquet"))) < 2:
        assert process.poll() is None and time.time() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    committed = MaskletRound(Folder(str(output)), 0).committed().num_rows
    assert 2 <= committed < 10
    before = {row["masklet_id"]: row for row in rows(output)}

    again = start(clips, output)
    printed, errors = again.communicate(timeout=400)
    assert again.returncode == 0, errors
    assert printed.startswith(f"{10 - committed} videos, ") and "the round now holds 10 videos" in printed
    found = MaskletRound(Folder(str(output)), 0).committed()["image_id"].to_pylist()
    assert sorted(found) == [f"clip_{seed:08d}" for seed in range(10)]
    after = {row["masklet_id"]: row for row in rows(output)}
    assert before.items() <= after.items()
    assert verify_dataset(str(output)).num_problems == 0
