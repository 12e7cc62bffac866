import errno
import os
import threading
from pathlib import Path

import fsspec
import pytest

from pipeline.store.storage import Folder


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


@pytest.mark.parametrize("links", [True, False])
def test_a_file_is_made_by_one_writer_only(tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    if not links:  # as on FAT and some network disks
        monkeypatch.setattr(os, "link", refuse)
    folder = Folder(str(tmp_path))
    won = []

    def make(number: int) -> None:
        if folder.create("one.json", str(number).encode() * 5000):
            won.append(number)

    threads = [threading.Thread(target=make, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1 and folder.read("one.json") == str(won[0]).encode() * 5000
    assert os.listdir(tmp_path) == ["one.json"]


def test_a_new_file_is_seen_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    data = bytes(range(256)) * 64
    done = threading.Event()
    seen = set()

    def look() -> None:
        while not done.is_set():
            seen.update((tmp_path / name).stat().st_size for name in folder.names("", "", ".json"))

    reader = threading.Thread(target=look)
    reader.start()
    for number in range(300):
        folder.create(f"{number}.json", data)
    done.set()
    reader.join()
    assert seen == {len(data)}
