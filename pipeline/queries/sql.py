"""SQL over a dataset's parts: the views `images` and `masks`, and nothing else that a statement could reach.

DuckDB runs it in this process and opens no file: Arrow reads the parts, and of them only the columns that DuckDB's
plan of the statement names. A statement must be one SELECT, so it cannot write.
"""

import difflib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from pipeline.errors import UnreadableError
from pipeline.queries.limits import QueryError, QueryLimits
from pipeline.queries.scans import (
    BESIDE_A_MASK,
    IMAGE_FIELDS,
    IMAGE_ROWS,
    MASK_FIELDS,
    MASK_ROWS,
    READS_AT_ONCE,
    READS_AT_ONCE_OF_STORES,
    Scan,
    Source,
    part_source,
)
from pipeline.store.storage import Folder

# Of several tags the best one first, however they are stored; most masks have one or none, which need no sort.
_SORTED = "list_reverse_sort(list_transform(tags, lambda t: {'score': t.score, 'name': t.name}))"
_BEST = "CASE WHEN len(tags) < 2 THEN tags[1].{0} ELSE {1}[1].{0} END"
_TAG_COLUMNS = (
    f"{_BEST.format('name', _SORTED)} AS tag, {_BEST.format('score', _SORTED)} AS tag_score, "
    "list_transform(tags, lambda t: t.name) AS tag_names"
)
_TAG_NAMES = ("tag", "tag_score", "tag_names")
IMAGES = (*IMAGE_FIELDS, "num_masks", *_TAG_NAMES)
_SHARED = [name for name, field in BESIDE_A_MASK.items() if name != field]
MASKS = (*MASK_FIELDS, *_TAG_NAMES, *(name for name in BESIDE_A_MASK if name not in _SHARED), *_SHARED)
_TEXTS = re.compile(r"'(?:[^']|'')*'")
_ZERO_INDEX = re.compile(r"[\w\])]\s*\[\s*0\s*\]")
RESULT = "image_id, uri, mask_id, bbox, area, predicted_iou, stability_score, tag, caption"


UNLIMITED = QueryLimits()


@dataclass(frozen=True)
class Room:
    """Image rows as the two views: with `newest` each image's newest round, with `candidates` rejected masks too."""

    sources: Sequence[Source]
    reads_at_once: int = READS_AT_ONCE
    newest: bool = False
    candidates: bool = False

    def select(self, statement: str, limits: QueryLimits = UNLIMITED) -> pa.Table:
        """The answer to one SELECT, in memory.

        Raises QueryError for anything else, for what DuckDB refuses and for what exceeds the `limits`, UnreadableError
        where rows cannot be read.
        """
        connection = duckdb.connect()
        return limits.run(connection, lambda: self._answer(connection, statement, limits))

    def _answer(self, connection: duckdb.DuckDBPyConnection, statement: str, limits: QueryLimits) -> pa.Table:
        """Closes the connection."""
        scans = {
            name: Scan(schema, self.sources, self.reads_at_once)
            for name, schema in (("image_rows", IMAGE_ROWS), ("mask_rows", MASK_ROWS))
        }
        try:
            with connection:
                for name, scan in scans.items():
                    connection.register(f"no_{name}", scan.schema.empty_table())
                    connection.execute(f"CREATE TEMP VIEW {name} AS FROM no_{name}")
                _create_views(connection, self.newest, self.candidates)
                limits.apply(connection)
                lock(connection)
                names = _columns_in_plan(connection, statement)
                for name, scan in scans.items():
                    scan.narrow(names)
                    connection.register(f"read_{name}", scan)
                    connection.execute(
                        f"CREATE OR REPLACE TEMP VIEW {name} AS FROM no_{name} UNION ALL BY NAME FROM read_{name}"
                    )
                return limits.collect(connection.sql(statement))
        except (duckdb.Error, pa.ArrowException, OSError) as error:  # which one, Arrow decides
            for scan in scans.values():
                if scan.error is not None:
                    raise UnreadableError(_first_line(scan.error)) from scan.error
            if isinstance(error, OSError):
                raise
            raise QueryError(explain(error)) from error


def parts_room(folder: Folder, names: Sequence[str], newest: bool, candidates: bool) -> Room:
    """The part files of these names in the dataset's folder."""
    at_once = READS_AT_ONCE if folder.is_local else READS_AT_ONCE_OF_STORES
    return Room([part_source(folder, name) for name in names], at_once, newest, candidates)


def matching_masks(rows: pa.Table, predicate: str, candidates: bool) -> pa.Array:
    """The ids of the masks among image rows for which the predicate holds. Raises QueryError."""
    room = Room([lambda columns, fields: rows], candidates=candidates)
    found = room.select(f"SELECT mask_id FROM masks WHERE ({predicate}\n)")
    return found["mask_id"].combine_chunks().cast(pa.string())


