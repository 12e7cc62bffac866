"""Two runs on one round, interleaved operation by operation, with pauses longer than the lease."""

from collections.abc import Callable
from dataclasses import replace

import pyarrow as pa

from pipeline.errors import FencedError, RunError
from pipeline.runs.chunks import plan_chunks
from pipeline.runs.commit import Committer
from pipeline.sources.listing_schema import listing_table
from pipeline.store.compact import merge_parts
from pipeline.store.lease import Lease
from pipeline.store.owner import Owner
from pipeline.store.part_files import REPLACED
from pipeline.store.rounds import Round
from pipeline.store.tidy import left_overs
from stages.record import conform, set_columns
from tests.pipeline.store.simulated_store import Kind, SimulatedFolder, Turns

IMAGES = [f"{number:02d}" for number in range(12)]
TRIES = 3


def listing(names: list[str], version: str = "1") -> pa.Table:
    return listing_table(len(names), {"image_id": names, "uri": names, "source_etag": [version] * len(names)})


def annotate(target: Round, run_id: str, names: list[str], commit_every: int, version: str = "1") -> None:
    """What a run does between its lease and its end, with rows in place of models."""
    plan = plan_chunks(listing(names, version), target.committed(), commit_every, retry_failed=False)
    committer = Committer(target, run_id, {})
    for chunk in plan:
        committer.expect([chunk])
        ids = chunk.images["image_id"].to_pylist()
        columns = {"image_id": ids, "status": ["ok"] * len(ids), "source_etag": [version] * len(ids)}
        committer.add(conform(pa.table(columns)).append_column("part", pa.array([chunk.part] * len(ids), pa.int32())))


def rewrite(target: Round, caption: str) -> None:
    """What a replay of filters or labels does, part by part."""
    for part in target.parts():
        rows = target.read_part(part)
        new = set_columns(rows, {"caption": pa.array([caption] * rows.num_rows)})
        target.commit({part: target.save(part, target.epoch(part), new)})


def merge(target: Round) -> None:
    parts = target.parts()
    for start in range(0, len(parts) - 1, 3):
        merge_parts(target, parts[start : start + 3])


class Simulation:
    """One seed: two writers, each with a job of its own, until both have ended or are fenced."""

    def __init__(self, seed: int, kind: Kind) -> None:
        self.turns = Turns(seed)
        self.kind = kind
        self.files: dict[str, bytes] = {}
        self.ids: dict[str, list[str]] = {}  # of each part file, as it never changes
        self.seen: set[str] = set()
        self.looked_at: dict[str, bytes] = {}
        self.fenced = self.refused = 0

    def folder(self) -> SimulatedFolder:
        return SimulatedFolder(self.files, self.turns, self.kind)

    def run(self) -> None:
        """Raises AssertionError where an image is lost or doubled at any moment."""
        first = Round(self.folder(), 0)
        annotate_held(first, "before", IMAGES[:3])
        self.turns.after_step = self.look
        self.turns.run({name: self.writer(name) for name in ("one", "two")})
        self.turns.after_step = lambda: None
        self.turns.time += 1000
        last = Round(self.folder(), 0)
        lease = Lease(last, "after", replace(Owner(), boot_id="after"))
        lease.acquire()
        annotate(last, "after", IMAGES, 4)
        lease.release()
        self.look()
        assert sorted(last.committed()["image_id"].to_pylist()) == IMAGES
        assert left_overs(last) == []
        there = {name for name in self.files if name.startswith("round=000/part-")}
        assert there == {f"round=000/{file}" for file in last.files().values()}

    def writer(self, name: str) -> Callable[[], None]:
        job = self.turns.random.choice(["run", "run", "changed", "rewrite", "merge"])
        commit_every = self.turns.random.choice([1, 2, 3])

        def work() -> None:
            target = Round(self.folder(), 0)
            lease = Lease(target, name, replace(Owner(), boot_id=name, host=name))
            for _ in range(TRIES):
                try:
                    lease.acquire()
                except RunError:
                    self.refused += 1
                    continue
                try:
                    lease.beat()
                    if job in ("run", "changed"):
                        annotate(target, name, IMAGES, commit_every, "2" if job == "changed" else "1")
                    elif job == "rewrite":
                        rewrite(target, name)
                    else:
                        merge(target)
                except FencedError:
                    self.fenced += 1
                lease.release()
                return

        return work

    def look(self) -> None:
        """As a reader does, between any two operations."""
        if self.files == self.looked_at:
            return
        self.looked_at = dict(self.files)
        files = Round(self.folder(), 0).files()
        names = [name for file in files.values() for name in self._ids(file)]
        assert len(set(names)) == len(names), f"doubled: {sorted(names)}"
        assert self.seen <= set(names), f"lost: {sorted(self.seen - set(names))}"
        self.seen |= set(names)

    def _ids(self, file: str) -> list[str]:
        if file not in self.ids:
            self.ids[file] = Round(self.folder(), 0).read_file(file, ["image_id"])["image_id"].to_pylist()
        places = {f"round=000/{file}", f"round=000/{REPLACED}/{file}"}
        assert places & self.files.keys(), f"{file} counts, and is gone"
        return self.ids[file]


def annotate_held(target: Round, run_id: str, names: list[str]) -> None:
    lease = Lease(target, run_id, replace(Owner(), boot_id=run_id))
    lease.acquire()
    annotate(target, run_id, names, 2)
    lease.release()
