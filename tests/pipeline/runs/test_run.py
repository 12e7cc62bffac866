import json
import os
import shutil
from pathlib import Path

import duckdb
import pandas as pd
import pytest
from PIL import Image

from pipeline.recipes.load_recipe import validate_recipe
from pipeline.recipes.recipe import Recipe
from pipeline.replays.refilter import refilter
from pipeline.runs.run import run
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder
from pipeline.store.verify import verify_dataset

pytestmark = pytest.mark.usefixtures("ray_session")


def recipe(photos: Path, output: Path, **sections: dict) -> Recipe:
    content = {
        "input": str(photos),
        "output": str(output),
        "model": {"checkpoint": "sam_tiny"},
        "generate": {"points_per_side": 6, "store_floor": {"predicted_iou": 0.05, "stability_score": 0.2}},
        "filter": {"pred_iou_thresh": 0.1, "stability_score_thresh": 0.3, "min_component_area": 4, "max_hole_area": 4},
        "run": {"commit_every": 2},
        "resources": {"sam_actors": 1},
    }
    for name, values in sections.items():
        content[name] = {**content.get(name, {}), **values}
    return validate_recipe(content)


def rows(output: Path, round_number: int = 0) -> dict[str, dict]:
    target = Round(Folder(str(output)), round_number)
    found = [row for part in target.parts() for row in target.read_part(part).to_pylist()]
    assert len({row["image_id"] for row in found}) == len(found), "an image stands twice"
    return {row["image_id"]: row for row in found}


def stamps(output: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in sorted(output.glob("round=*/part-*.parquet"))}


def without_run(row: dict) -> dict:
    return {key: value for key, value in row.items() if key != "run_id"}


