"""Limits of a statement: it ends with Ctrl-C, with its time, and with the memory that it may take."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import duckdb
import psutil
import pyarrow as pa

Result = TypeVar("Result")

ROWS_PER_BATCH = 1 << 14
GRACE_SECONDS = 5.0  # what DuckDB does between two looks at an interrupt may take its time; then it is left behind


class QueryError(ValueError):
    """A statement that was refused, in one line."""


@dataclass(frozen=True)
class QueryLimits:
    """`seconds` that a statement may take, for ever by default; `memory_bytes` that it may take for its work, and as
    much for its answer, by default half of what is free."""

    seconds: float | None = None
    memory_bytes: int | None = None

    def memory(self) -> int:
        """Bytes."""
        return self.memory_bytes or psutil.virtual_memory().available // 2

    def apply(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Has DuckDB keep to the memory, and write nothing to disk instead."""
        connection.execute(f"SET memory_limit = '{self.memory()}B'")
        connection.execute("SET temp_directory = ''")

    def collect(self, answer: duckdb.DuckDBPyRelation) -> pa.Table:
        """The answer in memory, as far as there is room for it. Raises QueryError for a larger one."""
        reader = answer.to_arrow_reader(ROWS_PER_BATCH)
        batches, num_bytes, most = [], 0, self.memory()
        for batch in reader:
            batches.append(batch)
            num_bytes += batch.nbytes
            if num_bytes > most:
                raise QueryError(
                    f"the answer is larger than {most / 1e9:.2g} GB; ask for less, write the rows with --subset, or "
                    "give it more with --max-memory"
                )
        return pa.Table.from_batches(batches, reader.schema)

    def run(self, connection: duckdb.DuckDBPyConnection, work: Callable[[], Result]) -> Result:
        """What `work` on the connection returns or raises. It has a thread of its own, as nothing else reaches the
        interpreter while DuckDB computes: Ctrl-C interrupts it, and so does its time, with a QueryError."""
        done = threading.Event()
        results: list[Result] = []
        errors: list[BaseException] = []

        def call() -> None:
            try:
                results.append(work())
            except BaseException as error:  # handed to the caller's thread
                errors.append(error)
            finally:
                done.set()

        thread = threading.Thread(target=call, daemon=True)
        thread.start()
        in_time = False
        try:
            in_time = done.wait(self.seconds)
        finally:
            if not in_time:
                _interrupt(connection, thread)
            thread.join(GRACE_SECONDS)  # it must not be in DuckDB when the interpreter ends
        if not in_time:
            raise QueryError(
                f"the query took longer than {self.seconds:g} s and was stopped; ask for less, or give it more time "
                "with --max-seconds"
            )
        if errors:
            raise errors[0]
        return results[0]


def _interrupt(connection: duckdb.DuckDBPyConnection, thread: threading.Thread) -> None:
    """Again and again, as an interrupt between two statements ends neither."""
    give_up = time.monotonic() + GRACE_SECONDS
    while thread.is_alive() and time.monotonic() < give_up:
        with suppress(duckdb.ConnectionException):  # closed, as its statement has just ended
            connection.interrupt()
        thread.join(0.05)
