"""The loop of operations.md, `until maskfoundry run …; do [ $? -eq 1 ] || break; done`: it goes on while that may help,
and ends."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import RunError, StoreError, store_failure
from pipeline.recipes.load_recipe import validate_recipe
from pipeline.runs.attempted import fruitless_in_a_row, has_ended
from pipeline.runs.begin_run import choose_round
from pipeline.runs.fingerprint import Fingerprint
from pipeline.runs.run import run
from pipeline.store.index import publish
from pipeline.store.rounds import Round
from pipeline.store.shards import Shard
from pipeline.store.storage import Folder

MARK = Fingerprint({"generate": "g", "filter": "f"}, {})
OTHER = Fingerprint({"generate": "other", "filter": "f"}, {})


def _begin(target: Round, mark: Fingerprint = MARK, **content: Any) -> None:
    shards = target.shard.count if target.shard else None
    target.create_record({"fingerprints": mark.links, "shards": shards, "runs": [], **content})
    publish(target.folder, target.number)


def _end(target: Round, status: str = "done", images: int = 2, failed: int = 0) -> None:
    shard = str(target.shard) if target.shard else None
    target.add_run({"started": "now", "status": status, "images": images, "failed": failed, "shard": shard})


def test_a_new_round_that_is_retried_goes_on_in_the_round_of_its_first_try(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))

    def chosen(mark: Fingerprint = MARK) -> Round:
        return choose_round(folder, mark, True, None)

    assert chosen().number == 0
    _begin(Round(folder, 0))
    assert chosen().number == 1, "the first round was begun by another command, ended or not"
    for status in ("killed", "failed", "interrupted"):
        target = chosen()
        assert target.number == 1
        _begin(target)
        if status != "killed":
            _end(target, status)
    _end(target, images=2, failed=2)
    assert chosen().number == 1, "all failed, which is exit code 1, and a reason to try again"
    assert chosen(OTHER).number == 2, "other settings are another command"
    _end(target, images=0)
    assert chosen().number == 2
    _begin(Round(folder, 2), refresh={"of": 1})
    assert chosen().number == 3, "a refresh began that one"


def test_shards_that_are_retried_meet_in_one_round(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))

    def chosen(number: int) -> Round:
        return choose_round(folder, MARK, True, Shard(number, 2))

    for number in (1, 2):
        _begin(Round(folder, 0, Shard(number, 2)))
        _end(Round(folder, 0, Shard(number, 2)))
    for number in (1, 2, 1, 2, 1):  # killed each time
        assert chosen(number).number == 1
        _begin(chosen(number))
        _end(chosen(number), "interrupted")
    _end(chosen(2))
    assert (chosen(1).number, chosen(2).number) == (1, 2)


def test_how_runs_ended() -> None:
    def entry(images: int, failed: int, status: str = "done") -> dict[str, Any]:
        return {"images": images, "failed": failed, "status": status}

    whole, part, nothing = entry(3, 3), entry(3, 2), entry(0, 0)
    cases = [[], [whole], [whole, nothing, whole], [whole, part, whole], [part], [whole, whole, whole]]
    assert [fruitless_in_a_row(runs) for runs in cases] == [0, 1, 2, 1, 0, 3]
    assert fruitless_in_a_row([{"videos": 2, "failed": 2, "status": "done"}]) == 1
    endings = [[], [whole], [part], [nothing], [entry(3, 0, "interrupted")], [{"run_id": "of a version without more"}]]
    assert [has_ended(runs) for runs in endings] == [False, False, True, True, False, False]


def test_what_may_pass_is_another_error_than_a_mistake(tmp_path: Path) -> None:
    passing = [
        OSError(5, "EIO"),
        OSError(116, "ESTALE"),
        OSError(28, "no space"),
        TimeoutError(),
        RuntimeError("botocore"),
    ]
    lasting = [FileNotFoundError(), PermissionError(), OSError(30, "read only"), ImportError("gcsfs"), ValueError()]
    assert all(isinstance(store_failure("output: x", error, "look"), RunError) for error in passing)
    assert all(isinstance(store_failure("output: x", error, "look"), ValueError) for error in lasting)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError) as caught:
        Folder(str(tmp_path / "file" / "out")).write("a", b"")
    assert isinstance(store_failure("output: x", caught.value, "look"), ValueError)


def test_a_store_that_is_away_when_the_command_begins_is_exit_code_1(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png")
    script = (
        "import sys\nfrom pipeline.cli import main\n"
        "for argv in (['input=s3://b/in', 'output=out'], ['input=.', 'output=s3://b/out']):\n"
        "    sys.argv = ['maskfoundry', 'run', 'quickstart', '-o', argv[0], '-o', argv[1]]\n"
        "    try:\n        main()\n    except SystemExit as end:\n        print(end.code, argv)\n"
    )
    away = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1", "AWS_DEFAULT_REGION": "us-east-1"}
    keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=os.environ | away | keys, capture_output=True, text=True
    )
    assert done.stdout.splitlines() == ["1 ['input=s3://b/in', 'output=out']", "1 ['input=.', 'output=s3://b/out']"]
    lines = [line for line in done.stderr.splitlines() if line.startswith("maskfoundry: ")]
    assert [line.split(" cannot be read now (")[0] for line in lines] == [
        "maskfoundry: input: 's3://b/in'",
        "maskfoundry: output: 's3://b/out'",
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_pictures_that_are_broken_for_good_end_the_loop(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "in" / "good.png")
    (tmp_path / "in" / "broken.png").write_bytes(b"no picture")
    recipe = validate_recipe(
        {
            "input": str(tmp_path / "in"),
            "output": str(tmp_path / "out"),
            "model": {"checkpoint": "sam_tiny"},
            "generate": {"points_per_side": 1},
            "resources": {"sam_actors": 1},
        }
    )
    assert not run(recipe, quiet=True).may_go_on, "some may fail"
    tries = [run(recipe, retry_failed=True, quiet=True) for _ in range(3)]
    assert [(one.tally.failed, one.fruitless_runs, one.may_go_on) for one in tries] == [
        (1, 1, True),
        (1, 2, True),
        (1, 3, False),
    ]
