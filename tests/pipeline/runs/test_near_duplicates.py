from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.dataset import open_dataset
from pipeline.recipes.load_recipe import validate_recipe
from pipeline.report.facts import choose_parts, read_facts
from pipeline.runs.run import RunSummary, run
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder
from pipeline.store.verify import verify_dataset


def picture(path: Path, seed: int, brighter: int = 0) -> None:
    """Soft blobs, which a little more light does not change."""
    coarse = np.random.default_rng(seed).integers(20, 220, (6, 6, 3), dtype=np.uint8)
    soft = np.asarray(Image.fromarray(coarse).resize((72, 48), Image.Resampling.BICUBIC)).astype(int)
    Image.fromarray((soft + brighter).clip(0, 255).astype(np.uint8)).save(path)


def annotate(photos: Path, output: Path, **more: Any) -> RunSummary:
    content = {
        "input": str(photos),
        "output": str(output),
        "model": {"checkpoint": "sam_tiny"},
        "generate": {"points_per_side": 4, "store_floor": {"predicted_iou": 0.05, "stability_score": 0.2}},
        "filter": {"pred_iou_thresh": 0.05, "stability_score_thresh": 0.2},
        "run": {"commit_every": 2},
        "resources": {"sam_actors": 1},
    }
    return run(validate_recipe(content | more), quiet=True)


def rows(output: Path) -> dict[str, dict[str, Any]]:
    target = Round(Folder(str(output)), 0)
    return {row["image_id"]: row for part in target.parts() for row in target.read_part(part).to_pylist()}


def test_near_duplicates_are_marked_or_skipped_and_nothing_is_lost(tmp_path: Path, ray_session: None) -> None:
    photos, output = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for number in range(3):
        picture(photos / f"{number}.png", number)
    picture(photos / "again.png", 1, brighter=3)
    (photos / "broken.png").write_bytes(b"no picture")
    summary = annotate(photos, output, dedup="skip")
    found = rows(output)
    assert (summary.tally.images, summary.tally.skipped, summary.tally.failed) == (5, 1, 1)
    (skipped,) = [row for row in found.values() if row["status"] == "skipped"]
    assert {skipped["image_id"], skipped["duplicate_of"]} == {"1.png", "again.png"}
    assert skipped["masks"] == [] and skipped["error"] == "dedup: near-duplicate" and skipped["phash"]
    assert found[skipped["duplicate_of"]]["masks"]
    assert verify_dataset(str(output)).num_problems == 0
    dataset = open_dataset(str(output))
    facts = read_facts(dataset, choose_parts(dataset, None))
    assert (facts.num_images, facts.num_ok, facts.num_skipped, facts.num_failed) == (5, 3, 1, 1)
    assert [failure.reason for failure in facts.failures] == ["decode: UnidentifiedImageError"]

    # what is committed is known to the next run, and an image that changes is no longer what others repeat
    picture(photos / "later.png", 2, brighter=2)
    assert annotate(photos, output, dedup="skip").tally.skipped == 1
    assert rows(output)["later.png"]["duplicate_of"] == "2.png"
    picture(photos / "0.png", 7)
    picture(photos / "old.png", 0)
    assert annotate(photos, output, dedup="skip").tally.skipped == 0
    assert rows(output)["old.png"]["duplicate_of"] is None and rows(output)["0.png"]["status"] == "ok"

    with pytest.raises(ValueError, match="dedup: 'skip' → 'mark'"):
        annotate(photos, output, dedup="mark")
    marked = tmp_path / "marked"
    assert annotate(photos, marked, dedup="mark").tally.skipped == 0
    found = rows(marked)
    assert sum(row["duplicate_of"] is not None for row in found.values()) == 2
    assert all(row["status"] == "ok" for name, row in found.items() if name != "broken.png")
