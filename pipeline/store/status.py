"""`maskfoundry status`: what a dataset holds, and which run is writing it."""

from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc

from pipeline.store.find_rounds import open_round, round_numbers
from pipeline.store.index import read_index
from pipeline.store.lease import live_leases
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder
from pipeline.store.tidy import left_overs


@dataclass(frozen=True)
class RoundStatus:
    """`live` are the leases of runs that work on the round (several where it is written in shards), `last_run` is the
    newest entry of `_run.json`; `left_over` files are those of killed runs, where none is at work."""

    number: int
    parts: int
    images: int
    failed: int
    last_run: dict[str, Any] | None
    live: list[dict[str, Any]]
    published: bool
    left_over: list[str]


def read_status(dataset: str) -> list[RoundStatus]:
    """Every round, in order. Raises ValueError if there is no dataset."""
    folder = Folder(dataset)
    numbers = round_numbers(folder)
    if not numbers:
        raise ValueError(f"dataset: {dataset!r} holds no rounds; give the folder that a run wrote")
    published = read_index(folder).published
    return [_round_status(open_round(folder, number), number in published) for number in numbers]


def _round_status(target: Round, published: bool) -> RoundStatus:
    committed = target.committed()
    record = target.read_record()
    runs = record["runs"] if record else []
    live = live_leases(target)
    return RoundStatus(
        number=target.number,
        parts=len(target.parts()),
        images=committed.num_rows,
        failed=pc.sum(pc.equal(committed["status"], "failed")).as_py() or 0,
        last_run=runs[-1] if runs else None,
        live=live,
        published=published,
        left_over=[] if live else [str(left) for left in left_overs(target)],
    )
