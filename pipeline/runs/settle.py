"""What `auto` means on the machines at hand, where it decides a result and so must be known before the fingerprint."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from models.precision import Precision, resolve_precision
from pipeline.recipes.recipe import Recipe
from pipeline.runs.growing import resources_for
from pipeline.runs.ray_runtime import connected_ray
from pipeline.video.recipe import VideoRecipe

AnyRecipe = TypeVar("AnyRecipe", Recipe, VideoRecipe)


@contextmanager
def settled(recipe: AnyRecipe) -> Iterator[AnyRecipe]:
    """The recipe with `generate.precision: auto` replaced by what the hardware of a worker is made for; Ray, which
    finds that worker, stays connected meanwhile. Other recipes come back as they are, and no Ray is started for them.

    Raises ValueError when the recipe asks for more than the machines have.
    """
    if recipe.generate.precision != "auto":
        yield recipe
        return
    num_cpus = None if recipe.resources.num_cpus == "auto" else recipe.resources.num_cpus
    with connected_ray(recipe.ray.address, num_cpus) as nodes:
        import ray

        resources = resources_for(recipe, nodes)
        ask = ray.remote(num_cpus=0, num_gpus=resources.gpus_per_actor)(_precision)
        precision: Precision = ray.get(ask.remote(resources.device))
        yield recipe.model_copy(update={"generate": recipe.generate.model_copy(update={"precision": precision})})


def _precision(device: str) -> Precision:
    return resolve_precision("auto", torch.device(device))
