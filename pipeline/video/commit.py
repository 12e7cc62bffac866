"""Gather the masklets of finished videos and commit each chunk of videos as a whole."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.runs.chunks import Chunk
from pipeline.store.masklet_round import MaskletRound
from stages.masklets import MASKLETS
from stages.record import LINKS, set_columns


@dataclass
class VideoTally:
    """What a run did so far; `tracks` counts rejected ones too."""

    videos: int = 0
    failed: int = 0
    frames: int = 0
    tracks: int = 0
    masklets: int = 0
    drop_reasons: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    track_seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        return {name: dict(value) if isinstance(value, Counter) else value for name, value in vars(self).items()}

    def add(self, rows: pa.Table) -> None:
        seen: set[str] = set()
        names = ("video_id", "status", "error", "num_frames", "masklet_id", "keep", "drop_reason")
        for row in rows.select(names).to_pylist():
            if row["video_id"] not in seen:
                seen.add(row["video_id"])
                self.videos += 1
                self.frames += row["num_frames"] or 0
            if row["status"] == "failed":
                self.failed += 1
                self.failures[": ".join(row["error"].split(": ")[:2])] += 1
            elif row["masklet_id"] is not None:
                self.tracks += 1
                self.masklets += row["keep"]
                if row["drop_reason"] is not None:
                    self.drop_reasons[row["drop_reason"]] += 1
        self.track_seconds += pc.sum(rows["track_seconds"]).as_py() or 0.0


class MaskletCommitter:
    """Holds the rows of chunks in flight; writes a chunk's part when its last video has come."""

    def __init__(self, target: MaskletRound, run_id: str, links: dict[str, str]) -> None:
        self.target = target
        self.run_id = run_id
        self.links = links
        self.seen = VideoTally()
        self.tally = VideoTally()
        self._chunks: dict[int, Chunk] = {}
        self._rows: dict[int, dict[str, pa.Table]] = {}

    def expect(self, chunks: list[Chunk]) -> None:
        """Chunks whose videos will come next."""
        self._chunks |= {chunk.part: chunk for chunk in chunks}

    def add(self, rows: pa.Table) -> None:
        """All rows of one video or of several."""
        self.seen.add(rows)
        for video_id in pc.unique(rows["video_id"]).to_pylist():
            own = rows.filter(pc.equal(rows["video_id"], video_id))
            part = own["part"][0].as_py()
            held = self._rows.setdefault(part, {})
            held[video_id] = own
            if len(held) == self._chunks[part].images.num_rows:
                self._commit(part)

    def commit_unfinished(self) -> None:
        """Commit what has come of chunks that will not be completed."""
        for part in list(self._rows):
            self._commit(part)

    @property
    def unfinished(self) -> int:
        """Videos that were expected and are not committed."""
        return sum(chunk.images.num_rows for chunk in self._chunks.values())

    def _commit(self, part: int) -> None:
        chunk, held = self._chunks[part], self._rows.pop(part)
        order = [video_id for video_id in chunk.images["image_id"].to_pylist() if video_id in held]
        rows = pa.concat_tables([held[video_id] for video_id in order])
        count = rows.num_rows
        links = {name: self.links.get(name) for name in LINKS}
        record = set_columns(
            rows,
            {
                "round": pa.array([self.target.number] * count, pa.int32()),
                "run_id": pa.array([self.run_id] * count, pa.string()),
                "fingerprints": pa.array([links] * count, MASKLETS.field("fingerprints").type),
            },
        ).select(MASKLETS.names)
        if chunk.exists:
            existing = self.target.read_part(part)
            replaced = pc.is_in(existing["video_id"], value_set=pa.array(order))
            record = pa.concat_tables([existing.filter(pc.invert(replaced)), record])
        written = self.target.write_part(part, record)
        self.tally.add(rows.filter(pc.is_in(rows["video_id"], value_set=written["video_id"].combine_chunks())))
        if len(order) == chunk.images.num_rows:
            del self._chunks[part]
