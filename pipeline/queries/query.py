"""`maskfoundry query`: one SELECT over a dataset, and what to do about damaged parts."""

from collections.abc import Sequence

import pyarrow as pa

from pipeline.dataset import Dataset
from pipeline.errors import UnreadableError
from pipeline.queries.limits import QueryLimits
from pipeline.queries.sql import RESULT, UNLIMITED, parts_room
from pipeline.store.part_files import reading_part
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
    names = [part.name for part in dataset.parts()]
    try:
        return _ask(dataset, folder, names, statement, limits), []
    except UnreadableError as error:
        bad = damaged(folder, names)
        if not bad:
            raise
        if not skip_bad:
            others = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
            raise UnreadableError(
                f"{folder.path(bad[0])}{others} cannot be read ({error}); --skip-bad leaves such parts out"
            ) from error
        whole = [name for name in names if name not in bad]
        return _ask(dataset, folder, whole, statement, limits), [folder.path(name) for name in bad]


def damaged(folder: Folder, names: Sequence[str]) -> list[str]:
    """Those of the part files that cannot be read to their end."""
    bad = []
    for name in names:
        try:
            reading_part(folder, name, lambda file: sum(batch.num_rows for batch in file.iter_batches()))
        except UnreadableError:
            bad.append(name)
    return bad


def _ask(dataset: Dataset, folder: Folder, names: Sequence[str], statement: str, limits: QueryLimits) -> pa.Table:
    newest = len(dataset.rounds) > 1 and not dataset.every_round
    return parts_room(folder, names, newest, dataset.candidates).select(statement, limits)
