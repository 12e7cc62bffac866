"""A round whose parts hold masklets: several rows a video, which stand together in one part."""

from typing import ClassVar

import pyarrow as pa

from pipeline.store.rounds import COMMITTED, Round
from stages.masklets import FRAME_COLUMNS, MASKLETS

KIND = "masklets"


class MaskletRound(Round):
    """As `Round`, of rows of `stages.masklets.MASKLETS`; a committed «image» is a video."""

    schema = MASKLETS
    id_column: ClassVar[str] = "video_id"
    repeating: ClassVar[list[str]] = [*Round.repeating, "video_id"]
    aligned: ClassVar[tuple[str, ...]] = FRAME_COLUMNS

    def committed(self) -> pa.Table:
        tables = [COMMITTED.empty_table()]
        for part in self.parts():
            rows = self.read_part(part, ["video_id", "source_etag", "status"])
            first = rows.group_by("video_id", use_threads=False).aggregate(
                [("source_etag", "first"), ("status", "first")]
            )
            count = first.num_rows
            columns = [
                first["video_id"],
                first["source_etag_first"],
                pa.nulls(count, pa.string()),
                first["status_first"],
            ]
            tables.append(pa.table([*columns, pa.array([part] * count, pa.int32())], schema=COMMITTED))
        return pa.concat_tables(tables)


def holds_masklets(target: Round) -> bool:
    """Whether a run over videos wrote the round."""
    return (target.read_record() or {}).get("kind") == KIND
