import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.runs.chunks import plan_chunks
from pipeline.sources.listing_schema import listing_table
from pipeline.store.rounds import COMMITTED


def listing(*images: tuple[str, str]) -> pa.Table:
    columns = {
        "image_id": [name for name, _ in images],
        "uri": [f"file:///{name}" for name, _ in images],
        "source_etag": [etag for _, etag in images],
    }
    return listing_table(len(images), columns)


def committed(*rows: tuple[str, str, str, int]) -> pa.Table:
    names = ("image_id", "source_etag", "status", "part")
    return pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows], schema=COMMITTED)


def planned(*args, **kwargs) -> list[tuple[int, list[str], bool]]:
    return [(one.part, one.images["image_id"].to_pylist(), one.exists) for one in plan_chunks(*args, **kwargs)]


def test_a_fresh_run_cuts_the_listing_into_numbered_groups() -> None:
    images = listing(*((f"{index}.png", "e") for index in range(5)))
    assert planned(images, committed(), 2, False) == [
        (0, ["0.png", "1.png"], False),
        (1, ["2.png", "3.png"], False),
        (2, ["4.png"], False),
    ]


def test_resume_takes_what_is_not_committed_into_new_parts() -> None:
    images = listing(("a", "1"), ("b", "1"), ("c", "1"), ("d", "1"))
    done = committed(("a", "1", "ok", 0), ("c", "1", "failed", 3))
    assert planned(images, done, 64, False) == [(4, ["b", "d"], False)]


def test_changed_and_failed_images_are_redone_in_their_own_part() -> None:
    images = listing(("a", "2"), ("b", "1"), ("c", "1"))
    done = committed(("a", "1", "ok", 0), ("b", "1", "ok", 0), ("c", "1", "failed", 1), ("gone", "1", "ok", 1))
    assert planned(images, done, 64, False) == [(0, ["a"], True)]
    assert planned(images, done, 64, True) == [(0, ["a"], True), (1, ["c"], True)]


def test_nothing_left() -> None:
    assert planned(listing(("a", "1")), committed(("a", "1", "ok", 0)), 64, True) == []


def test_an_unknown_tag_counts_as_unchanged() -> None:
    images = listing(("a", "1"), ("b", "1"))
    images = images.set_column(2, "source_etag", pa.array([None, "2"], pa.string()))
    done = committed(("a", "1", "ok", 0), ("b", "1", "failed", 0))
    assert planned(images, done, 64, False) == [(0, ["b"], True)]


def test_changed_prompts_count_as_a_change() -> None:
    images = listing(("a", "1"), ("b", "1"), ("c", "1"), ("d", "1"))
    done = committed(("a", "1", "ok", 0), ("b", "1", "ok", 0), ("c", "1", "ok", 1))
    column = images.column_names.index("prompts_hash")
    images = images.set_column(column, "prompts_hash", pa.array(["x", "y", None, "z"], pa.string()))
    done = done.set_column(2, "prompts_hash", pa.array(["x", None, "y"], pa.string()))
    assert planned(images, done, 64, False) == [(0, ["b"], True), (1, ["c"], True), (2, ["d"], False)]


def test_groups_hold_whole_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.runs.chunks.MIN_IMAGES_PER_GRAPH", 4)
    monkeypatch.setattr("pipeline.runs.chunks.IMAGES_PER_ACTOR", 3)
    monkeypatch.setattr("pipeline.runs.chunks.FIRST_GRAPH", 2)
    images = listing(*((f"{index:02d}", "e") for index in range(20)))
    done = committed(("03", "old", "ok", 1), ("01", "old", "ok", 1), ("02", "old", "ok", 0))
    plan = plan_chunks(images, done, 3, False)
    assert plan.num_images == 20
    for num_actors, sizes in ((1, [3, 6, 6, 5]), (3, [6, 9, 5]), (9, [20])):
        groups = list(plan.in_groups(num_actors))
        assert [sum(chunk.images.num_rows for chunk in group) for group in groups] == sizes
        chunks = [chunk for group in groups for chunk in group]
        assert [chunk.part for chunk in chunks] == [0, 1, 2, 3, 4, 5, 6, 7]
        assert [chunk.exists for chunk in chunks] == [True, True] + [False] * 6
        assert chunks[1].images["image_id"].to_pylist() == ["01", "03"]


def test_a_million_rows_are_planned_in_little_time_and_memory(tmp_path: Path) -> None:
    names = [f"photos/{index // 1000:06d}/IMG_{index:09d}.jpg" for index in range(1_000_000)]
    pq.write_table(pa.table({"uri": names, "split": ["train"] * len(names)}), tmp_path / "m.parquet")
    script = """
import resource, sys, time
import pyarrow as pa
from pipeline.runs.chunks import plan_chunks
from pipeline.sources.listing import list_images
before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.time()
listing = list_images(sys.argv[1])
done = listing.slice(0, 500_000).select(["image_id", "source_etag", "prompts_hash"])
done = done.append_column("status", pa.array(["ok"] * 500_000))
done = done.append_column("part", pa.array([0] * 500_000, pa.int32()))
plan = plan_chunks(listing, done, 64, True)
assert plan.num_images == 500_000 and next(iter(plan)).images["image_id"][0].as_py().endswith("IMG_000500000.jpg")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, time.time() - started)
"""
    command = [sys.executable, "-c", script, str(tmp_path / "m.parquet")]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    kilobytes, seconds = map(float, printed.split())
    assert kilobytes < 600_000 and seconds < 60
