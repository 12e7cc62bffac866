"""Gather finished rows and commit each chunk as a whole."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.runs.chunks import Chunk
from pipeline.store.rounds import Round
from stages.record import LINKS, SCHEMA, conform, set_columns

STAGES = ("decode", "generate", "filter", "tag", "caption")


@dataclass
class Tally:
    """What a run did so far."""

    images: int = 0
    failed: int = 0
    skipped: int = 0
    masks: int = 0
    candidates: int = 0
    drop_reasons: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    stage_seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))

    def as_dict(self) -> dict[str, Any]:
        return {name: dict(value) if isinstance(value, Counter) else value for name, value in vars(self).items()}

    def add(self, rows: pa.Table) -> None:
        if not rows.num_rows:
            return
        self.images += rows.num_rows
        errors = rows.filter(pc.equal(rows["status"], "failed"))["error"].to_pylist()
        self.failed += len(errors)
        self.skipped += pc.sum(pc.equal(rows["status"], "skipped")).as_py() or 0
        self.failures.update(_reason(error) for error in errors)
        reasons = pc.struct_field(pa.chunked_array(rows["masks"].chunks).combine_chunks().flatten(), "drop_reason")
        self.candidates += len(reasons)
        self.masks += reasons.null_count
        self.drop_reasons.update(reason for reason in reasons.to_pylist() if reason is not None)
        for stage in STAGES:
            if f"{stage}_seconds" not in rows.column_names:
                continue
            self.stage_seconds[stage] += pc.sum(rows[f"{stage}_seconds"]).as_py() or 0.0


def in_order(rows: pa.Table, column: str, ids: pa.ChunkedArray) -> pa.Table:
    """The rows in the order of `ids`, which may name more. Nothing is copied: lists of run lengths in one array may not
    pass 2 GiB."""
    order = pc.index_in(ids, value_set=rows[column].combine_chunks()).drop_null()
    return pa.concat_tables([rows.slice(0, 0), *(rows.slice(index, 1) for index in order.to_pylist())])


def _reason(error: str) -> str:
    """`stage: kind`: what a count is kept of, without the particulars of one file."""
    return ": ".join(error.split(": ")[:2])


class Committer:
    """Holds the rows of chunks in flight; writes a chunk's part when its last row has come."""

    def __init__(self, target: Round, run_id: str, links: dict[str, str]) -> None:
        self.target = target
        self.run_id = run_id
        self.links = links
        self.seen = Tally()
        self.tally = Tally()
        self._chunks: dict[int, Chunk] = {}
        self._rows: dict[int, list[pa.Table]] = {}

    def expect(self, chunks: list[Chunk]) -> None:
        """Chunks whose rows will come next."""
        self._chunks |= {chunk.part: chunk for chunk in chunks}

    def add(self, rows: pa.Table) -> None:
        """Rows of any chunks, as the graph gives them: `seen` counts them, `tally` those that are committed."""
        self.seen.add(rows)
        for part in pc.unique(rows["part"]).to_pylist():
            own = rows.filter(pc.equal(rows["part"], part))
            held = self._rows.setdefault(part, [])
            held.append(own)
            if sum(table.num_rows for table in held) == self._chunks[part].images.num_rows:
                self._commit(part, pa.concat_tables(self._rows.pop(part)))

    def _commit(self, part: int, rows: pa.Table) -> None:
        rows = in_order(rows, "image_id", self._chunks[part].images["image_id"])
        links = {name: self.links.get(name) for name in LINKS}
        count = rows.num_rows
        record = conform(
            set_columns(
                rows,
                {
                    "round": pa.array([self.target.number] * count, pa.int32()),
                    "run_id": pa.array([self.run_id] * count, pa.string()),
                    "fingerprints": pa.array([links] * count, SCHEMA.field("fingerprints").type),
                },
            )
        )
        if self._chunks[part].exists:
            existing = self.target.read_part(part)
            replaced = pc.is_in(existing["image_id"], value_set=record["image_id"].combine_chunks())
            record = pa.concat_tables([existing.filter(pc.invert(replaced)), record])
        written = self.target.write_part(part, record)
        self.tally.add(rows.filter(pc.is_in(rows["image_id"], value_set=written["image_id"].combine_chunks())))
        if count == self._chunks[part].images.num_rows:
            del self._chunks[part]

    def commit_unfinished(self) -> None:
        """Commit what has come of chunks that will not be completed; a later run gives the rest parts of its own."""
        for part in list(self._rows):
            self._commit(part, pa.concat_tables(self._rows.pop(part)))

    @property
    def unfinished(self) -> int:
        """Images that were expected and are not committed."""
        return sum(chunk.images.num_rows for chunk in self._chunks.values())
