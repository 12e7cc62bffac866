"""`maskfoundry refresh`: the next round of a dataset, from new weights, published only through the gate."""

import time
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from models.weight_files import read_metadata
from models.weights import CheckpointError, load_sam
from pipeline.dataset import Dataset, open_dataset
from pipeline.errors import RunError
from pipeline.loop.carry import carry_round
from pipeline.loop.churn import Churn
from pipeline.loop.gate import Measured, Verdict, judge, measure
from pipeline.loop.settings import GateSettings
from pipeline.queries.query import query
from pipeline.recipes.load_recipe import apply_overrides, validate_recipe
from pipeline.recipes.recipe import Recipe
from pipeline.runs.begin_run import Into
from pipeline.runs.fingerprint import fingerprint
from pipeline.runs.known_ids import with_known_ids
from pipeline.runs.ray_runtime import connected_ray
from pipeline.runs.resolve import ResolvedRun, resolve
from pipeline.runs.run import Listed, run_resolved
from pipeline.runs.settle import settled
from pipeline.sources.listing import list_images
from pipeline.sources.listing_schema import LISTING, listing_table
from pipeline.sources.notes import ListingNotes
from pipeline.store.find_rounds import next_round, round_numbers
from pipeline.store.index import publish, read_index, withhold
from pipeline.store.lease import hold_lease, live_leases
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder

IMAGES = "SELECT image_id, uri, prompts_hash, extra FROM images"


@dataclass(frozen=True)
class RefreshPlan:
    """What is asked for: weights for the images of `dataset` (those with a mask for which `where` holds). `recipe` is a
    run's recipe as plain values, by default the newest round's own; `overrides` are `field=value` on top of it."""

    dataset: str
    checkpoint: str
    gate: GateSettings
    where: str | None = None
    recipe: dict[str, Any] | None = None
    overrides: tuple[str, ...] = ()
    other_sizes: bool = False


@dataclass(frozen=True)
class RefreshSummary:
    """`status`: `published`, `refused` (by the gate; nothing was annotated then, and `round` is None), `interrupted`
    `unchanged` (these weights are what readers see already) or `taken_back` (somebody rolled that round back)."""

    dataset: str
    status: str
    round: int | None
    images: int
    failed: int
    masks: int
    churn: dict[str, Any] | None
    gate: dict[str, Any]
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def refresh(plan: RefreshPlan, quiet: bool = False) -> RefreshSummary:
    """Measures the new weights first; if they pass, annotates the images into a round that readers do not see, carries
    people's masks over, counts the churn, and publishes. The same call goes on where a killed one stopped.

    Raises ValueError for wrong input before anything is written, and RunError when the run fails.
    """
    started = time.time()
    folder = Folder(plan.dataset)
    base = newest_published(folder)
    made = _newest_made(folder)
    old_recipe, recipe = _recipes(plan, base, made)
    with settled(recipe) as recipe:
        return _refresh(plan, base, made, old_recipe, resolve(recipe), started, quiet)