@pytest.fixture(scope="module")
def finished(drawn_photos: Path, tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Path:
    """The dataset of the five pictures; for tests that only read it."""
    output = tmp_path_factory.mktemp("finished") / "out"
    assert run(recipe(drawn_photos, output), quiet=True).total_images == 5
    return output


@pytest.fixture
def output(finished: Path, tmp_path: Path) -> Path:
    """A copy of it, as if `photos` had just been annotated."""
    return Path(shutil.copytree(finished, tmp_path / "out"))


def test_a_folder_becomes_a_dataset_that_others_read(photos: Path, tmp_path: Path) -> None:
    (photos / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    (photos / "empty.png").write_bytes(b"")
    Image.new("RGB", (1, 1)).save(photos / "dot.png")
    output = tmp_path / "out"
    summary = run(recipe(photos, output), quiet=True)
    assert (summary.status, summary.tally.images, summary.tally.failed, summary.total_images) == ("done", 8, 2, 8)
    assert summary.tally.failures == {"decode: UnidentifiedImageError": 2}
    assert len(stamps(output)) == 4

    found = rows(output)
    assert sorted(found) == ["0.png", "1.png", "2.png", "3.png", "broken.jpg", "dot.png", "empty.png", "more/4.png"]
    for name, row in found.items():
        failed = name in ("broken.jpg", "empty.png")
        assert row["status"] == ("failed" if failed else "ok")
        assert (row["error"] or "").startswith("decode: Unidentified" if failed else "")
        assert row["round"] == 0 and row["run_id"] == summary.run_id and row["tags"] == []
        assert len(row["masks"]) == len(row["rles"]) == len(row["raw_rles"])
        assert not failed or row["masks"] == []
        for mask in row["masks"]:
            assert mask["mask_id"].startswith(f"{name}/0/") and mask["source"] == "auto"
            assert mask["keep"] == (mask["predicted_iou"] > 0.1 and mask["drop_reason"] is None)
    kept = sum(mask["keep"] for row in found.values() for mask in row["masks"])
    assert kept == summary.tally.masks > 0
    assert verify_dataset(str(output)).num_problems == 0

    frame = pd.read_parquet(output / "round=000")
    assert len(frame) == 8
    query = f"select count(*) from (select unnest(masks) m from '{output}/round=*/part-*.parquet') where m.keep"
    assert duckdb.sql(query).fetchall() == [(kept,)]
    record = json.loads((output / "round=000/_run.json").read_text())
    assert record["fingerprints"]["generate"] == found["0.png"]["fingerprints"]["generate"]
    assert record["runs"][0]["images"] == 8 and record["runs"][0]["drop_reasons"]
    assert json.loads((output / "_dataset.json").read_text())["published"] == [0]


def test_running_again_touches_nothing_and_new_images_become_new_parts(photos: Path, output: Path) -> None:
    before, first = stamps(output), rows(output)
    again = run(recipe(photos, output, resources={"points_per_batch": 7}), quiet=True)
    assert again.tally.images == 0 and again.total_images == 5 and stamps(output) == before

    Image.open(photos / "0.png").rotate(180).save(photos / "new.png")
    more = run(recipe(photos, output), quiet=True)
    assert more.tally.images == 1 and more.total_images == 6
    after = stamps(output)
    assert {name: after[name] for name in before} == before and len(after) == len(before) + 1
    assert {name: row for name, row in rows(output).items() if name != "new.png"} == first


def test_changed_images_are_redone_in_place(photos: Path, output: Path) -> None:
    before, first = stamps(output), rows(output)
    Image.open(photos / "1.png").rotate(90, expand=True).save(photos / "1.png")
    os.utime(photos / "1.png", (1, 1))
    again = run(recipe(photos, output), quiet=True)
    after, second = stamps(output), rows(output)
    assert again.tally.images == 1 and len(after) == len(before)
    assert sum(after.get(name) != before[name] for name in before) == 1
    assert second["1.png"]["content_sha256"] != first["1.png"]["content_sha256"]
    assert (second["1.png"]["width"], second["1.png"]["height"]) == (56, 64)
    del first["1.png"], second["1.png"]
    assert second == first


def test_a_killed_run_goes_on_where_it_stopped(drawn_photos: Path, finished: Path, output: Path) -> None:
    Path(Round(Folder(str(output)), 0).part_path(1)).unlink()  # as somebody does with a damaged one
    (output / "round=000/.part-000001.parquet.x.tmp").write_bytes(b"half")
    again = run(recipe(drawn_photos, output), quiet=True)
    assert again.tally.images == 2 and again.total_images == 5
    expected, found = rows(finished), rows(output)
    assert {n: without_run(r) for n, r in found.items()} == {n: without_run(r) for n, r in expected.items()}
    assert not list(output.glob("round=000/.*"))


def test_failed_images_are_redone_only_when_asked(photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    target = photos / "late.png"
    target.write_bytes(b"")
    os.utime(target, (5, 5))
    assert run(recipe(photos, output), quiet=True).tally.failed == 1
    assert run(recipe(photos, output), quiet=True).tally.images == 0
    retried = run(recipe(photos, output), retry_failed=True, quiet=True)
    assert (retried.tally.images, retried.tally.failed, retried.total_images) == (1, 1, 6)


def test_another_generate_fingerprint_is_refused_and_a_new_round_is_offered(photos: Path, output: Path) -> None:
    other = recipe(photos, output, generate={"points_per_side": 4})
    with pytest.raises(ValueError, match=r"generate.points_per_side: 6 → 4\); use --new-round") as caught:
        run(other, quiet=True)
    assert "\n" not in str(caught.value)
    second = run(other, new_round=True, quiet=True)
    assert second.round == 1 and second.tally.images == 5
    assert json.loads((output / "_dataset.json").read_text()) == {"format": 1, "rounds": [0, 1], "published": [0, 1]}
    ids = [mask["mask_id"] for number in (0, 1) for row in rows(output, number).values() for mask in row["masks"]]
    assert len(set(ids)) == len(ids)


def test_replayed_filters_equal_a_fresh_run(drawn_photos: Path, output: Path, tmp_path: Path) -> None:
    fresh = tmp_path / "fresh"
    stricter = {"pred_iou_thresh": 0.2, "box_nms_thresh": 0.4, "min_component_area": 30, "max_hole_area": 30}
    run(recipe(drawn_photos, fresh, filter=stricter), quiet=True)
    result = refilter(str(output), [f"filter.{key}={value}" for key, value in stricter.items()], quiet=True)
    assert result["replayed_images"] == 5 and result["cut_short"] == 0
    expected = rows(fresh)
    assert {n: without_run(r) for n, r in rows(output).items()} == {n: without_run(r) for n, r in expected.items()}
    assert result["masks"] == sum(mask["keep"] for row in expected.values() for mask in row["masks"])
    # `run` with the stricter recipe agrees that nothing is left; with the first recipe it replays back
    assert run(recipe(drawn_photos, output, filter=stricter), quiet=True).replayed.images == 0
    back = run(recipe(drawn_photos, output), quiet=True)
    assert back.replayed.images == 5 and back.tally.images == 0
    assert verify_dataset(str(output)).num_problems == 0


def test_a_replay_below_what_was_stored_is_refused(photos: Path, output: Path, tmp_path: Path) -> None:
    lean = tmp_path / "lean"
    before = stamps(output)
    with pytest.raises(ValueError, match=r"below generate\.store_floor"):
        refilter(str(output), ["filter.pred_iou_thresh=0.01"], quiet=True)
    with pytest.raises(ValueError, match="only filter"):
        refilter(str(output), ["generate.points_per_side=1"], quiet=True)
    with pytest.raises(ValueError, match=r"resources\.sam_actors: 99 asked"):
        refilter(str(output), ["resources.sam_actors=99"], quiet=True)
    with pytest.raises(ValueError, match="holds no rounds"):
        refilter(str(tmp_path / "nowhere"), [], quiet=True)
    assert stamps(output) == before
    run(recipe(photos, lean, generate={"store_rejected": False}), quiet=True)
    assert all(mask["keep"] for row in rows(lean).values() for mask in row["masks"])
    with pytest.raises(ValueError, match="no rejected candidates"):
        refilter(str(lean), ["filter.box_nms_thresh=0.3"], quiet=True)
    with pytest.raises(ValueError, match="no rejected candidates"):
        run(recipe(photos, lean, generate={"store_rejected": False}, filter={"box_nms_thresh": 0.3}), quiet=True)


def test_an_output_that_cannot_be_written_is_one_line(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match=r"^output: .*cannot be (written|read)"):
        run(recipe(photos, tmp_path / "file" / "out"), quiet=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/_dataset.json").write_text('{"format": 99}')
    with pytest.raises(ValueError, match="not a dataset of format 1"):
        run(recipe(photos, tmp_path / "other"), quiet=True)
    assert os.listdir(tmp_path / "other") == ["_dataset.json"]


def test_verify_finds_what_is_wrong(photos: Path, output: Path) -> None:
    target = Round(Folder(str(output)), 0)
    part = target.read_part(0)
    target.write_part(7, part)  # every image of part 0 twice
    result = verify_dataset(str(output))
    assert result.num_problems == part.num_rows and "stands in it twice" in result.problems[0]
    Path(Round(target.folder, 0).part_path(7)).write_bytes(b"PAR1 cut short")
    assert "is damaged (" in verify_dataset(str(output)).problems[0]
