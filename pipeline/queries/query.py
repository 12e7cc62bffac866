"""`maskfoundry query`: one SELECT over a dataset, and what to do about damaged parts."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.dataset import Dataset
from pipeline.errors import UnreadableError
from pipeline.queries.limits import QueryLimits
from pipeline.queries.sql import RESULT, UNLIMITED, parts_room
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder


def query(
    dataset: Dataset, sql: str | None = None, skip_bad: bool = False, limits: QueryLimits = UNLIMITED
) -> tuple[pa.Table, list[str]]:
    """The answer to `sql` over the views `images` and `masks`, and the damaged parts that were left out.

    Without `sql`: the masks that match the dataset's predicate, `pipeline.queries.sql.RESULT` of each. The answer is
    held in memory; `subset` writes a large one to disk. Raises QueryError for a wrong statement and one that exceeds
    the `limits` and, naming the parts, UnreadableError for damaged ones unless `skip_bad`.
    """
    statement = sql
    if statement is None:
        where = "" if dataset.predicate is None else f" WHERE ({dataset.predicate}\n)"
        statement = f"SELECT {RESULT} FROM masks{where}"
    folder = Folder(dataset.uri)
    paths = [Round(folder, part.round).part_path(part.number) for part in dataset.parts()]
    try:
        return _ask(dataset, folder, paths, statement, limits), []
    except UnreadableError as error:
        bad = damaged(folder, paths)
        if not bad:
            raise
        if not skip_bad:
            others = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
            raise UnreadableError(
                f"{bad[0]}{others} cannot be read ({error}); --skip-bad leaves such parts out"
            ) from error
        return _ask(dataset, folder, [path for path in paths if path not in bad], statement, limits), bad


def damaged(folder: Folder, paths: Sequence[str]) -> list[str]:
    """Those of the part files that cannot be read to their end."""
    bad = []
    for path in paths:
        try:
            with pq.ParquetFile(path, filesystem=folder.fs) as file:
                for _ in file.iter_batches():
                    pass
        except (pa.ArrowException, OSError):
            bad.append(path)
    return bad


def _ask(dataset: Dataset, folder: Folder, paths: Sequence[str], statement: str, limits: QueryLimits) -> pa.Table:
    newest = len(dataset.rounds) > 1 and not dataset.every_round
    return parts_room(folder, paths, newest, dataset.candidates).select(statement, limits)
