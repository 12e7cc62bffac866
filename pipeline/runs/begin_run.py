"""What comes before a run's work: which round, whether it may be written with these settings, the lease, the record."""

import platform
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from pipeline.errors import store_failure
from pipeline.recipes.recipe import Recipe
from pipeline.runs.attempted import has_ended, of_shard
from pipeline.runs.fingerprint import Fingerprint, changes
from pipeline.sources.credentials import refuse_credentials_in
from pipeline.sources.places import RECORDED, absolute_places, input_places
from pipeline.store.find_rounds import engine_rounds, next_round
from pipeline.store.index import publish
from pipeline.store.lease import Lease, hold_lease
from pipeline.store.rounds import Round
from pipeline.store.shards import Shard
from pipeline.store.storage import Folder
from pipeline.video.recipe import VideoRecipe


@dataclass(frozen=True)
class Into:
    """A round that readers must not see yet, and what its record says besides."""

    target: Round
    notes: dict[str, Any]


def choose_round(folder: Folder, wanted: Fingerprint, new_round: bool, shard: Shard | None) -> Round:
    """The newest round that is not withheld, or with `new_round` the next one.

    A command with `new_round` that is given again goes on in the round that it began before, as long as no run of it
    has come to its end there. Of shards the first to come starts a round, and the others join it, as long as they have
    not been in it. Either is of the same settings.
    """
    numbers = engine_rounds(folder)
    newest = Round(folder, numbers[-1] if numbers else 0, shard)
    if not new_round or not numbers:
        return newest
    record = newest.read_record() or {}
    same = record.get("fingerprints") == wanted.links and record.get("shards") == _num_shards(newest)
    # the first round and those of a refresh were begun by other commands
    begun_so = newest.number > 0 and "refresh" not in record and not has_ended(of_shard(record.get("runs", []), shard))
    joined = shard is not None and not newest.has_begun()
    return newest if same and (begun_so or joined) else next_round(folder, shard)


def check_record(target: Round, wanted: Fingerprint) -> bool:
    """Whether the round has a record; ValueError if it was made differently than this run would."""
    record = target.read_record()
    if record is None:
        return False
    where = f"output: {target.folder.uri}/{target.name}"
    if "subset_of" in record:
        raise ValueError(f"{where} is a subset that a query wrote; choose another output")
    if "imported" in record:
        raise ValueError(f"{where} is an import; use `maskfoundry refresh` or another output")
    if record["fingerprints"]["generate"] != wanted.links["generate"]:
        changed = changes(record["settings"]["generate"], wanted.content["generate"])
        raise ValueError(
            f"{where} was made with other settings ({'; '.join(changed)}); "
            "use --new-round to start the next round, or another output"
        )
    if (
        record["fingerprints"]["filter"] != wanted.links["filter"]
        and not wanted.content["generate"]["generate.store_rejected"]
    ):
        changed = changes(record["settings"]["filter"], wanted.content["filter"])
        raise ValueError(
            f"{where} holds no rejected candidates (generate.store_rejected is false), so its filters cannot be "
            f"replayed ({'; '.join(changed)}); use --new-round, or another output"
        )
    if record.get("shards") != _num_shards(target):
        made = f"is written in {record['shards']} shards" if record.get("shards") else "is written without --shard"
        raise ValueError(f"{where} {made}, and stays so; do the same, use --new-round, or another output")
    return True


@contextmanager
def first_look(folder: Folder) -> Iterator[None]:
    """Raises ValueError when the output cannot even be looked at, and RunError when that may pass."""
    try:
        yield
    except OSError as error:
        remedy = "check its address, its permissions and, of a bucket, the credentials"
        raise store_failure(f"output: {folder.uri!r} cannot be read", error, remedy) from None


@contextmanager
def begin_run(
    target: Round, recipe: Recipe | VideoRecipe, wanted: Fingerprint, sha256: str, run_id: str, into: Into | None
) -> Iterator[Lease]:
    """Take the lease, then write the round's record and publish it (unless it goes `into` one that is withheld), so
    that a killed run is known by its fingerprint.

    Raises ValueError where the output cannot be written, and RunError where that may pass, as while another run is
    writing it.
    """
    with ExitStack() as stack:
        try:
            lease = stack.enter_context(hold_lease(target, run_id))
            if lost := target.forget_lost_parts():
                print(f"output: {', '.join(lost)} is gone; its images are annotated anew", file=sys.stderr)
            if not check_record(target, wanted):
                record = _new_record(target, recipe, wanted, sha256) | (into.notes if into else {})
                if not target.create_record(record):
                    check_record(target, wanted)  # another shard's, a moment ago
            if into is None:  # also one that was killed before it came to this
                publish(target.folder, target.number)
        except OSError as error:
            what = f"output: {target.folder.uri!r} cannot be written"
            raise store_failure(what, error, "check its permissions and its free space") from None
        yield lease


def _new_record(target: Round, recipe: Recipe | VideoRecipe, wanted: Fingerprint, sha256: str) -> dict[str, Any]:
    refuse_credentials_in(recipe.model_dump(mode="json"))
    packages = ("maskfoundry", "torch", "ray", "pyarrow", "pillow")
    return {
        "round": target.number,
        "fingerprints": wanted.links,
        "settings": wanted.content,
        "recipe": recipe.model_dump(mode="json"),
        "weights": {"checkpoint": recipe.model.checkpoint, "sha256": sha256},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        RECORDED: [*input_places(recipe.input), *absolute_places(getattr(recipe, "allow", ()))],
        "shards": _num_shards(target),
        "runs": [],
    }


def _num_shards(target: Round) -> int | None:
    return target.shard.count if target.shard else None
