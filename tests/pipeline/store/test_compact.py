from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.errors import RunError
from pipeline.store.compact import compact, merge_parts
from pipeline.store.lease import hold_lease
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder
from stages.record import SCHEMA, conform


def rows(*names: str) -> pa.Table:
    return conform(pa.table({"image_id": list(names), "status": ["ok"] * len(names)}))


@pytest.fixture
def target(tmp_path: Path) -> Round:
    made = Round(Folder(str(tmp_path)), 0)
    for part, names in enumerate(["ab", "c", "def", "g", "h", "ijklmnop"]):
        made.write_part(part, rows(*names))
    return made


def images(target: Round) -> list[str]:
    return [name for part in target.parts() for name in target.read_part(part)["image_id"].to_pylist()]


def test_neighbours_are_merged_up_to_the_limit(target: Round, tmp_path: Path) -> None:
    result = compact(str(tmp_path), images_per_part=5, quiet=True)
    assert (result.parts_before, result.parts_after) == (6, 3)
    assert sorted(images(target)) == sorted("abcdefghijklmnop")
    assert [target.count_images(part) for part in target.parts()] == [8, 3, 5]
    assert compact(str(tmp_path), images_per_part=5, quiet=True).parts_after == 3
    assert compact(str(tmp_path), images_per_part=1000, quiet=True).parts_after == 1
    assert target.read_part(target.parts()[0]).schema.equals(SCHEMA)
    assert sorted(path.name for path in (tmp_path / "round=000").iterdir()) == ["part-000008.parquet"]


class Killed(BaseException):
    pass


@pytest.mark.parametrize("survived", range(5))
def test_a_kill_at_any_step_neither_doubles_nor_drops(
    target: Round, survived: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The steps are: intention, merged part, removal of the two sources, removal of the intention."""
    steps = 0

    def counted(real):  # type: ignore[no-untyped-def]
        def step(self, *arguments):  # type: ignore[no-untyped-def]
            nonlocal steps
            if steps == survived:
                raise Killed
            steps += 1
            return real(self, *arguments)

        return step

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "write", counted(Folder.write))
        patch.setattr(Folder, "remove", counted(Folder.remove))
        with pytest.raises(Killed):
            merge_parts(target, [1, 2])
            target.finish_merge()
    assert sorted(images(target)) == sorted("abcdefghijklmnop")
    target.finish_merge()
    assert sorted(images(target)) == sorted("abcdefghijklmnop")
    assert len(target.parts()) == (6 if survived < 2 else 5)


def test_a_round_that_is_being_written_is_left_alone(target: Round, tmp_path: Path) -> None:
    with hold_lease(target, "run"), pytest.raises(RunError, match=r"run run .* is writing"):
        compact(str(tmp_path), 5, quiet=True)
    with pytest.raises(ValueError, match="holds no rounds"):
        compact(str(tmp_path / "nothing"), 5, quiet=True)
