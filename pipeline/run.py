"""One run: list, plan what is left, stream it through the graph, commit chunk by chunk."""

import platform
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from models.weights import load_sam
from pipeline.chunks import Plan, plan_chunks
from pipeline.commit import Committer, Tally
from pipeline.errors import RunError
from pipeline.fingerprint import Fingerprint, changes, fingerprint
from pipeline.graph import build_graph
from pipeline.lease import Lease, hold_lease
from pipeline.listing import list_images
from pipeline.progress import progress_bar
from pipeline.ray_runtime import connected_ray
from pipeline.recipe import Recipe
from pipeline.replay import Replayed, replay_round
from pipeline.resources import Resources, resolve_resources
from pipeline.rounds import Round, publish, read_index, round_numbers
from pipeline.storage import Folder


@dataclass(frozen=True)
class RunSummary:
    """What one run did. `total_images` counts the whole round, earlier runs included."""

    run_id: str
    output: str
    round: int
    status: str
    seconds: float
    total_images: int
    replayed: Replayed
    tally: Tally

    def as_dict(self) -> dict[str, Any]:
        plain = {name: value for name, value in vars(self).items() if name not in ("tally", "replayed")}
        return plain | {"replayed": asdict(self.replayed)} | self.tally.as_dict()


def run(recipe: Recipe, retry_failed: bool = False, new_round: bool = False, quiet: bool = False) -> RunSummary:
    """Write (or go on with) a round of the dataset at `recipe.output`.

    Raises ValueError for wrong input or configuration before anything is written, and RunError when the graph fails;
    what was committed by then stays, and the same call goes on from there.
    """
    started = time.time()
    listing = list_images(recipe.input, recipe.include, recipe.exclude)
    # loaded here once as well, so that a wrong checkpoint is one line now and not a failed actor later
    _, sha256 = load_sam(recipe.model.checkpoint, recipe.model.image_size)
    mark = fingerprint(recipe, sha256)
    folder = Folder(recipe.output)
    read_index(folder)
    target = _choose_round(folder, new_round)
    record = _check_record(target, mark)
    run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:8]}"
    num_cpus = None if recipe.resources.num_cpus == "auto" else recipe.resources.num_cpus
    with ExitStack() as stack:
        nodes = stack.enter_context(connected_ray(recipe.ray.address, num_cpus))
        resources = resolve_resources(recipe.resources, nodes)
        lease = stack.enter_context(_begin(target, record, recipe, mark, sha256, run_id))
        replayed = replay_round(target, recipe.filter, mark.links, quiet)
        plan = plan_chunks(listing, target.committed(), recipe.run.commit_every, retry_failed)
        committer = Committer(target, run_id, mark.links)
        status = "failed"
        try:
            with _interruptible():
                _stream(recipe, resources, plan, committer, lease, quiet)
            status = "done"
        except KeyboardInterrupt:
            committer.commit_unfinished()
            status = "interrupted"
        finally:
            summary = RunSummary(
                run_id=run_id,
                output=recipe.output,
                round=target.number,
                status=status,
                seconds=time.time() - started,
                total_images=target.committed().num_rows,
                replayed=replayed,
                tally=committer.tally,
            )
            _finish(target, summary, resources, started)
    return summary


def _choose_round(folder: Folder, new_round: bool) -> Round:
    numbers = round_numbers(folder)
    newest = numbers[-1] if numbers else 0
    return Round(folder, newest + 1 if new_round and numbers else newest)


def _check_record(target: Round, mark: Fingerprint) -> dict[str, Any] | None:
    """The round's record; ValueError if its candidates were made differently."""
    record = target.read_record()
    if record is None:
        return None
    if record["fingerprints"]["generate"] != mark.links["generate"]:
        changed = changes(record["settings"]["generate"], mark.content["generate"])
        raise ValueError(
            f"output: {target.folder.uri}/{target.name} was made with other settings ({'; '.join(changed)}); "
            "use --new-round to start the next round, or another output"
        )
    if (
        record["fingerprints"]["filter"] != mark.links["filter"]
        and not mark.content["generate"]["generate.store_rejected"]
    ):
        changed = changes(record["settings"]["filter"], mark.content["filter"])
        raise ValueError(
            f"output: {target.folder.uri}/{target.name} holds no rejected candidates (generate.store_rejected is "
            f"false), so its filters cannot be replayed ({'; '.join(changed)}); use --new-round, or another output"
        )
    return record


@contextmanager
def _begin(
    target: Round, record: dict[str, Any] | None, recipe: Recipe, mark: Fingerprint, sha256: str, run_id: str
) -> Iterator[Lease]:
    """Take the lease, then write the round's record and publish it, so that a killed run is known by its fingerprint.

    Raises ValueError where the output cannot be written or another run is writing it.
    """
    with ExitStack() as stack:
        try:
            lease = stack.enter_context(hold_lease(target, run_id))
            target.folder.remove_temporary(target.name)
            target.finish_merge()
            if record is None:
                target.write_record(_new_record(target, recipe, mark, sha256))
                publish(target.folder, target.number)
        except OSError as error:
            where = target.folder.uri
            raise ValueError(f"output: {where!r} cannot be written ({error}); check its permissions") from None
        yield lease


def _new_record(target: Round, recipe: Recipe, mark: Fingerprint, sha256: str) -> dict[str, Any]:
    packages = ("maskfoundry", "torch", "ray", "pyarrow", "pillow")
    return {
        "round": target.number,
        "fingerprints": mark.links,
        "settings": mark.content,
        "recipe": recipe.model_dump(mode="json"),
        "weights": {"checkpoint": recipe.model.checkpoint, "sha256": sha256},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "runs": [],
    }


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM, which a spot machine sends before it goes, ends a run like Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _stream(recipe: Recipe, resources: Resources, plan: Plan, committer: Committer, lease: Lease, quiet: bool) -> None:
    from ray.exceptions import RayError

    total = plan.num_images
    if total == 0:
        return
    with progress_bar("annotating", total, "images", quiet) as update:
        try:
            for chunks in plan.in_groups(resources.sam_actors):
                committer.expect(chunks)
                graph = build_graph(recipe, resources, chunks, committer.target.number)
                for rows in graph.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
                    committer.add(rows)
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


def _finish(target: Round, summary: RunSummary, resources: Resources, started: float) -> None:
    record = target.read_record()
    assert record is not None, "the record was written when the run began"
    entry = summary.as_dict() | {
        "started": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
        "resources": asdict(resources),
    }
    target.write_record(record | {"runs": [*record["runs"], entry]})
