import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest

import pipeline.store.lease
from pipeline.errors import FencedError, RunError
from pipeline.store.lease import STALE_SECONDS, Lease, hold_lease, live_leases
from pipeline.store.owner import Owner, is_gone
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder
from stages.record import conform

ELSEWHERE = replace(Owner(), host="elsewhere", boot_id="another boot", pid=1)


class ClockedFolder(Folder):
    """Whose clock stands until it is set forward."""

    time = 1_000_000.0

    def now(self) -> float:
        return self.time


@pytest.fixture
def target(tmp_path: Path) -> Round:
    return Round(ClockedFolder(str(tmp_path)), 0)


def again(target: Round) -> Round:
    """The round as another process sees it, which has the same clock."""
    return Round(target.folder, target.number)


def rows(*names: str) -> pa.Table:
    return conform(pa.table({"image_id": list(names), "status": ["ok"] * len(names)}))


def images(target: Round) -> list[str]:
    return [name for part in target.parts() for name in target.read_part(part)["image_id"].to_pylist()]


def hold(target: Round, run_id: str, owner: Owner = ELSEWHERE) -> Lease:
    lease = Lease(again(target), run_id, owner)
    lease.acquire()
    return lease


def gone_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_second_live_run_is_refused_and_the_lease_goes_with_the_run(target: Round) -> None:
    for second in (target, again(target)):
        with hold_lease(target, "first"):
            with pytest.raises(RunError, match=r"run first \(process \d+ on .*\) is writing .*round=000; wait for it"):
                hold_lease(second, "second").__enter__()
            (held,) = live_leases(second)
            assert (held["run_id"], held["pid"]) == ("first", os.getpid())
        assert live_leases(target) == []
    with hold_lease(target, "third"):
        pass
    left = sorted(path.name for path in Path(target.folder.path(target.name)).iterdir())
    assert left == ["_log"], "neither heartbeat nor probe stays"


def test_a_run_whose_process_is_gone_does_not_lock_its_round(target: Round) -> None:
    hold(target, "killed", replace(Owner(), pid=gone_process()))
    hold(target, "number given again", replace(Owner(), began=time.time() - 1000))
    assert live_leases(target) == []
    with hold_lease(target, "next"):
        assert [held["run_id"] for held in live_leases(target)] == ["next"]


@pytest.mark.parametrize("field", ["boot_id", "pid_namespace"])
@pytest.mark.parametrize("value", [None, "another"])
def test_a_process_is_judged_by_its_number_in_its_own_world_only(field: str, value: str | None) -> None:
    """Containers, or two machines of one name, number their processes apart."""
    gone = replace(Owner(), pid=gone_process())
    assert is_gone(gone.as_dict())
    assert not is_gone(gone.as_dict() | {field: value})


def test_a_process_that_proc_hides_is_not_taken_for_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = replace(Owner(), pid=gone_process(), user=os.getuid() + 1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "getuid", lambda: 65534)
        assert is_gone(gone.as_dict()), "where /proc shows everybody's"
        patch.setattr(Path, "exists", lambda path: str(path) != "/proc/1/stat")
        assert not is_gone(gone.as_dict())
        assert is_gone(gone.as_dict() | {"user": 65534}), "one's own are seen all the same"


@pytest.mark.parametrize("silent", [STALE_SECONDS - 1, STALE_SECONDS + 1])
def test_a_run_elsewhere_is_taken_over_once_it_has_been_silent_for_long(target: Round, silent: float) -> None:
    slow = hold(target, "slow")
    target.folder.time += 10_000  # type: ignore[attr-defined]
    slow.beat()
    target.folder.time += silent  # type: ignore[attr-defined]
    if silent < STALE_SECONDS:
        with pytest.raises(RunError, match=r"run slow .* last sign of life 299 s ago"):
            hold_lease(again(target), "next").__enter__()
        return
    with hold_lease(again(target), "next"):
        slow.beat()  # it has only slept
        assert [held["run_id"] for held in live_leases(target)] == ["next"], "its heartbeat is not the other's"


