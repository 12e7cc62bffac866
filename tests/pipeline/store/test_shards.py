"""Runs that share a dataset by taking a fixed part of the input each."""

import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from models.pinned_weights import PinnedWeights
from pipeline.errors import RunError
from pipeline.recipes.load_recipe import validate_recipe
from pipeline.recipes.recipe import Recipe
from pipeline.runs.begin_run import choose_round
from pipeline.runs.chunks import plan_chunks
from pipeline.runs.fingerprint import fingerprint
from pipeline.runs.resolve import resolve_labels_of
from pipeline.runs.run import RunSummary, run
from pipeline.sources.listing import list_images
from pipeline.sources.listing_schema import listing_table
from pipeline.store.compact import compact
from pipeline.store.lease import hold_lease, live_leases
from pipeline.store.rounds import COMMITTED, Round
from pipeline.store.shards import Shard, parse_shard
from pipeline.store.status import read_status
from pipeline.store.storage import Folder
from pipeline.store.verify import verify_dataset
from stages.record import conform


def listing(*names: str) -> pa.Table:
    return listing_table(len(names), {"image_id": list(names), "uri": list(names)})


def recipe(photos: Path, output: Path) -> Recipe:
    content = {
        "input": str(photos),
        "output": str(output),
        "model": {"checkpoint": "sam_tiny"},
        "generate": {"points_per_side": 1, "store_floor": {"predicted_iou": 0.05, "stability_score": 0.2}},
        "filter": {"pred_iou_thresh": 0.1, "stability_score_thresh": 0.3},
        "run": {"commit_every": 2},
        "resources": {"sam_actors": 1},
    }
    return validate_recipe(content)


@pytest.mark.parametrize(
    "text", ["0/0", "5/4", "0/4", "x", "1", "1/", "/2", "-1/2", "1/2/3", "1.5/2", "", "١/٢", "1 /2"]
)
def test_what_is_no_shard_is_one_line(text: str) -> None:
    with pytest.raises(ValueError, match=r"^--shard .*: write it as i/n with i from 1 to n") as caught:
        parse_shard(text)
    assert "\n" not in str(caught.value)


def test_shards_divide_the_input_and_do_not_depend_on_what_else_is_listed() -> None:
    names = [f"photos/{index}.jpg" for index in range(4000)] + ["ü\n.png"]
    taken = [Shard(number, 3).take(listing(*names))["image_id"].to_pylist() for number in (1, 2, 3)]
    assert sorted(name for one in taken for name in one) == sorted(names)
    assert all(1200 < len(one) < 1450 for one in taken)
    for number, one in enumerate(taken, 1):
        again = Shard(number, 3).take(listing(*reversed(names[::2]), "new.png"))["image_id"].to_pylist()
        assert set(again) - {"new.png"} == set(one) & set(names[::2])
    assert parse_shard("1/1").take(listing(*names)).num_rows == len(names)
    # recorded: a dataset that is half done goes on with another version of the code
    digits = listing(*(f"{index}.png" for index in range(12)))
    assert Shard(2, 4).take(digits)["image_id"].to_pylist() == ["4.png", "7.png"]


def test_shards_number_their_parts_apart() -> None:
    planned = {
        number: [chunk.part for chunk in plan_chunks(listing(*"abcde"), committed(), 2, False, Shard(number, 3))]
        for number in (1, 2, 3)
    }
    assert planned == {1: [0, 3, 6], 2: [1, 4, 7], 3: [2, 5, 8]}
    later = plan_chunks(listing(*"abc"), committed(("a", 4)), 1, False, Shard(2, 3))
    assert [chunk.part for chunk in later] == [7, 10]


def committed(*rows: tuple[str, int]) -> pa.Table:
    return pa.Table.from_pylist([{"image_id": name, "part": part} for name, part in rows], schema=COMMITTED)


