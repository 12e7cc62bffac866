"""Seeded interleavings of two runs on one round. A seed that fails is in the message; `Simulation(SEED, KIND).run()`
plays it again."""

import io
from typing import Any

import pyarrow as pa
import pytest

from pipeline.store.commit_log import LogWriter
from tests.pipeline.store.simulated_store import Kind, SimulatedFolder
from tests.pipeline.store.two_writers import Simulation

KINDS: tuple[Kind, ...] = ("disk", "bucket")


@pytest.fixture(autouse=True)
def cheap_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts as Arrow streams: their bytes are not what this is about, and Parquet takes most of the time."""

    def encode(rows: pa.Table, _: list[str]) -> tuple[bytes, str]:
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, rows.schema) as writer:
            writer.write_table(rows)
        return sink.getvalue(), "0" * 8

    def read(folder: SimulatedFolder, name: str, columns: list[str] | None = None) -> pa.Table:
        round_name, _, file = name.partition("/")
        for place in (name, f"{round_name}/_replaced/{file}"):
            folder.turns.step()
            if place in folder.files:
                rows = pa.ipc.open_stream(folder.files[place]).read_all()
                return rows if columns is None else rows.select(columns)
        raise FileNotFoundError(name)

    monkeypatch.setattr("pipeline.store.rounds.encode_part", encode)
    monkeypatch.setattr("pipeline.store.rounds.read_part_file", read)


def simulate(seeds: range, kind: Kind) -> tuple[int, int]:
    """How often a run was fenced, and refused."""
    fenced = refused = 0
    for seed in seeds:
        simulation = Simulation(seed, kind)
        try:
            simulation.run()
        except BaseException as error:
            raise AssertionError(f"seed {seed} on a {kind}: {error}") from error
        fenced, refused = fenced + simulation.fenced, refused + simulation.refused
    return fenced, refused


@pytest.mark.parametrize("kind", KINDS)
def test_two_runs_on_one_round_lose_and_double_nothing(kind: Kind) -> None:
    fenced, refused = simulate(range(60), kind)
    assert fenced > 5 and refused > 5, "both happen"


@pytest.mark.parametrize("kind", KINDS)
def test_without_the_fence_they_do(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """That the simulation would see it."""

    def append(writer: LogWriter, content: dict[str, Any]) -> None:
        while not writer.log.create(writer.state, {"opening": writer.state.opening, **content}):
            writer.state.apply(writer.state.head + 1, writer.log.read_entry(writer.state.head + 1))

    monkeypatch.setattr(LogWriter, "_append", append)
    with pytest.raises(AssertionError, match=r"seed \d+ on a"):
        simulate(range(60), kind)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kind", KINDS)
def test_two_runs_on_one_round_for_thousands_of_seeds(kind: Kind) -> None:
    simulate(range(1000, 4000), kind)
