import os
from pathlib import Path

import fsspec
import pytest

from pipeline.storage import Folder


def test_a_file_appears_whole_and_is_replaced_whole(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    folder.write("a/b.bin", b"first")
    folder.write("a/b.bin", b"second")
    assert (tmp_path / "a/b.bin").read_bytes() == b"second"
    assert os.listdir(tmp_path / "a") == ["b.bin"]
    assert (tmp_path / "a/b.bin").stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    (tmp_path / "taken").mkdir()  # a folder cannot be replaced by a file
    with pytest.raises(OSError):
        folder.write("taken", b"data")
    assert os.listdir(tmp_path) == ["taken"]


def test_readers_never_see_what_a_killed_writer_left(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    folder.write("round=000/part-000000.parquet", b"x")
    (tmp_path / "round=000/.part-000001.parquet.abc.tmp").write_bytes(b"half")
    assert folder.names("round=000", "part-", ".parquet") == ["round=000/part-000000.parquet"]
    folder.remove_temporary("round=000")
    assert os.listdir(tmp_path / "round=000") == ["part-000000.parquet"]


def test_another_store_takes_the_same_calls() -> None:
    folder = Folder("memory://bucket/dataset")
    folder.write_json("_dataset.json", {"é": 1})
    assert folder.read_json("_dataset.json") == {"é": 1}
    assert folder.names("round=000", "part-", ".parquet") == []
    fsspec.filesystem("memory").rm("/bucket", recursive=True)


def test_json_that_is_not_ours_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "_dataset.json").write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        Folder(str(tmp_path)).read_json("_dataset.json")
