"""SQL over a dataset's parts: the views `images` and `masks`, and nothing else that a statement could reach.

DuckDB runs it in this process. Local parts are read by DuckDB itself, which may open those files only; parts in a
bucket through fsspec and Arrow. A statement must be one SELECT, so it cannot write.
"""

import difflib
import re
from collections.abc import Sequence

import duckdb
import pyarrow as pa
import pyarrow.dataset as pads
from pyarrow.fs import FSSpecHandler, PyFileSystem

from pipeline.errors import UnreadableError
from pipeline.store.storage import Folder
from stages.record import MASK, SCHEMA

# Best tag first, whatever order they are stored in.
_BEST = "list_reverse_sort(list_transform({0}, lambda t: {{'score': t.score, 'name': t.name}}))[1].{1}"
_HEAVY = ("masks", "rles", "raw_rles")
_MASK_FIELDS = [field.name for field in MASK]
_IMAGE_FIELDS = [name for name in SCHEMA.names if name not in _HEAVY]
# A mask's own caption and tags hide its image's, which therefore get another name in `masks`.
_SHARED = [name for name in _IMAGE_FIELDS if name in _MASK_FIELDS]

IMAGES = (*_IMAGE_FIELDS, "num_masks", "tag", "tag_score", "tag_names")
MASKS = (
    *_MASK_FIELDS,
    "tag",
    "tag_score",
    "tag_names",
    *(name for name in _IMAGE_FIELDS if name not in _SHARED),
    *(f"image_{name}" for name in _SHARED),
)
RESULT = "image_id, uri, mask_id, bbox, area, predicted_iou, stability_score, tag, caption"


class QueryError(ValueError):
    """A statement that was refused, in one line."""


def connect(folder: Folder, paths: Sequence[str], newest: bool, candidates: bool) -> duckdb.DuckDBPyConnection:
    """A closed room with the views over the part files at `paths`; `newest` shows each image's newest round only.

    Raises UnreadableError where the first part is damaged.
    """
    connection = duckdb.connect()
    if not paths:
        connection.register("stored", SCHEMA.empty_table())
    elif folder.is_local:
        connection.execute("SET allowed_paths = ?", [list(paths)])
        names = ", ".join("'" + path.replace("'", "''") + "'" for path in paths)
        try:
            connection.execute(f"CREATE VIEW stored AS FROM read_parquet([{names}], hive_partitioning = false)")
        except duckdb.Error as error:  # it looks into the first part here
            raise UnreadableError(_first_line(error)) from error
    else:
        files = PyFileSystem(FSSpecHandler(folder.fs))
        connection.register("stored", pads.dataset(list(paths), schema=SCHEMA, filesystem=files, format="parquet"))
    _create_views(connection, newest, candidates)
    lock(connection)
    return connection


def matching_masks(rows: pa.Table, predicate: str, candidates: bool) -> pa.Array:
    """The ids of the masks among image rows for which the predicate holds. Raises QueryError."""
    connection = duckdb.connect()
    connection.register("stored", rows.drop_columns(["rles", "raw_rles"]))
    _create_views(connection, newest=False, candidates=candidates)
    lock(connection)
    found = select(connection, f"SELECT mask_id FROM masks WHERE ({predicate}\n)")
    return found["mask_id"].combine_chunks().cast(pa.string())


def select(connection: duckdb.DuckDBPyConnection, statement: str) -> pa.Table:
    """The answer to one SELECT, in memory.

    Raises QueryError for anything else and for what DuckDB refuses, UnreadableError where a part is damaged.
    """
    try:
        statements = connection.extract_statements(statement)
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise QueryError("the query is not one SELECT; only reading is possible here")
        return connection.sql(statement).to_arrow_table()
    except (
        duckdb.IOException,
        duckdb.InvalidInputException,
        duckdb.SerializationException,
        pa.ArrowException,
    ) as error:
        raise UnreadableError(_first_line(error)) from error
    except duckdb.Error as error:
        raise QueryError(explain(error)) from error


def explain(error: Exception) -> str:
    """DuckDB's complaint in one line, with the nearest column for one that does not exist."""
    text = str(error)
    unknown = re.search(r'[Cc]olumn "([^"]+)" not found|have a column named "([^"]+)"', text)
    if unknown:
        name = unknown.group(1) or unknown.group(2)
        near = difflib.get_close_matches(name, {*MASKS, *IMAGES}, n=1, cutoff=0.5)
        return f"there is no column {name!r}; " + (f"did you mean {near[0]!r}?" if near else "see the README's list")
    if isinstance(error, duckdb.PermissionException):
        return "a query reads this dataset and nothing else: no other files, no network, no settings"
    return _first_line(error)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def _create_views(connection: duckdb.DuckDBPyConnection, newest: bool, candidates: bool) -> None:
    source = "stored"
    if newest:
        source = (
            "(FROM stored SEMI JOIN (SELECT image_id, max(round) AS round FROM stored GROUP BY image_id) USING "
            "(image_id, round))"
        )
    image = ", ".join(_IMAGE_FIELDS)
    count = "len(masks)" if candidates else "len(list_filter(masks, lambda m: m.keep))"
    connection.execute(
        f"CREATE VIEW images AS SELECT {image}, coalesce({count}, 0) AS num_masks, {_tag_columns('tags')} FROM {source}"
    )
    others = ", ".join(name for name in _IMAGE_FIELDS if name not in _SHARED)
    shared = ", ".join(f"{name} AS image_{name}" for name in _SHARED)
    fields = ", ".join(f"mask.{name}" for name in _MASK_FIELDS)
    kept = "" if candidates else " WHERE mask.keep"
    connection.execute(
        f"CREATE VIEW masks AS SELECT {fields}, {_tag_columns('mask.tags')}, {others}, {shared} "
        f"FROM (SELECT unnest(masks) AS mask, {image} FROM {source}){kept}"
    )


def _tag_columns(tags: str) -> str:
    names = f"list_transform({tags}, lambda t: t.name)"
    return f"{_BEST.format(tags, 'name')} AS tag, {_BEST.format(tags, 'score')} AS tag_score, {names} AS tag_names"


def lock(connection: duckdb.DuckDBPyConnection) -> None:
    """No other files, no network, no extensions, no change of settings, no Python variables as tables, no noise."""
    for setting in (
        "enable_progress_bar_print = false",  # after two seconds it would stand on stdout, in what `--json` prints
        "python_enable_replacements = false",
        "enable_external_access = false",
        "lock_configuration = true",
    ):
        connection.execute(f"SET {setting}")
