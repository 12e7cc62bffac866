"""The record of a round names the filters that its parts went through, wherever a run before was killed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.replays.replay import replay_round
from pipeline.store.lease import hold_lease
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder
from tests.pipeline.life.engine import Engine, Pictures, in_process


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    (tmp_path / "pictures").mkdir()
    pictures = Pictures(tmp_path / "pictures")
    pictures.put("a.png", 1)
    pictures.put("b.png", 2)
    return Engine(str(tmp_path / "dataset"), pictures)


def recorded(target: Round) -> tuple[str, float, float]:
    record = target.read_record()
    assert record is not None
    filters = record["settings"]["filter"]["filter.pred_iou_thresh"], record["recipe"]["filter"]["pred_iou_thresh"]
    return (record["fingerprints"]["filter"], *filters)


def in_parts(target: Round) -> set[str]:
    return {mark["filter"] for part in target.parts() for mark in target.read_part(part)["fingerprints"].to_pylist()}


def test_after_a_run_that_ended_before_its_first_part(engine: Engine) -> None:
    listing = engine.pictures.listing(["a.png", "b.png"])
    engine.run(listing, 1, 0.85, max_chunks=0)
    engine.run(listing, 1, 0.92)
    target = Round(Folder(engine.uri), 0)
    (link,) = in_parts(target)
    assert recorded(target) == (link, 0.92, 0.92)


def test_after_a_replay_that_was_killed_behind_its_last_part(engine: Engine) -> None:
    def killed(target: Round, items: list[dict[str, Any]], *arguments: Any, **options: Any) -> Iterator[pa.Table]:
        yield from in_process(target, items, *arguments, **options)
        raise KeyboardInterrupt

    listing = engine.pictures.listing(["a.png", "b.png"])
    engine.run(listing, 1, 0.85)
    target, mark = Round(Folder(engine.uri), 0), engine.mark(0.92, 1)
    with pytest.raises(KeyboardInterrupt), hold_lease(target, "filter"):
        replay_round(target, engine.recipe(0.92).filter, mark.links, True, killed)
    assert in_parts(target) == {mark.links["filter"]} and recorded(target)[1:] == (0.85, 0.85)
    engine.run(listing, 1, 0.92)
    assert recorded(target) == (mark.links["filter"], 0.92, 0.92)
