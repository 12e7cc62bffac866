"""Whatever byte of a part's file is wrong: who reads it names the file or gives the values that were written."""

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.dataset import open_dataset
from pipeline.errors import UnreadableError
from pipeline.export.write import export
from pipeline.queries.query import query
from pipeline.queries.subset import write_subset
from pipeline.replays.replay import ReplayPart
from pipeline.store.masklet_round import MaskletRound
from pipeline.store.part_checksums import READ_AT_ONCE
from pipeline.store.part_files import read_part_file
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder
from pipeline.store.verify import verify_dataset
from pipeline.video.masklets import Masklets
from stages.filter_settings import FilterSettings
from stages.mask_columns import MaskColumns
from stages.masklets import masklet_table
from stages.record import LINKS, SCHEMA, set_columns

MARK = b"PAR1"
LENGTH_OF_SUFFIX = 8  # the footer's length and Parquet's mark
Reader = Callable[[Path], Any]


def embedded(rows: pa.Table) -> pa.Table:
    masks = MaskColumns.of(rows)
    vectors = [np.full(4, index, np.float16).tobytes() for index in range(len(masks))]
    return set_columns(rows, masks.with_embeddings(vectors, np.ones(rows.num_rows, bool)).columns())


@pytest.fixture
def dataset(tmp_path: Path, make_dataset: Callable[..., str]) -> Path:
    """One part of two images of two masks each, with every column filled."""
    masks = np.zeros((2, 9, 11), np.uint8)
    masks[0, 1:6, 2:7] = masks[1, 6:9, 5:11] = 1
    links = pa.scalar(dict.fromkeys(LINKS, "link"), SCHEMA.field("fingerprints").type).as_py()
    links["text"] = None
    uri = make_dataset(
        tmp_path,
        {"a.png": masks, "b.png": masks[::-1]},
        fingerprints=links,
        source_etag="etag",
        content_sha256="sum",
        run_id="run",
        predicted_iou_floor=0.5,
        extra=[("licence", "CC0")],
    )
    target = Round(Folder(uri), 0)
    rows = pa.concat_tables([target.read_part(part) for part in target.parts()])
    target.remove_parts()
    target.write_part(0, embedded(rows))
    return Path(uri)


def part_file(dataset: Path) -> Path:
    (file,) = (dataset / "round=000").glob("part-*.parquet")
    return file


def flip(file: Path, data: bytes, position: int, bits: int) -> None:
    with open(file, "r+b") as handle:
        handle.seek(position)
        handle.write(bytes([data[position] ^ bits]))


def columns_by_byte(data: bytes) -> list[str | None]:
    """The column whose pages each byte belongs to; None for the footer and what is around the pages."""
    columns: list[str | None] = [None] * len(data)
    group = pq.read_metadata(pa.BufferReader(data)).row_group(0)
    for index in range(group.num_columns):
        chunk = group.column(index)
        start = chunk.dictionary_page_offset or chunk.data_page_offset
        columns[start : start + chunk.total_compressed_size] = [chunk.path_in_schema] * chunk.total_compressed_size
    return columns


def check_bytes(dataset: Path, step: int) -> None:
    """Each `step`-th byte, by who reads the column alone that it belongs to."""
    file = part_file(dataset)
    data, folder, name = file.read_bytes(), Folder(str(dataset)), f"round=000/{file.name}"
    columns = columns_by_byte(data)
    assert len(set(columns)) > 50 and None in columns
    rng = random.Random(0)
    for position in range(len(MARK), len(data), step):
        flip(file, data, position, rng.randrange(1, 256))
        with pytest.raises(UnreadableError, match=re.escape(str(file))):
            read_part_file(folder, name, [columns[position] or "image_id"], use_threads=False)
        flip(file, data, position, 0)
    flip(file, data, 0, 1)
    assert read_part_file(folder, name, ["image_id"]).num_rows == 2, "which nobody reads"


def test_bytes_of_all_columns_and_of_the_footer_are_checked(dataset: Path) -> None:
    check_bytes(dataset, step=19)


@pytest.mark.slow
def test_each_byte_is_checked(dataset: Path) -> None:
    check_bytes(dataset, step=1)


def read_rows(dataset: Path) -> Any:
    return list(open_dataset(str(dataset), candidates=True).rows())


def read_masks_by_sql(dataset: Path) -> Any:
    return query(open_dataset(str(dataset)), "SELECT * FROM masks ORDER BY mask_id")[0].to_pylist()


def read_images_by_sql(dataset: Path) -> Any:
    return query(open_dataset(str(dataset)), "SELECT * FROM images ORDER BY image_id")[0].to_pylist()