def test_a_run_that_was_taken_over_can_neither_replace_nor_join_nor_release(target: Round) -> None:
    slow = hold(target, "slow")
    slow.target.write_part(0, rows("a"))
    slow.target.write_record({"runs": ["slow"]})
    target.folder.time += STALE_SECONDS + 1  # type: ignore[attr-defined]
    other = hold(target, "other")
    for part in (0, 1):
        for _ in range(2):
            with pytest.raises(FencedError, match=r"^output: .*round=000: run other has taken this round over"):
                slow.target.write_part(part, rows("late"))
    other.target.write_part(1, rows("b"))
    for write in (
        lambda: slow.target.write_part(0, rows("late")),
        lambda: slow.target.remove_part(0),
        lambda: slow.target.write_record({"runs": ["late"]}),
        lambda: slow.target.add_run({"late": True}),
    ):
        with pytest.raises(FencedError):
            write()
    slow.release()
    assert images(target) == ["a", "b"] and target.read_record() == {"runs": ["slow"]}
    assert len(target.folder.names(target.name, "part-", ".parquet")) == 2, "what it could not commit is removed"
    other.target.write_part(2, rows("c"))
    assert images(target) == ["a", "b", "c"]


def test_of_several_that_find_a_stale_lease_at_once_one_takes_it(tmp_path: Path) -> None:
    for trial in range(20):
        target = Round(ClockedFolder(str(tmp_path / str(trial))), 0)
        hold(target, "dead")
        target.folder.time += STALE_SECONDS + 1  # type: ignore[attr-defined]
        barrier, passed = threading.Barrier(4), []

        def take(number: int, target: Round = target, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            try:
                hold(target, str(number), replace(Owner(), boot_id=str(number)))
            except RunError:
                return
            passed.append(number)  # noqa: B023

        threads = [threading.Thread(target=take, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(passed) == 1
        assert [held["run_id"] for held in live_leases(target)] == [str(passed[0])]


def test_the_heartbeat_shows_life_and_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline.store.lease, "HEARTBEAT_SECONDS", 0.02)
    target = Round(Folder(str(tmp_path)), 0)
    with hold_lease(target, "run") as lease:
        (first,) = live_leases(target)
        lease.progress = {"images": 7}
        deadline = time.time() + 10
        while (held := live_leases(target)[0])["progress"] != {"images": 7}:
            assert time.time() < deadline
            time.sleep(0.01)
        assert held["heartbeat"] > first["heartbeat"]


def test_marks_of_older_versions_and_broken_heartbeats_are_no_obstacle(target: Round) -> None:
    target.folder.write_json("round=000/_lease.json", {"run_id": "old"})
    lease = hold(target, "broken")
    target.folder.write(f"round=000/_lease-{ELSEWHERE.lease}.json", b"{half")
    assert [held["run_id"] for held in live_leases(target)] == ["broken"]
    assert live_leases(target)[0]["progress"] == {}
    lease.release()
    with hold_lease(target, "next"):
        assert not target.folder.exists("round=000/_lease.json")


def test_a_lease_in_a_bucket() -> None:
    folder = Folder("memory://leases/dataset")
    try:
        target = Round(folder, 0)
        with hold_lease(target, "first"), pytest.raises(RunError, match="run first"):
            hold_lease(Round(folder, 0), "second").__enter__()
        assert live_leases(target) == [] and folder.creates_once
    finally:
        fsspec.filesystem("memory").rm("/leases", recursive=True)


def test_a_store_that_cannot_create_once_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class NoLinks(Folder):
        def probe_create(self, name: str) -> bool:
            return False

    with hold_lease(Round(NoLinks(str(tmp_path)), 0), "run"):
        pass
    said = capsys.readouterr().err
    assert "cannot make a file only if it is absent" in said and said.count("\n") == 1


def test_a_killed_process_leaves_a_round_that_the_next_one_takes_at_once(tmp_path: Path) -> None:
    """Real processes: SIGKILL while the lease is held."""
    script = textwrap.dedent(
        f"""
        import os, signal
        from pipeline.store.lease import hold_lease
        from pipeline.store.rounds import Round
        from pipeline.store.storage import Folder
        with hold_lease(Round(Folder({str(tmp_path)!r}), 0), "killed"):
            os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == -9
    target = Round(Folder(str(tmp_path)), 0)
    assert [state.owner is None for state in target.read_log()] == [False]
    with hold_lease(target, "next"):
        pass
    entries = [json.loads(path.read_text()) for path in sorted((tmp_path / "round=000/_log").glob("*.json"))]
    assert [entry["run_id"] for entry in entries if "open" in entry] == ["killed", "next"]
