import random
import time
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.dataset import open_dataset
from pipeline.errors import RunError, StoreError, UnreadableError
from pipeline.runs.chunks import Chunk
from pipeline.runs.commit import Committer
from pipeline.sources.listing_schema import listing_table
from pipeline.store.commit_log import GRACE_SECONDS, LogWriter
from pipeline.store.compact import Compaction, compact
from pipeline.store.index import publish
from pipeline.store.lease import hold_lease
from pipeline.store.masklet_round import MaskletRound
from pipeline.store.rounds import Round
from pipeline.store.shards import Shard
from pipeline.store.storage import Folder
from pipeline.store.tidy import left_overs
from stages.masklets import masklet_table
from stages.record import SCHEMA, conform, set_columns


def rows(*names: str) -> pa.Table:
    return conform(pa.table({"image_id": list(names), "status": ["ok"] * len(names)}))


@pytest.fixture
def target(tmp_path: Path) -> Round:
    made = Round(Folder(str(tmp_path)), 0)
    for part, names in enumerate(["ab", "c", "def", "g", "h", "ijklmnop"]):
        made.write_part(part, rows(*names))
    return made


def images(target: Round) -> list[str]:
    return [name for part in target.parts() for name in target.read_part(part)["image_id"].to_pylist()]


def test_neighbours_are_merged_up_to_the_limit(target: Round, tmp_path: Path) -> None:
    result = compact(str(tmp_path), images_per_part=5, quiet=True)
    assert (result.parts_before, result.parts_after) == (6, 3)
    assert sorted(images(target)) == sorted("abcdefghijklmnop")
    assert [target.count_images(part) for part in target.parts()] == [3, 5, 8]
    assert compact(str(tmp_path), images_per_part=5, quiet=True).parts_after == 3
    assert compact(str(tmp_path), images_per_part=1000, quiet=True).parts_after == 1
    assert target.read_part(target.parts()[0]).schema.equals(SCHEMA)
    assert target.parts() == [0], "of the first one's number"
    assert len(list((tmp_path / "round=000").glob("part-*.parquet"))) == 1


def test_who_reads_meanwhile_finds_every_image_once(target: Round, tmp_path: Path) -> None:
    target.write_record({"runs": []})
    publish(target.folder, 0)
    dataset = open_dataset(str(tmp_path))
    tables = dataset.tables()
    seen = next(tables)["image_id"].to_pylist()
    compact(str(tmp_path), images_per_part=1000, quiet=True)
    for table in tables:
        seen += table["image_id"].to_pylist()
    assert sorted(seen) == sorted("abcdefghijklmnop")
    assert pq.read_table(tmp_path / "round=000")["image_id"].num_chunks
    for count in (
        len(pd.read_parquet(tmp_path / "round=000")),
        duckdb.sql(f"select count(*) from '{tmp_path}/round=*/part-*.parquet'").fetchall()[0][0],
    ):
        assert count == 16, "other tools read what lies there"


def test_replaced_files_go_after_a_day(target: Round, tmp_path: Path) -> None:
    compact(str(tmp_path), images_per_part=1000, quiet=True)
    replaced = tmp_path / "round=000/_replaced"
    assert len(list(replaced.iterdir())) == 6
    compact(str(tmp_path), images_per_part=1000, quiet=True)
    assert len(list(replaced.iterdir())) == 6
    folder = Folder(str(tmp_path))
    folder.now = lambda: time.time() + GRACE_SECONDS + 60  # type: ignore[method-assign]
    with hold_lease(Round(folder, 0), "later"):
        assert list(replaced.iterdir()) == []
    assert sorted(images(target)) == sorted("abcdefghijklmnop")


def test_shards_keep_what_they_write_after_a_compact_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A merge that ends in the middle, and then more parts of the same shard."""
    whole = Round(Folder(str(tmp_path)), 0)
    whole.create_record({"shards": 2, "runs": []})
    first = Round(Folder(str(tmp_path)), 0, Shard(1, 2))
    for part, names in {0: "ab", 2: "cd", 4: "e"}.items():
        first.write_part(part, rows(*names))
    with monkeypatch.context() as patch:

        def fail(*_: object, **__: object) -> None:
            raise StoreError("the disk is full")

        patch.setattr(LogWriter, "commit", fail)
        with pytest.raises(StoreError):
            compact(str(tmp_path), 100, quiet=True)
    first.write_part(6, rows("f"))
    assert sorted(images(whole)) == list("abcdef")
    assert compact(str(tmp_path), 100, quiet=True).parts_after == 1
    assert sorted(images(whole)) == list("abcdef")
    assert left_overs(whole) == []


def test_masklets_are_merged_with_all_their_columns(tmp_path: Path) -> None:
    target = MaskletRound(Folder(str(tmp_path)), 0)
    target.write_record({"kind": "masklets", "runs": []})
    for part, video in enumerate(("a.mp4", "b.mp4")):
        target.write_part(
            part,
            masklet_table(
                [
                    {"video_id": video, "masklet_id": f"{video}/{number}", "caption": "a ball", "num_frames": number}
                    for number in range(2)
                ]
            ),
        )
    before = pa.concat_tables([target.read_part(part) for part in target.parts()])
    assert compact(str(tmp_path), 100, quiet=True) == Compaction(2, 1)
    assert target.parts() == [0] and target.read_part(0).equals(before)
    with pytest.raises(UnreadableError, match="has no column image_id"):
        Round(Folder(str(tmp_path)), 0).read_part(0)


def test_parts_are_bounded_by_bytes_as_well(target: Round, tmp_path: Path) -> None:
    heavy = conform(
        pa.table(
            {
                "image_id": ["x", "y"],
                "uri": [random.Random(0).randbytes(30_000).hex()] * 2,
            }
        )
    )
    for part in (6, 7, 8):
        target.write_part(part, heavy)
    assert compact(str(tmp_path), 1000, quiet=True, bytes_per_part=250_000).parts_after == 2
    assert [target.count_images(part) for part in target.parts()] == [18, 4]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_run_lengths_of_more_than_2_gib_are_committed_and_read(tmp_path: Path) -> None:
    """One array of Arrow's cannot hold them: a chunk of large photographs, and the part that it becomes."""
    count, size = 550, 4_000_000
    row = {"image_id": "x", "status": "ok", "masks": [{"keep": True}], "rles": [bytes(size)], "raw_rles": [None]}
    table = pa.Table.from_pylist([row], schema=SCHEMA)
    names = [f"{number:03d}" for number in range(count)]
    some = pa.concat_tables([set_columns(table, {"image_id": pa.array([name])}) for name in names])
    target = Round(Folder(str(tmp_path)), 0)
    committer = Committer(target, "run", {})
    listing = listing_table(count, {"image_id": names, "uri": names})
    committer.expect([Chunk(0, listing, exists=False)])
    backwards = pa.concat_tables([some.slice(index, 1) for index in reversed(range(count))])
    committer.add(backwards.append_column("part", pa.array([0] * count, pa.int32())))
    found = target.read_part(0)
    assert found["image_id"].to_pylist() == names and found.nbytes > 2**31
    assert compact(str(tmp_path), 1000, quiet=True).parts_after == 1


def test_a_round_that_is_being_written_is_left_alone(target: Round, tmp_path: Path) -> None:
    with hold_lease(target, "run"), pytest.raises(RunError, match=r"run run .* is writing"):
        compact(str(tmp_path), 5, quiet=True)
    with pytest.raises(ValueError, match="holds no rounds"):
        compact(str(tmp_path / "nothing"), 5, quiet=True)
