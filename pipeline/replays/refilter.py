"""`maskfoundry filter`: the newest round with other filter settings."""

from typing import Any

import pyarrow.compute as pc

from models.pinned_weights import PinnedWeights
from pipeline.recipes.load_recipe import apply_overrides, validate_recipe
from pipeline.replays.relabel import relabel_round
from pipeline.replays.replay import replay_round
from pipeline.runs.fingerprint import changes, fingerprint
from pipeline.runs.ray_runtime import connected_ray
from pipeline.runs.resolve import resolve_labels_of
from pipeline.runs.resources import resolve_resources
from pipeline.sources.places import dataset_places
from pipeline.store.find_rounds import engine_rounds
from pipeline.store.lease import hold_lease
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder


def refilter(dataset: str, overrides: list[str], quiet: bool) -> dict[str, Any]:
    """Replay the filters of the dataset's own recipe with `overrides` such as `filter.pred_iou_thresh=0.9`,
    on the Ray and the resources that the run had unless they say otherwise.

    Raises ValueError if there is no dataset, if an override is no filter setting, or if the settings need candidates
    that were not stored.
    """
    folder = Folder(dataset)
    numbers = engine_rounds(folder)
    record = Round(folder, numbers[-1]).read_record() if numbers else None
    if record is None:
        raise ValueError(f"dataset: {dataset!r} holds no rounds; give the folder that a run wrote")
    if "subset_of" in record:
        raise ValueError(f"dataset: {dataset!r} is a subset without the rejected candidates; filter what it is of")
    if "imported" in record:
        raise ValueError(f"dataset: {dataset!r} is an import without candidates; there is nothing to filter")
    for override in overrides:
        if not override.startswith(("filter.", "ray.", "resources.")):
            raise ValueError(f"-o {override!r}: only filter.… can be replayed; other settings need `maskfoundry run`")
    content = record["recipe"]
    apply_overrides(content, overrides)
    recipe = validate_recipe(content)
    resolved = resolve_labels_of(recipe, PinnedWeights(recipe.model.checkpoint, record["weights"]["sha256"]))
    wanted = fingerprint(resolved)
    if wanted.links["filter"] != record["fingerprints"]["filter"] and not recipe.generate.store_rejected:
        raise ValueError(
            f"dataset: {dataset!r} holds no rejected candidates (generate.store_rejected was false), so its filters "
            "cannot be replayed; use `maskfoundry run --new-round`"
        )
    if wanted.links["generate"] != record["fingerprints"]["generate"]:
        changed = changes(record["settings"]["generate"], wanted.content["generate"])
        raise ValueError(
            f"filter: needs candidates below generate.store_floor, which were not stored ({'; '.join(changed)}); "
            "raise the thresholds or use `maskfoundry run --new-round`"
        )
    target = Round(folder, numbers[-1])
    with hold_lease(target, "filter"), connected_ray(recipe.ray.address) as nodes:
        resources = resolve_resources(recipe.resources, nodes, tagging=recipe.tag is not None)
        replayed = replay_round(target, recipe.filter, wanted.links, quiet)
        relabel_round(target, resolved, wanted, resources, quiet, dataset_places(dataset))
    kept = [pc.sum(_keeps(target, part)).as_py() or 0 for part in target.parts()]
    return {
        "dataset": dataset,
        "round": target.number,
        "replayed_images": replayed.images,
        "cut_short": replayed.cut_short,
        "masks": sum(kept),
    }


def _keeps(target: Round, part: int) -> Any:
    masks = target.read_part(part, ["masks"])["masks"].combine_chunks()
    return pc.struct_field(masks.flatten(), "keep")
