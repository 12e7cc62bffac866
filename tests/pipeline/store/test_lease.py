import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import pipeline.store.lease
from pipeline.errors import RunError
from pipeline.store.lease import hold_lease, is_live, read_lease
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder


@pytest.fixture
def target(tmp_path: Path) -> Round:
    return Round(Folder(str(tmp_path)), 0)


def leave(target: Round, **changes: object) -> None:
    held = {"run_id": "old", "host": socket.gethostname(), "pid": os.getpid(), "heartbeat": time.time(), "progress": {}}
    target.folder.write_json(f"{target.name}/_lease.json", held | changes)


def test_a_second_live_run_is_refused_and_the_lease_goes_with_the_run(target: Round) -> None:
    with hold_lease(target, "first") as lease:
        lease.progress = {"images": 3}
        with pytest.raises(RunError, match=r"run first \(process \d+ on .*\) is writing .*round=000; wait for it"), \
                hold_lease(target, "second"):  # fmt: skip
            pass
        held = read_lease(target)
        assert held is not None and held["run_id"] == "first" and is_live(held)
    assert read_lease(target) is None
    with hold_lease(target, "third"):
        pass


def test_a_crashed_run_does_not_lock_its_round_for_ever(target: Round) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    leave(target, pid=gone.pid)
    with hold_lease(target, "next"):
        held = read_lease(target)
        assert held is not None and held["run_id"] == "next"
    leave(target, began=time.time() - 60)  # another process of this one's number
    with hold_lease(target, "next"):
        pass
    leave(target, host="elsewhere", heartbeat=time.time() - pipeline.store.lease.STALE_SECONDS - 1)
    with hold_lease(target, "next"):
        pass
    target.folder.write(f"{target.name}/_lease.json", b"{half")
    with hold_lease(target, "next"):
        pass


def test_the_heartbeat_shows_life_and_progress(target: Round, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline.store.lease, "HEARTBEAT_SECONDS", 0.02)
    with hold_lease(target, "run") as lease:
        first = read_lease(target)
        lease.progress = {"images": 7}
        deadline = time.time() + 10
        while (held := read_lease(target)) is None or held["progress"] != {"images": 7}:
            assert time.time() < deadline
            time.sleep(0.01)
        assert first is not None and held["heartbeat"] > first["heartbeat"]


def test_a_lease_taken_over_is_left_to_its_new_holder(target: Round) -> None:
    with hold_lease(target, "slow"):
        leave(target, run_id="other")
    held = json.loads(target.folder.fs.cat_file(target.folder.path("round=000/_lease.json")))
    assert held["run_id"] == "other"


def test_stores_other_than_the_disk_hold_leases_too() -> None:
    target = Round(Folder("memory://leases/dataset"), 0)
    with hold_lease(target, "first"), pytest.raises(RunError, match="run first"), hold_lease(target, "second"):
        pass
    assert read_lease(target) is None
