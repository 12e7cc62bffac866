"""A cluster that may grow, or that others work on: what a run asks of it beyond what is there and free."""

import sys
import time

from pipeline.recipes.recipe import Recipe
from pipeline.runs.ray_runtime import Node, live_nodes
from pipeline.runs.resources import Resources, resolve_resources
from pipeline.video.recipe import VideoRecipe

SETTLE_SECONDS = 2.0  # after which the cluster knows that something has ended
WAIT_SECONDS = 900.0  # for a first machine: clouds need minutes to start one with a GPU, and its image


def resources_for(recipe: Recipe | VideoRecipe, nodes: list[Node]) -> Resources:
    """`resolve_resources` for the nodes that there are; on an existing cluster numbers in the recipe may ask for more,
    which an autoscaler goes by. Says on stderr what the run will wait for.

    Raises ValueError when the recipe asks for more than the machines have, or than a cluster starts in WAIT_SECONDS.
    """
    settings, tagging = recipe.resources, recipe.tag is not None
    if recipe.ray.address is None:
        return resolve_resources(settings, nodes, tagging)
    gpus = settings.gpus_per_actor
    if gpus != "auto" and gpus and not any(node.num_gpus >= gpus for node in nodes):
        _wait_for_machine(gpus)
        nodes = live_nodes()
    resources = resolve_resources(settings, nodes, tagging, may_grow=True)
    _say_what_is_taken(resources)
    return resources


def _wait_for_machine(gpus: float) -> None:
    import ray

    print(f"waiting for a machine with {gpus:g} GPUs, of which the cluster has none yet", file=sys.stderr)
    waiting = ray.remote(num_cpus=0, num_gpus=gpus)(_nothing).remote()  # by which an autoscaler knows
    ready, _ = ray.wait([waiting], timeout=WAIT_SECONDS)
    if not ready:
        ray.cancel(waiting)
        raise ValueError(
            f"resources.gpus_per_actor: {gpus:g} asked, and no such machine came in {WAIT_SECONDS / 60:.0f} minutes; "
            "see `ray status`, or set 0 to run on the CPU"
        )


def _nothing() -> None:
    pass


def _say_what_is_taken(resources: Resources) -> None:
    import ray

    kind, each = ("GPU", resources.gpus_per_actor) if resources.gpus_per_actor else ("CPU", resources.cpus_per_actor)
    asked = each * resources.sam_actors
    deadline = time.monotonic() + SETTLE_SECONDS
    while (free := ray.available_resources().get(kind, 0.0)) + 0.01 < asked:
        if time.monotonic() > deadline:
            print(
                f"the models ask for {asked:g} {kind}s, of which the cluster has {free:g} free: some wait until it "
                "grows or other work ends",
                file=sys.stderr,
            )
            return
        time.sleep(0.2)