def _refresh(
    plan: RefreshPlan,
    base: Round,
    made: Round | None,
    old_recipe: Recipe | None,
    resolved: ResolvedRun,
    started: float,
    quiet: bool,
) -> RefreshSummary:
    folder, recipe = base.folder, resolved.recipe
    links = fingerprint(resolved).links
    done = _already_published(base, plan, links)
    if done is not None:
        return _summary(plan, started, "unchanged", base.number, done["churn"], done["gate"])
    undone = _taken_back(folder, base, plan, links)
    if undone is not None:
        gate = (undone.read_record() or {})["refresh"]["gate"]
        return _summary(plan, started, "taken_back", undone.number, None, gate)
    if made is not None and old_recipe is not None and not plan.other_sizes:
        _check_sizes(recipe, made.number, old_recipe)
    listing = _listing(open_dataset(plan.dataset), plan.where, old_recipe)
    before, after, verdict = _measure(plan, made, old_recipe, resolved, quiet)
    if made is not None and before is not None:
        _remember(made, before)
    if not verdict.passed:
        return _summary(plan, started, "refused", None, None, verdict.as_dict())
    target = _target(folder, base, plan, links)
    notes = {
        "evaluation": asdict(after),
        "refresh": {
            "of": base.number,
            "where": plan.where,
            "trained_on": _training_data(plan.checkpoint),
            "gate": verdict.as_dict(),
        },
    }
    withhold(folder, target.number)
    ran = run_resolved(resolved, Listed(listing, ListingNotes()), quiet=quiet, into=Into(target, notes))
    if ran.status != "done":
        return _summary(plan, started, ran.status, target.number, None, verdict.as_dict())
    if ran.tally.images and ran.tally.failed == ran.tally.images:
        raise RunError(f"all {ran.tally.images} images failed, so round {target.number} stays unpublished")
    with hold_lease(target, "refresh"), connected_ray(recipe.ray.address):
        churn = carry_round(open_dataset(plan.dataset), target, quiet)
        record = target.read_record()
        assert record is not None, "the run wrote it"
        record |= {k: v for k, v in notes.items() if k != "refresh"}
        record["refresh"] = notes["refresh"] | {"churn": churn.as_dict()}
        target.write_record(record)
        publish(folder, target.number)
    return _summary(plan, started, "published", target.number, churn.as_dict(), verdict.as_dict(), ran.tally.failed)


def newest_published(folder: Folder) -> Round:
    """What readers see. Raises ValueError if there is none, or if a run is still writing it."""
    present = round_numbers(folder)
    published = [number for number in read_index(folder).published if number in present]
    if not published:
        raise ValueError(f"dataset: {folder.uri!r} holds no published round; give the folder that a run wrote")
    newest = Round(folder, published[-1])
    if live := live_leases(newest):
        raise ValueError(
            f"dataset: {folder.uri}/{newest.name} is still being written by run {live[0]['run_id']} "
            f"(process {live[0]['pid']} on {live[0]['host']}); wait for it to end"
        )
    return newest


def _newest_made(folder: Folder) -> Round | None:
    """The newest published round that a model made, not an import."""
    rounds = [Round(folder, number) for number in reversed(read_index(folder).published)]
    return next((one for one in rounds if "recipe" in (one.read_record() or {})), None)


def _recipes(plan: RefreshPlan, base: Round, made: Round | None) -> tuple[Recipe | None, Recipe]:
    """How the newest round that a model made was made, if there is one, and how the next one is."""
    record = (made.read_record() if made else None) or {}
    old = validate_recipe(record["recipe"]) if made else None
    if old is None and plan.recipe is None:
        raise ValueError(f"recipe: round {base.number} of {plan.dataset!r} names none (it is an import); add --recipe")
    content = dict(plan.recipe if plan.recipe is not None else record["recipe"])
    content |= {"output": plan.dataset}
    if plan.recipe is None:
        content["allow"] = []  # what a record allows counts as far as `dataset_places` lets it
    content.setdefault("input", plan.dataset)
    apply_overrides(content, list(plan.overrides))
    content["model"] = {**content.get("model", {}), "checkpoint": plan.checkpoint}
    return old, validate_recipe(content)


def _check_sizes(new: Recipe, number: int, old: Recipe) -> None:
    checkpoint = new.model.checkpoint
    sizes = load_sam(checkpoint, new.model.image_size)[0].config
    try:
        before = load_sam(old.model.checkpoint, old.model.image_size)[0].config
    except CheckpointError:
        return  # the gate says so, unless it knows that round's figures
    for name, value in vars(before).items():
        if getattr(sizes, name) != value:
            raise ValueError(
                f"checkpoint: {checkpoint} has {name} {getattr(sizes, name)}, the weights of round {number} have "
                f"{value}; choose weights of the same sizes, or add --other-sizes"
            )