def read_export(dataset: Path) -> Any:
    out = dataset.parent / f"export-{len(list(dataset.parent.iterdir()))}"
    export(open_dataset(str(dataset)), str(out), "coco", pictures=False, quiet=True)
    return json.loads((out / "annotations.json").read_text())


def read_subset(dataset: Path) -> Any:
    out = dataset.parent / f"subset-{len(list(dataset.parent.iterdir()))}"
    write_subset(open_dataset(str(dataset)), str(out), quiet=True)
    return read_rows(out)


def read_replayed(dataset: Path) -> Any:
    target = Round(Folder(str(dataset)), 0)
    settings = FilterSettings(pred_iou_thresh=0.6, stability_score_thresh=0.4)
    (part,) = target.parts()
    rows, _ = ReplayPart(str(dataset), 0, settings, {"filter": "other"}).replayed(target.read_part(part))
    return rows.to_pylist()


def read_committed(dataset: Path) -> Any:
    return Round(Folder(str(dataset)), 0).committed().to_pylist()


READERS: list[Reader] = [
    read_rows,
    read_masks_by_sql,
    read_images_by_sql,
    read_export,
    read_subset,
    read_replayed,
    read_committed,
]


def check_readers(dataset: Path, num_bytes: int, seed: int) -> None:
    """Half of the bytes from the footer."""
    file, rng = part_file(dataset), random.Random(seed)
    data = file.read_bytes()
    written = {reader: reader(dataset) for reader in READERS}
    assert verify_dataset(str(dataset)).problems == []
    border = len(data) - int.from_bytes(data[-8:-4], "little") - LENGTH_OF_SUFFIX
    for number in range(num_bytes):
        position = rng.randrange(border) if number % 2 else rng.randrange(border, len(data))
        flip(file, data, position, 1 << rng.randrange(8))
        problems = verify_dataset(str(dataset)).problems
        assert all(str(file) in problem for problem in problems)
        for reader in READERS:
            try:
                assert reader(dataset) == written[reader], f"{reader.__name__}, byte {position}"
            except UnreadableError as error:
                assert str(file) in str(error), reader.__name__
                assert problems, f"byte {position} keeps {reader.__name__} from reading, and verify says nothing"
        flip(file, data, position, 0)


def test_every_reader_names_the_file_or_gives_what_was_written(dataset: Path) -> None:
    check_readers(dataset, num_bytes=6, seed=1)


@pytest.mark.slow
def test_every_reader_over_many_bytes(dataset: Path) -> None:
    check_readers(dataset, num_bytes=2000, seed=2)


def test_a_footer_of_many_row_groups_is_checked_as_a_whole(tmp_path: Path) -> None:
    """It is longer than what one reading takes in."""
    rows = pa.Table.from_pylist(
        [
            {"image_id": f"{number}.png", "status": "ok", "masks": [], "rles": [], "raw_rles": []}
            for number in range(64 * 13)
        ],
        schema=SCHEMA,
    )
    target = Round(Folder(str(tmp_path)), 0)
    target.write_part(0, rows)
    file = Path(target.part_path(0))
    data = file.read_bytes()
    length = int.from_bytes(data[-8:-4], "little")
    assert length > READ_AT_ONCE
    assert target.read_part(0).equals(rows)
    for position in (len(data) - length - 4, len(data) - length // 2, len(data) - 9, len(data) - 6, len(data) - 1):
        flip(file, data, position, 64)
        with pytest.raises(UnreadableError, match="its footer is not the one that was written"):
            target.read_part(0, ["image_id"])
        flip(file, data, position, 0)


def test_a_file_of_a_version_without_hashes_is_read(dataset: Path) -> None:
    """Only its pages are checked."""
    file = part_file(dataset)
    rows = read_rows(dataset)
    other = dataset.parent / "older" / "round=000"
    other.mkdir(parents=True)
    (other / "part-000000.parquet").write_bytes(file.read_bytes())
    (other / "_run.json").write_text('{"runs": []}')
    (other.parent / "_dataset.json").write_text('{"format": 1, "rounds": [0], "published": [0]}')
    assert read_rows(other.parent) == rows


def test_questions_on_masklets_name_a_wrong_footer(tmp_path: Path) -> None:
    target = MaskletRound(Folder(str(tmp_path)), 0)
    target.write_part(0, masklet_table([{"video_id": "a.mp4", "masklet_id": "a/0"}]))
    file = Path(target.part_path(0))
    data = file.read_bytes()
    at = data.rindex(b"video_id")
    flip(file, data, at, 1)
    with pytest.raises(UnreadableError, match="its footer is not the one that was written"):
        Masklets(str(tmp_path), 0).query("SELECT video_id FROM masklets", candidates=True)
