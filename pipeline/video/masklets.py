"""A dataset of masklets in use: which rows count, and questions about them in SQL."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as pads
from pyarrow.fs import FSSpecHandler, PyFileSystem

from pipeline.errors import UnreadableError
from pipeline.queries.limits import QueryLimits
from pipeline.queries.sql import UNLIMITED, select
from pipeline.store.find_rounds import round_numbers
from pipeline.store.index import read_index
from pipeline.store.masklet_round import MaskletRound, holds_masklets
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder
from stages.masklets import MASKLETS
from stages.record import stored_schema

RESULT = "video_id, masklet_id, first_frame, last_frame, num_visible, predicted_iou, stability_score, object_id"
_HEAVY = ("rles", "frame_times")


@dataclass(frozen=True)
class Masklets:
    """The newest published round of a dataset of masklets, or the one asked for; `allow` are places for its videos
    besides the dataset's own."""

    uri: str
    round: int
    allow: tuple[str, ...] = ()

    def allowing(self, places: Iterable[str]) -> Masklets:
        """The same masklets, whose videos may be read from these folders and prefixes as well."""
        return replace(self, allow=(*self.allow, *places))

    def tables(self, predicate: str | None = None) -> Iterator[pa.Table]:
        """Rows part by part: of videos that failed or are empty, and kept masklets (those for which SQL holds)."""
        target = MaskletRound(Folder(self.uri), self.round)
        wanted = None if predicate is None else self.query(f"SELECT masklet_id FROM masklets WHERE ({predicate}\n)")
        chosen = None if wanted is None else set(wanted["masklet_id"].to_pylist())
        for part in target.parts():
            rows = target.read_part(part)
            ids, keep = rows["masklet_id"].to_pylist(), rows["keep"].to_pylist()
            stay = [
                one is None or (kept and (chosen is None or one in chosen)) for one, kept in zip(ids, keep, strict=True)
            ]
            yield rows.filter(pa.array(stay, pa.bool_()))

    def videos(self, predicate: str | None = None) -> Iterator[list[dict[str, Any]]]:
        """The rows of each video that did not fail and has a masklet, as plain values."""
        for table in self.tables(predicate):
            videos: dict[str, list[dict[str, Any]]] = {}
            for row in table.to_pylist():
                if row["masklet_id"] is not None:
                    videos.setdefault(row["video_id"], []).append(row)
            yield from videos.values()

    def record(self) -> dict[str, Any] | None:
        """The round's `_run.json`."""
        return MaskletRound(Folder(self.uri), self.round).read_record()

    def query(self, sql: str, candidates: bool = False, limits: QueryLimits = UNLIMITED) -> pa.Table:
        """The answer to one SELECT over the views `masklets` (kept ones, unless `candidates`) and `videos`.

        Raises as `pipeline.queries.sql.select`.
        """
        target = MaskletRound(Folder(self.uri), self.round)
        files = target.files()
        while True:
            try:
                return self._query(target, sql, candidates, limits)
            except UnreadableError:
                before, files = files, target.files()
                if files == before:  # else a file was replaced meanwhile
                    raise

    def _query(self, target: MaskletRound, sql: str, candidates: bool, limits: QueryLimits) -> pa.Table:
        folder = target.folder
        paths = [target.part_path(part) for part in target.parts()]
        for part in target.parts():
            target.count_images(part)  # which checks the footer; the reader below checks the pages alone
        with duckdb.connect() as connection:
            if paths:
                files = PyFileSystem(FSSpecHandler(folder.fs))
                checked = pads.ParquetFileFormat(
                    default_fragment_scan_options=pads.ParquetFragmentScanOptions(page_checksum_verification=True)
                )
                stored = pads.dataset(paths, schema=stored_schema(MASKLETS), filesystem=files, format=checked)
            connection.register("stored", stored if paths else MASKLETS.empty_table())
            names = ", ".join(name for name in MASKLETS.names if name not in _HEAVY)
            kept = "masklet_id IS NOT NULL" if candidates else "keep"
            connection.execute(f"CREATE VIEW masklets AS SELECT {names} FROM stored WHERE {kept}")
            connection.execute(
                "CREATE VIEW videos AS SELECT video_id, any_value(uri) AS uri, any_value(status) AS status, "
                "any_value(error) AS error, any_value(width) AS width, any_value(height) AS height, "
                f"any_value(num_frames) AS num_frames, count(*) FILTER (WHERE {kept}) AS num_masklets "
                "FROM stored GROUP BY video_id"
            )
            return select(connection, sql, limits)


def open_masklets(uri: str, round_number: int | None = None) -> Masklets | None:
    """The masklets at a path or fsspec URI; None if images are there, or nothing."""
    folder = Folder(uri)
    present = round_numbers(folder)
    published = [number for number in read_index(folder).published if number in present]
    if not published:
        return None
    number = published[-1] if round_number is None else round_number
    if number not in present or not holds_masklets(Round(folder, number)):
        return None
    return Masklets(uri, number)