def test_leases_of_shards_and_of_the_round(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    whole, first, second = Round(folder, 0), Round(folder, 0, Shard(1, 2)), Round(folder, 0, Shard(2, 2))
    whole.create_record({"shards": 2, "runs": []})
    with hold_lease(first, "one"), hold_lease(second, "two"):
        for target in (whole, first):
            with pytest.raises(RunError, match=r"run one .* is writing"), hold_lease(target, "three"):
                pass
        assert [held["run_id"] for held in live_leases(whole)] == ["one", "two"]
    with hold_lease(whole, "all"):
        for target in (first, second):
            with pytest.raises(RunError, match=r"run all .* is writing"), hold_lease(target, "three"):
                pass
        assert [held["run_id"] for held in live_leases(whole)] == ["all"]
    assert live_leases(whole) == []


def test_a_live_shard_keeps_what_it_is_writing(tmp_path: Path) -> None:
    (tmp_path / "round=000").mkdir()
    names = [".part-000004.parquet.x.tmp", ".part-000005.parquet.y.tmp", "._run-2-of-2.json.z.tmp"]
    for name in names:
        (tmp_path / "round=000" / name).write_bytes(b"half")
    Round(Folder(str(tmp_path)), 0, Shard(1, 2)).remove_temporary()
    assert sorted(path.name for path in (tmp_path / "round=000").iterdir()) == sorted(names[1:])
    Round(Folder(str(tmp_path)), 0).remove_temporary()
    assert list((tmp_path / "round=000").iterdir()) == []


def test_shards_compact_within_themselves(tmp_path: Path) -> None:
    target = Round(Folder(str(tmp_path)), 0)
    target.create_record({"shards": 2, "runs": []})
    for part, names in {0: "ab", 2: "cd", 4: "e", 1: "fg", 3: "h"}.items():
        target.write_part(part, conform(pa.table({"image_id": list(names), "status": ["ok"] * len(names)})))
    result = compact(str(tmp_path), 100, quiet=True)
    assert (result.parts_before, result.parts_after) == (5, 2)
    found = {part: target.read_part(part, ["image_id"])["image_id"].to_pylist() for part in target.parts()}
    assert found == {0: list("abcde"), 1: list("fgh")}
    assert [view.parts() for view in target.views()] == [[0], [1]]


def test_two_shards_at_once_do_each_image_once(photos: Path, tmp_path: Path, ray_session: None) -> None:
    (photos / "broken.png").write_bytes(b"no picture")
    names = sorted(str(path.relative_to(photos)) for path in photos.rglob("*.png"))
    output = tmp_path / "out"
    settings = recipe(photos, output)
    shards = [Shard(number, 2) for number in (1, 2)]
    summaries: dict[Shard, RunSummary] = {}

    def one(shard: Shard) -> None:
        summaries[shard] = run(settings, quiet=True, shard=shard)

    threads = [threading.Thread(target=one, args=(shard,)) for shard in shards]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {shard: summary.status for shard, summary in summaries.items()} == dict.fromkeys(shards, "done")
    assert all(summary.tally.images for summary in summaries.values())
    target = Round(Folder(str(output)), 0)
    assert sorted(target.committed()["image_id"].to_pylist()) == names
    assert verify_dataset(str(output)).num_problems == 0
    record = target.read_record()
    assert record is not None and record["shards"] == 2
    assert sorted(entry["shard"] for entry in record["runs"]) == ["1/2", "2/2"]
    assert sum(entry["images"] for entry in record["runs"]) == 6

    # after a merge each goes on with its own; other divisions are refused
    compact(str(output), 100, quiet=True)
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(photos / "broken.png")
    images = list_images(str(photos))
    views = [Round(target.folder, 0, shard) for shard in shards]
    left = [
        plan_chunks(shard.take(images), view.committed(), 2, False, shard).num_images
        for shard, view in zip(shards, views, strict=True)
    ]
    assert sorted(left) == [0, 1]
    redone = run(settings, quiet=True, shard=shards[left.index(1)])
    assert (redone.tally.images, redone.tally.failed, redone.total_images) == (1, 0, 6)
    for other in (None, Shard(1, 4)):
        with pytest.raises(ValueError, match="is written in 2 shards, and stays so"):
            run(settings, quiet=True, shard=other)
    (status,) = read_status(str(output))
    assert (status.images, status.failed, status.parts, status.live) == (6, 0, 2, [])


def test_a_new_round_is_started_by_one_shard_and_joined_by_the_others(tmp_path: Path) -> None:
    folder, settings = Folder(str(tmp_path)), recipe(tmp_path, tmp_path)
    wanted = fingerprint(resolve_labels_of(settings, PinnedWeights("sam_tiny", "weights")))

    def chosen(number: int, new_round: bool = True) -> int:
        return choose_round(folder, wanted, new_round, Shard(number, 2)).number

    def begun(round_number: int, *shards: int) -> None:
        target = Round(folder, round_number)
        target.create_record({"shards": 2, "fingerprints": wanted.links, "runs": []})
        for number in shards:
            Round(folder, round_number, Shard(number, 2)).add_run(
                {"started": "now", "status": "done", "shard": f"{number}/2"}
            )

    assert chosen(1) == 0
    begun(0, 1, 2)
    assert (chosen(1), chosen(2), chosen(1, new_round=False)) == (1, 1, 0)
    begun(1, 1)
    assert (chosen(2), chosen(1)) == (1, 2)
