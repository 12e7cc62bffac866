"""A query's answer for a person, or for the next program."""

import sys
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
from rich.table import Table

from pipeline.cli.options import one_of
from pipeline.cli.terminal import PlainConsole, say
from pipeline.json_text import json_text
from pipeline.store.storage import split_file

Format = Literal["table", "json", "csv", "parquet"]
MAX_PRINTED = 50


def choose_format(name: str | None, output: str | None) -> Format:
    """The format that is asked for, or else what the file's ending says, or else a table. Raises ValueError."""
    endings: dict[str, Format] = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}
    chosen: Format | None = None if name is None else one_of("--format", name, Format)
    if chosen is None and output is not None:
        chosen = endings.get(Path(output).suffix)
        if chosen is None:
            raise ValueError(f"--output: {output!r} ends in none of {', '.join(endings)}; add --format")
    if chosen == "table" and output is not None:
        raise ValueError("--format: a table is for the screen; a file takes json, csv or parquet")
    return chosen or "table"


def print_answer(answer: pa.Table, chosen: Format) -> None:
    """To standard output: a table's first rows, or all rows in one of the other formats."""
    if chosen == "table":
        table = Table(*answer.column_names)
        for row in answer.slice(0, MAX_PRINTED).to_pylist():
            table.add_row(*(_shown(value) for value in row.values()))
        console = PlainConsole()
        console.print(table)
        more = f", the first {MAX_PRINTED} shown" if answer.num_rows > MAX_PRINTED else ""
        say(f"{answer.num_rows:,} rows{more}")
    elif sys.stdout.isatty() and chosen != "parquet":
        say(_encoded(answer, chosen).decode().rstrip("\n"))
    else:
        sys.stdout.buffer.write(_encoded(answer, chosen))


def save_answer(answer: pa.Table, chosen: Format, path: str) -> None:
    """The file, on disk or in a bucket, appears whole or not at all."""
    folder, name = split_file(path)
    folder.write(name, _encoded(answer, chosen))


def _encoded(answer: pa.Table, chosen: Format) -> bytes:
    if chosen == "json":
        return "".join(json_text(row, default=_plain, ensure_ascii=False) + "\n" for row in answer.to_pylist()).encode()
    sink = pa.BufferOutputStream()
    if chosen == "parquet":
        pq.write_table(answer, sink, compression="zstd")
    else:
        csv.write_csv(_flat(answer), sink)
    return bytes(sink.getvalue())


def _flat(answer: pa.Table) -> pa.Table:
    """Lists, structs and maps as JSON texts, which is all that CSV can hold."""
    for index, field in enumerate(answer.schema):
        if pa.types.is_nested(field.type):
            texts = [None if v is None else json_text(v, default=_plain) for v in answer[index].to_pylist()]
            answer = answer.set_column(index, field.name, pa.array(texts, pa.string()))
    return answer


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)


def _plain(value: Any) -> str:
    """Bytes (run lengths) as the text that COCO writes, all else that JSON lacks as Python prints it."""
    return value.decode("ascii", "backslashreplace") if isinstance(value, bytes) else str(value)
