"""Checksums of all that a part's file says. Those of Parquet itself are of its pages' data alone: a wrong byte in a
page's header or in the footer would give other values, or fewer rows, and no error.

Between the last column chunk and the footer, where Parquet's readers do not look, stand the checksums of the column
chunks; the file's name holds a hash of all from there on.
"""

import hashlib
import io
import struct
import zlib
from collections.abc import Iterator
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

READ_AT_ONCE = 1 << 16  # bytes, which is more than most files have behind their column chunks
_SUFFIX = 8  # the footer's length, four bytes little-endian, and Parquet's name for itself
_COUNT = 4  # bytes that say how many checksums stand before them


def add_checksums(file: io.BytesIO) -> None:
    """Put the checksums of its column chunks into a whole Parquet file."""
    footer = _read_end(file, _footer_length(_read_end(file, _SUFFIX)))
    content = file.getbuffer()
    sums = [zlib.crc32(content[start:stop]) for start, stop in _chunks(pq.read_metadata(pa.BufferReader(footer)))]
    content.release()
    file.seek(-len(footer), io.SEEK_END)
    file.write(struct.pack(f"<{len(sums) + 1}I", *sums, len(sums)) + footer)


def end_hash(file: io.BytesIO) -> str:
    """Eight hex digits for the file's name, of what stands behind its column chunks."""
    return _hash(_end(file))


class CheckedFile(io.RawIOBase):
    """A part's file whose every reading is held against its checksums; `metadata` is what its footer says.

    Raises ArrowInvalid, here for an end that is not the one that `expected` is the hash of, and later for a column
    chunk that is not what was written.
    """

    def __init__(self, file: IO[bytes] | pa.NativeFile, expected: str) -> None:
        self._file = file
        end = _end(file)
        if _hash(end) != expected:
            raise pa.ArrowInvalid("its footer is not the one that was written")
        footer = end[-_footer_length(end) :]
        self.metadata = pq.read_metadata(pa.BufferReader(footer))
        sums = struct.unpack(f"<{(len(end) - len(footer)) // 4}I", end[: -len(footer)])
        self._chunks = list(zip(_chunks(self.metadata), sums[:-1], strict=True))

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return int(self._file.tell())

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._file.seek(offset, whence)
        return self.tell()

    def read(self, size: int = -1) -> bytes:
        start = self.tell()
        data = bytes(self._file.read() if size < 0 else self._file.read(size))
        stop = start + len(data)
        for (first, last), checksum in self._chunks:
            if first < stop and last > start:
                whole = data[first - start : last - start] if start <= first and last <= stop else None
                if zlib.crc32(self._read_chunk(first, last, stop) if whole is None else whole) != checksum:
                    raise pa.ArrowInvalid("a column in it is not what was written")
        return data

    def _read_chunk(self, first: int, last: int, position: int) -> bytes:
        """One of which only a piece was asked for; `position` is that of the file afterwards."""
        self._file.seek(first)
        data = bytes(self._file.read(last - first))
        self._file.seek(position)
        return data


def _chunks(metadata: pq.FileMetaData) -> Iterator[tuple[int, int]]:
    """Where each column chunk begins and ends, row group by row group."""
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for index in range(group.num_columns):
            column = group.column(index)
            start = column.data_page_offset
            if column.has_dictionary_page:
                start = min(start, column.dictionary_page_offset)
            yield start, start + column.total_compressed_size


def _end(file: IO[bytes] | pa.NativeFile) -> bytes:
    """All from the checksums on."""
    end = _read_end(file, READ_AT_ONCE)
    if (length := _footer_length(end) + _COUNT) > len(end):
        end = _read_end(file, length)
    count = int.from_bytes(end[-length : _COUNT - length], "little")
    length += count * 4
    return end[-length:] if length <= len(end) else _read_end(file, length)


def _read_end(file: IO[bytes] | pa.NativeFile, length: int) -> bytes:
    file.seek(0, io.SEEK_END)
    file.seek(max(0, file.tell() - length))
    return bytes(file.read())


def _footer_length(end: bytes) -> int:
    return int.from_bytes(end[-_SUFFIX : -_SUFFIX // 2], "little") + _SUFFIX


def _hash(end: bytes) -> str:
    return hashlib.sha256(end).hexdigest()[:8]
