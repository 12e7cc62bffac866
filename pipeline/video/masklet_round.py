"""A round whose parts hold masklets: several rows a video, which stand together in one part."""

import io

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.store.rounds import COMMITTED, Round
from stages.masklets import MASKLETS

KIND = "masklets"


class MaskletRound(Round):
    """As `Round`, of rows of `stages.masklets.MASKLETS`; a committed «image» is a video."""

    def read_part(self, part: int, columns: list[str] | None = None) -> pa.Table:
        path, files = self.part_path(part), self.folder.fs

        def read() -> pa.Table:
            with pq.ParquetFile(path, filesystem=files) as file:
                return file.read(columns)

        return self.folder.ask(read)

    def write_part(self, part: int, rows: pa.Table) -> None:
        assert rows.schema.equals(MASKLETS), "a part holds the record and nothing else"
        buffer = io.BytesIO()
        pq.write_table(rows, buffer, compression="zstd", use_dictionary=["status", "run_id", "video_id"])
        self.folder.write(self._part(part), buffer.getvalue())

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
