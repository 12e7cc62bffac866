"""The index changes by versions; an import that fails leaves nothing."""

import errno
import json
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.dataset import open_dataset
from pipeline.export.write import export
from pipeline.imports.write import import_labels
from pipeline.loop.rollback import restore, rollback
from pipeline.runs.begin_run import choose_round
from pipeline.runs.fingerprint import Fingerprint
from pipeline.store.dropped import Dropped
from pipeline.store.find_rounds import engine_rounds, round_numbers
from pipeline.store.index import Index, change_index, has_stale_copy, publish, read_index, withhold
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder
from pipeline.store.verify import verify_dataset

MakeDataset = Callable[..., str]


def drop(folder: Folder, image_id: str) -> None:
    more = Dropped(frozenset([image_id]))
    change_index(folder, lambda index: replace(index, dropped=index.dropped | more))


def test_changes_of_the_index_at_once_are_all_made(tmp_path: Path) -> None:
    for trial in range(10):
        uri = str(tmp_path / str(trial))
        barrier = threading.Barrier(6)

        def change(number: int, uri: str = uri, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            if number % 2:
                publish(Folder(uri), number)
            else:
                drop(Folder(uri), str(number))

        threads = [threading.Thread(target=change, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        index = read_index(Folder(uri))
        assert (index.published, index.dropped.ids) == ((1, 3, 5), {"0", "2", "4"})


def test_a_disk_that_fails_for_a_moment_is_not_an_empty_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(str(tmp_path))
    folder.write_json("_dataset.json", {"format": 1, "rounds": [0], "published": [0], "dropped": ["a"]})
    with monkeypatch.context() as patch:

        def fail(*_: object, **__: object) -> None:
            raise OSError(errno.ESTALE, "Stale file handle")

        patch.setattr(type(folder.fs), "cat_file", fail)
        patch.setattr(os, "stat", fail)
        for look in (lambda: read_index(folder), lambda: publish(folder, 1), lambda: folder.exists("_dataset.json")):
            with pytest.raises(OSError, match="Stale"):
                look()
    publish(folder, 1)
    assert read_index(folder) == Index((0, 1), (0, 1), dropped=Dropped(frozenset("a")))


def test_a_copy_that_was_not_written_any_more_is_named_and_set_right(
    tmp_path: Path, make_dataset: MakeDataset, shapes: np.ndarray
) -> None:
    uri = make_dataset(tmp_path, {"a.png": shapes[1:3]})
    path = Path(uri) / "_dataset.json"
    before = path.read_text()
    withhold(Folder(uri), 4)
    path.write_text(before)
    assert has_stale_copy(Folder(uri)) and read_index(Folder(uri)).withheld == (4,)
    assert any("_dataset.json is older" in problem for problem in verify_dataset(uri).problems)
    publish(Folder(uri), 0)
    assert json.loads(path.read_text())["withheld"] == [4] and not has_stale_copy(Folder(uri))


def test_a_round_that_was_taken_back_is_told_from_one_that_was_killed(
    tmp_path: Path, make_dataset: MakeDataset, shapes: np.ndarray
) -> None:
    uri = make_dataset(tmp_path, {"a.png": shapes[1:3]})
    folder = Folder(uri)
    Round(folder, 1).write_record({"runs": []})
    publish(folder, 1)
    assert rollback(uri) == (1, 0)
    assert (read_index(folder).taken_back, read_index(folder).withheld) == ((1,), (1,))
    restore(uri, 1)
    assert (read_index(folder).taken_back, read_index(folder).published) == ((), (0, 1))


def files_of(uri: str) -> set[str]:
    return {str(path.relative_to(uri)) for path in Path(uri).rglob("*")}


def test_a_failed_import_leaves_nothing(
    tmp_path: Path, make_dataset: MakeDataset, shapes: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures that the labels hold included; and the next run goes on in its own round."""
    uri = make_dataset(tmp_path, {"a.png": shapes[1:3], "b.png": shapes[1:3, :30]})
    other = make_dataset(tmp_path / "other", {"x.png": shapes[3:5], "y.png": shapes[3:5, :20]})
    export(open_dataset(other), str(tmp_path / "out"), "huggingface", pictures=True, quiet=True)
    before = files_of(uri)
    calls: list[Any] = []
    real = Round.write_record

    def fail(target: Round, record: dict[str, Any]) -> None:
        calls.append(record)
        if len(calls) == 2:  # with the counts: every part and picture is there
            raise ValueError("the labels end in the middle")
        real(target, record)

    with monkeypatch.context() as patch:
        patch.setattr(Round, "write_record", fail)
        with pytest.raises(ValueError, match="in the middle"):
            import_labels(str(tmp_path / "out"), uri, None, "human", quiet=True)
    assert files_of(uri) - {"pictures"} == before
    assert (round_numbers(Folder(uri)), engine_rounds(Folder(uri))) == ([0], [0])
    assert import_labels(str(tmp_path / "out"), uri, None, "human", quiet=True).round == 1


def test_an_empty_round_is_used_again(tmp_path: Path, make_dataset: MakeDataset, shapes: np.ndarray) -> None:
    uri = make_dataset(tmp_path, {"a.png": shapes[1:3]})
    folder = Folder(uri)
    Round(folder, 1).begin("killed before its record")
    assert engine_rounds(folder) == [0]
    mark = Fingerprint({}, {})
    assert [choose_round(folder, mark, new_round, None).number for new_round in (False, True)] == [0, 1]
