"""Reading and writing the Parquet file of a part, every byte of which is held against a checksum."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import GoneError, UnreadableError
from pipeline.store.part_checksums import CheckedFile, add_checksums, end_hash
from pipeline.store.part_names import parse_part_name
from pipeline.store.storage import Folder

REPLACED = "_replaced"  # in a round's folder: files that no longer count, for those who are still reading them
MAX_GROUP_ROWS = 64
MAX_GROUP_BYTES = 1 << 28  # of Arrow's; a column of one row group is read as one array, which ends at 2 GiB

Result = TypeVar("Result")


def encode_part(rows: pa.Table, repeating: list[str]) -> tuple[bytes, str]:
    """A Parquet file, and the hash of its end for its name; `repeating` are the columns whose values repeat."""
    buffer = io.BytesIO()
    with pq.ParquetWriter(
        buffer, rows.schema, compression="zstd", use_dictionary=repeating, write_page_checksum=True
    ) as writer:
        for group in _groups(rows):
            writer.write_table(group, row_group_size=max(1, group.num_rows))
    add_checksums(buffer)
    return buffer.getvalue(), end_hash(buffer)


def _groups(rows: pa.Table) -> Iterator[pa.Table]:
    start = 0
    while start < rows.num_rows:
        count = min(MAX_GROUP_ROWS, rows.num_rows - start)
        while count > 1 and rows.slice(start, count).nbytes > MAX_GROUP_BYTES:
            count //= 2
        yield rows.slice(start, count)
        start += count


def read_part_file(folder: Folder, name: str, columns: list[str] | None = None, use_threads: bool = True) -> pa.Table:
    """Rows of the file `ROUND/NAME`, row group by row group; raises UnreadableError as `reading_part` does."""

    def read(file: pq.ParquetFile) -> pa.Table:
        groups = [file.read_row_group(group, columns, use_threads) for group in range(file.num_row_groups)]
        return pa.concat_tables(groups) if groups else file.read(columns)

    return reading_part(folder, name, read)


def reading_part(folder: Folder, name: str, read: Callable[[pq.ParquetFile], Result]) -> Result:
    """What `read` makes of the file `ROUND/NAME`, which may have been replaced since its name was looked up.

    Raises UnreadableError, naming the file, for one that is damaged or gone.
    """

    def attempt() -> Result:
        with open_part(folder, name) as file:
            return read(file)

    try:
        return folder.ask(attempt)
    except FileNotFoundError:
        raise GoneError(
            f"{folder.path(name)} is gone: it was replaced more than a day ago or taken down while it was being read "
            "(then start again), or somebody removed it (then restore it, or run the recipe again: its images are "
            "then annotated anew)"
        ) from None
    except (pa.ArrowException, OSError) as error:
        if not is_damage(error):
            raise
        raise UnreadableError(
            f"{folder.path(name)} is damaged ({_reason(error)}); restore it from a copy, or remove it and run the "
            "recipe again: its images are then annotated anew"
        ) from error


@contextmanager
def open_part(folder: Folder, name: str) -> Iterator[pq.ParquetFile]:
    """The file `ROUND/NAME`, wherever it lies by now. Raises FileNotFoundError."""
    parsed = parse_part_name(name.rpartition("/")[2])
    with _open(folder, name) as raw:
        if parsed is None or parsed.end_hash is None:  # of an earlier version
            opened = pq.ParquetFile(raw, page_checksum_verification=True)
        else:
            checked = CheckedFile(raw, parsed.end_hash)
            opened = pq.ParquetFile(checked, metadata=checked.metadata)
        with opened as file:
            yield file


def _open(folder: Folder, name: str) -> IO[bytes] | pa.NativeFile:
    round_name, _, file = name.rpartition("/")
    for place in (name, f"{round_name}/{REPLACED}/{file}"):
        with suppress(FileNotFoundError):
            path = folder.path(place)
            return pa.OSFile(path) if folder.is_local else folder.fs.open(path, "rb")
    raise FileNotFoundError(folder.path(name))


def is_damage(error: BaseException | None) -> bool:
    """Whether the file itself is wrong, not the way to it: what Arrow cannot parse has no number of the system's, and a
    store's answer was asked for again before."""
    if isinstance(error, pa.ArrowException):
        return True
    if isinstance(error, OSError) and error.__cause__ is not None:
        return is_damage(error.__cause__)
    return type(error) is OSError and error.errno is None


def _reason(error: BaseException) -> str:
    return str(error.__cause__ or error).strip().splitlines()[0]
