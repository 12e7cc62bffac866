"""One run: list, plan what is left, stream it through the graph, commit chunk by chunk."""

import signal
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pyarrow as pa

from pipeline.errors import FencedError, RunError, StoreError
from pipeline.progress import progress_bar
from pipeline.recipes.recipe import Recipe
from pipeline.replays.relabel import relabel_round
from pipeline.replays.replay import Replayed, replay_round
from pipeline.runs.attempted import MAX_FRUITLESS_RUNS, fruitless_in_a_row, of_shard
from pipeline.runs.attempts import RayAttempts
from pipeline.runs.begin_run import Into, begin_run, check_record, choose_round, first_look
from pipeline.runs.check_nodes import check_nodes
from pipeline.runs.chunks import Plan, plan_chunks
from pipeline.runs.commit import Committer, Tally
from pipeline.runs.fingerprint import fingerprint
from pipeline.runs.graph import build_graph
from pipeline.runs.growing import resources_for
from pipeline.runs.known_ids import with_known_ids
from pipeline.runs.left_alone import without_dropped, without_labelled
from pipeline.runs.near_duplicates import RayNearDuplicates, committed_originals
from pipeline.runs.ray_runtime import connected_ray
from pipeline.runs.resolve import ResolvedRun, resolve
from pipeline.runs.resources import Resources
from pipeline.runs.settle import settled
from pipeline.sources.listing import list_images
from pipeline.sources.notes import ListingNotes
from pipeline.sources.places import dataset_places, input_places
from pipeline.store.lease import Lease
from pipeline.store.rounds import Round
from pipeline.store.shards import Shard
from pipeline.store.storage import Folder
from stages.allowed_places import AllowedPlaces


@dataclass(frozen=True)
class RunSummary:
    """What one run did. `total_images` counts the whole round, earlier runs included; `listing` says what the input
    holds besides its images (`ListingNotes`), `fruitless_runs` in how many of the round's last runs in a row, this one
    included, every image failed."""

    run_id: str
    output: str
    round: int
    shard: str | None
    status: str
    seconds: float
    total_images: int
    listing: dict[str, Any]
    replayed: Replayed
    tally: Tally
    fruitless_runs: int = 0

    @property
    def may_go_on(self) -> bool:
        """Whether the same command, given again, may do more: the exit code is 1 then."""
        return self.status != "done" or 0 < self.fruitless_runs < MAX_FRUITLESS_RUNS

    def as_dict(self) -> dict[str, Any]:
        plain = {name: value for name, value in vars(self).items() if name not in ("tally", "replayed")}
        return plain | {"replayed": asdict(self.replayed)} | self.tally.as_dict()


@dataclass(frozen=True)
class Listed:
    """The images that a run is to hold (a listing), and what listing them met besides."""

    images: pa.Table
    notes: ListingNotes


def run(
    recipe: Recipe,
    retry_failed: bool = False,
    new_round: bool = False,
    quiet: bool = False,
    shard: Shard | None = None,
) -> RunSummary:
    """Write (or go on with) a round of the dataset at `recipe.output`; with `shard`, of its images and parts only.

    Raises ValueError for wrong input or configuration before anything is written, and RunError when another run is
    writing the round, or the graph or the store fails; what was committed by then stays, and the same call goes on from
    there.
    """
    with settled(recipe) as recipe:
        notes, folder = ListingNotes(), Folder(recipe.output)
        listing = list_images(recipe.input, recipe.include, recipe.exclude, notes)
        with first_look(folder):
            listing = with_known_ids(listing, folder, notes)
        return run_resolved(resolve(recipe), Listed(listing, notes), retry_failed, new_round, quiet, shard)