def _listing(dataset: Dataset, where: str | None, old: Recipe | None) -> pa.Table:
    """The dataset's images as a listing; `where` leaves those with a mask for which it holds."""
    chosen = "" if where is None else f" WHERE image_id IN (SELECT image_id FROM masks WHERE ({where}\n))"
    rows, _ = query(dataset, f"{IMAGES}{chosen} ORDER BY image_id")
    if rows.num_rows == 0:
        lacks = "image" if where is None else f"mask for which {where!r} is true"
        raise ValueError(f"where: {dataset.uri!r} holds no {lacks}; choose another predicate, or leave it out")
    if old is None or rows["prompts_hash"].null_count == rows.num_rows:
        return listing_table(
            rows.num_rows, {name: rows[name].cast(LISTING.field(name).type) for name in ("image_id", "uri", "extra")}
        )
    # a manifest's own prompts are not in the dataset
    for source in [old.input] if isinstance(old.input, str) else old.input:
        dataset.picture_places.check(source)
    listed = with_known_ids(list_images(old.input, old.include, old.exclude), Folder(dataset.uri), ListingNotes())
    return listed.filter(pc.is_in(listed["image_id"], value_set=rows["image_id"].combine_chunks()))


def _measure(
    plan: RefreshPlan, made: Round | None, old: Recipe | None, new: ResolvedRun, quiet: bool
) -> tuple[Measured | None, Measured, Verdict]:
    record = (made.read_record() if made else None) or {}
    before = None
    if old is not None:
        model = record["fingerprints"]["filter"]
        before = measure(old, record["weights"]["sha256"], model, plan.gate, record.get("evaluation"), quiet)
    after = measure(new.recipe, new.weights.sha256, fingerprint(new).links["filter"], plan.gate, None, quiet)
    return before, after, judge(before, after, plan.gate)


def _remember(base: Round, before: Measured) -> None:
    """So that the next refresh need not measure the same weights again."""
    record = base.read_record()
    if record is not None and record.get("evaluation") != asdict(before):
        base.write_record(record | {"evaluation": asdict(before)})


def _target(folder: Folder, base: Round, plan: RefreshPlan, links: dict[str, str]) -> Round:
    """The withheld round that the same call began, if it is the last one; else a new one."""
    following = next_round(folder)
    last = Round(folder, following.number - 1)
    index = read_index(folder)
    unfinished = last.number in index.withheld and last.number not in index.taken_back
    return last if unfinished and _is_of(last, base, plan, links) else following


def _taken_back(folder: Folder, base: Round, plan: RefreshPlan, links: dict[str, str]) -> Round | None:
    """The round that the same call has published before and that somebody took back since: that stands."""
    rounds = [Round(folder, number) for number in read_index(folder).taken_back]
    return next((one for one in reversed(rounds) if _is_of(one, base, plan, links)), None)


def _is_of(made: Round, base: Round, plan: RefreshPlan, links: dict[str, str]) -> bool:
    record = made.read_record() or {}
    begun = record.get("refresh", {})
    same = (begun.get("of"), begun.get("where")) == (base.number, plan.where)
    return same and record["fingerprints"]["generate"] == links["generate"]


def _already_published(base: Round, plan: RefreshPlan, links: dict[str, str]) -> dict[str, Any] | None:
    record = base.read_record() or {}
    done = record.get("refresh")
    if not done or done["where"] != plan.where or any(record["fingerprints"].get(k) != v for k, v in links.items()):
        return None
    return dict(done)


def _training_data(checkpoint: str) -> str | None:
    """The fingerprint of what the weights were trained on, where they carry one."""
    try:
        return read_metadata(checkpoint).get("training_data")
    except CheckpointError:
        return None


def _summary(
    plan: RefreshPlan,
    started: float,
    status: str,
    number: int | None,
    churn: dict[str, Any] | None,
    gate: dict[str, Any],
    failed: int = 0,
) -> RefreshSummary:
    counted = churn or Churn().as_dict()
    return RefreshSummary(
        dataset=plan.dataset,
        status=status,
        round=number,
        images=counted["images"],
        failed=failed,
        masks=counted["kept"] + counted["changed"] + counted["new"],
        churn=churn,
        gate=gate,
        seconds=time.time() - started,
    )