def _columns_in_plan(connection: duckdb.DuckDBPyConnection, statement: str) -> set[str]:
    """What the leaves of the plan read, which DuckDB has found out by binding and optimising the statement."""
    _refuse_all_but_select(connection, statement)
    ((_, plan),) = connection.execute(f"EXPLAIN (FORMAT json) {statement}").fetchall()
    names: set[str] = set()
    nodes = json.loads(plan)
    while nodes:
        node = nodes.pop()
        nodes.extend(node["children"])
        if node["name"].strip() == "PYTHON_ARROW_SCAN":
            read = node["extra_info"].get("Projections", [])
            # of a struct a single field
            names.update(one.partition(".")[0] for one in ([read] if isinstance(read, str) else read))
    unknown = names - {*IMAGE_ROWS.names, *MASK_ROWS.names}
    if unknown:
        raise QueryError(f"the query reads what there is not: {', '.join(sorted(unknown))}")
    return names


def select(connection: duckdb.DuckDBPyConnection, statement: str, limits: QueryLimits = UNLIMITED) -> pa.Table:
    """The answer to one SELECT over what the connection holds, in memory.

    Raises QueryError for anything else, for what DuckDB refuses and for what exceeds the `limits`, UnreadableError
    where a file is damaged.
    """

    def work() -> pa.Table:
        limits.apply(connection)
        lock(connection)
        _refuse_all_but_select(connection, statement)
        return limits.collect(connection.sql(statement))

    try:
        return limits.run(connection, work)
    except (
        duckdb.IOException,
        duckdb.InvalidInputException,
        duckdb.SerializationException,
        pa.ArrowException,
    ) as error:
        raise UnreadableError(_first_line(error)) from error
    except duckdb.Error as error:
        raise QueryError(explain(error)) from error


def _refuse_all_but_select(connection: duckdb.DuckDBPyConnection, statement: str) -> None:
    if _ZERO_INDEX.search(_TEXTS.sub("''", statement)):
        raise QueryError("lists begin at 1 here: bbox[1] is x, and [0] is never anything")
    statements = connection.extract_statements(statement)
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise QueryError("the query is not one SELECT; only reading is possible here")


def explain(error: Exception) -> str:
    """DuckDB's complaint in one line, with the nearest column for one that does not exist."""
    text = str(error)
    unknown = re.search(r'[Cc]olumn "([^"]+)" not found|have a column named "([^"]+)"', text)
    if unknown:
        name = unknown.group(1) or unknown.group(2)
        near = difflib.get_close_matches(name, {*MASKS, *IMAGES}, n=1, cutoff=0.5)
        meant = f"did you mean {near[0]!r}? " if near else "see the README's list. "
        return f"there is no column {name!r}; {meant}A text stands in single quotes: '{name}'"
    if isinstance(error, duckdb.OutOfMemoryException):
        return "the query takes more memory than it may; ask for less, or give it more with --max-memory"
    if isinstance(error, duckdb.PermissionException):
        return "a query reads this dataset and nothing else: no other files, no network, no settings"
    return _first_line(error)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def _create_views(connection: duckdb.DuckDBPyConnection, newest: bool, candidates: bool) -> None:
    of_newest = ""
    if newest:
        newest_rounds = "(SELECT image_id, max(round) AS round FROM image_rows GROUP BY image_id)"
        of_newest = f" SEMI JOIN {newest_rounds} USING (image_id, round)"
    count = "len(keeps)" if candidates else "len(list_filter(keeps, lambda keep: keep))"
    connection.execute(
        f"CREATE TEMP VIEW images AS SELECT {', '.join(IMAGE_FIELDS)}, coalesce({count}, 0) AS num_masks, "
        f"{_TAG_COLUMNS} FROM image_rows{of_newest}"
    )
    kept = "" if candidates else " WHERE keep"
    before, after = (", ".join(name for name in names) for names in (MASK_FIELDS, MASKS[len(MASK_FIELDS) + 3 :]))
    connection.execute(
        f"CREATE TEMP VIEW masks AS SELECT {before}, {_TAG_COLUMNS}, {after} FROM mask_rows{of_newest}{kept}"
    )


def lock(connection: duckdb.DuckDBPyConnection) -> None:
    """No other files, no network, no extensions, no change of settings, no Python variables as tables, no noise."""
    for setting in (
        "enable_progress_bar_print = false",  # after two seconds it would stand on stdout, in what `--json` prints
        "python_enable_replacements = false",
        "enable_external_access = false",
        "lock_configuration = true",
    ):
        connection.execute(f"SET {setting}")