def run_resolved(
    resolved: ResolvedRun,
    listed: Listed,
    retry_failed: bool = False,
    new_round: bool = False,
    quiet: bool = False,
    shard: Shard | None = None,
    into: Into | None = None,
) -> RunSummary:
    """As `run`, of the images `listed`. `into` names the round instead, and leaves publishing to the caller."""
    started = time.time()
    recipe, listing, notes = resolved.recipe, listed.images, listed.notes
    if shard:
        listing = shard.take(listing)
    wanted = fingerprint(resolved)
    folder = Folder(recipe.output)
    with first_look(folder):
        listing = without_dropped(listing, folder)
        if into is None:
            listing = without_labelled(listing, folder)
        target = into.target if into else choose_round(folder, wanted, new_round, shard)
        check_record(target, wanted)
        places = dataset_places(recipe.output, _named_places(recipe, into))
    run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:8]}"
    num_cpus = None if recipe.resources.num_cpus == "auto" else recipe.resources.num_cpus
    with ExitStack() as stack:
        nodes = stack.enter_context(connected_ray(recipe.ray.address, num_cpus))
        resources = resources_for(recipe, nodes)
        if recipe.ray.address is not None:
            check_nodes(resolved.checkpoints(), listing, resources.gpus_per_actor, quiet, places)
        lease = stack.enter_context(begin_run(target, recipe, wanted, resolved.weights.sha256, run_id, into))
        replayed = replay_round(target, recipe.filter, wanted.links, quiet)
        replayed = replace(replayed, labelled=relabel_round(target, resolved, wanted, resources, quiet, places))
        plan = plan_chunks(listing, target.committed(), recipe.run.commit_every, retry_failed, shard)
        committer = Committer(target, run_id, wanted.links)
        finish = partial(_finish, target, notes, resources, started, replayed, committer)
        try:
            status = _work(resolved, resources, plan, committer, lease, quiet, places)
        except FencedError:  # the record is another run's as well
            raise
        except Exception as error:
            with suppress(StoreError):  # the record of a run whose store fails is best effort
                finish("failed")
            if isinstance(error, StoreError):
                raise RunError(
                    f"{error}; {committer.tally.images} images are committed: set that right (disk full? store away?), "
                    "then run the same command to go on"
                ) from error
            raise
        return finish(status)


def _named_places(recipe: Recipe, into: Into | None) -> tuple[str, ...]:
    """Where the user lets images be read. The rows of a refresh, and its recipe's input, are the dataset's own."""
    return recipe.allow if into else (*input_places(recipe.input), *recipe.allow)


def _work(
    resolved: ResolvedRun,
    resources: Resources,
    plan: Plan,
    committer: Committer,
    lease: Lease,
    quiet: bool,
    places: AllowedPlaces,
) -> str:
    """Everything that is left, or, when somebody interrupts, what has come by then: `done` or `interrupted`."""
    try:
        with interruptible():
            _stream(resolved, resources, plan, committer, lease, quiet, places)
    except KeyboardInterrupt:
        committer.commit_unfinished()
        return "interrupted"
    return "done"


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM, which a spot machine sends before it goes, ends a run like Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _stream(
    resolved: ResolvedRun,
    resources: Resources,
    plan: Plan,
    committer: Committer,
    lease: Lease,
    quiet: bool,
    places: AllowedPlaces,
) -> None:
    from ray.exceptions import RayError

    total = plan.num_images
    if total == 0:
        return
    with ExitStack() as stack:
        update = stack.enter_context(progress_bar("annotating", total, "images", quiet))
        try:
            attempts = RayAttempts()
            stack.callback(attempts.close)
            duplicates = None
            if resolved.recipe.dedup is not None:
                duplicates = RayNearDuplicates(committed_originals(committer.target, plan.redo["image_id"]))
                stack.callback(duplicates.close)
            for chunks in plan.in_groups(resources.sam_actors):
                committer.expect(chunks)
                before = committer.tally.images
                number = committer.target.number
                graph, window = build_graph(resolved, resources, chunks, number, attempts, duplicates, places)
                for rows in graph.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
                    committer.add(rows)
                    window.commit(committer.tally.images - before)
                    lease.progress = {"images": committer.tally.images, "of": total} | _counts(committer.seen)
                    update(committer.seen.images, f"{committer.seen.masks:,} masks · {committer.seen.failed:,} failed")
        except RayError as error:
            reason = str(error).strip().splitlines()[-1]
            raise RunError(
                f"the graph failed: {reason}; {committer.tally.images} images are committed, run again to go on"
            ) from error
    if committer.unfinished:
        raise RunError(f"{committer.unfinished} images did not come back; run again to go on")


def _counts(seen: Tally) -> dict[str, int]:
    return {"masks": seen.masks, "failed": seen.failed}


def _finish(
    target: Round,
    notes: ListingNotes,
    resources: Resources,
    started: float,
    replayed: Replayed,
    committer: Committer,
    status: str,
) -> RunSummary:
    """The run's entry in the round's record, and what the caller gets."""
    summary = RunSummary(
        run_id=committer.run_id,
        output=target.folder.uri,
        round=target.number,
        shard=str(target.shard) if target.shard else None,
        status=status,
        seconds=time.time() - started,
        total_images=Round(target.folder, target.number).committed().num_rows,
        listing=notes.as_dict(),
        replayed=replayed,
        tally=committer.tally,
    )
    before = of_shard((target.read_record() or {}).get("runs", []), target.shard)
    if committer.tally.images:
        summary = replace(summary, fruitless_runs=fruitless_in_a_row([*before, summary.as_dict()]))
    entry = {
        "started": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
        "resources": asdict(resources),
    }
    target.add_run(summary.as_dict() | entry)
    return summary
