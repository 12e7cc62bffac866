"""The graph: listing → decode → SAM → filter, streamed through Ray Data with backpressure."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from pipeline.chunks import Chunk
from pipeline.recipe import Recipe
from pipeline.resources import Resources
from stages.decode_image import DecodeImages
from stages.filter_masks import FilterMasks, StoredScores
from stages.generate_masks import GenerateMasks

ROWS_PER_BLOCK = 8  # few enough that every actor finds work and decoded images stay a small part of memory
TASK_CPUS = 0.5  # of decoding and filtering: both are brief beside the model


def build_graph(recipe: Recipe, resources: Resources, chunks: list[Chunk], round_number: int) -> Any:
    """The Ray Dataset whose rows are finished image rows, each with the `part` it belongs to, in no order."""
    import ray.data
    from ray.data import ActorPoolStrategy

    batches: dict[str, Any] = {"batch_format": "pyarrow", "zero_copy_batch": True}
    return (
        ray.data.from_arrow(list(_blocks(chunks)))
        .map_batches(DecodeImages(recipe.decode), batch_size=1, num_cpus=TASK_CPUS, **batches)
        .map_batches(
            GenerateMasks,
            fn_constructor_kwargs={
                "checkpoint": recipe.model.checkpoint,
                "image_size": recipe.model.image_size,
                "settings": recipe.generate,
                "min_predicted_iou": recipe.min_predicted_iou,
                "min_stability": recipe.min_stability,
                "points_per_batch": resources.points_per_batch,
                "crops_per_batch": resources.crops_per_batch,
                "device": resources.device,
                "num_threads": resources.threads_per_actor,
                "round_number": round_number,
            },
            compute=ActorPoolStrategy(size=resources.sam_actors),
            batch_size=resources.images_per_batch,
            num_cpus=resources.cpus_per_actor,
            num_gpus=resources.gpus_per_actor,
            **batches,
        )
        .map_batches(FilterMasks(recipe.filter, _stored(recipe)), batch_size=None, num_cpus=TASK_CPUS, **batches)
    )


def _stored(recipe: Recipe) -> StoredScores:
    floor = recipe.generate.store_floor if recipe.generate.store_rejected else None
    return StoredScores(floor, recipe.min_predicted_iou)


def _blocks(chunks: list[Chunk]) -> Iterator[pa.Table]:
    for chunk in chunks:
        images = chunk.images.append_column("part", pa.array([chunk.part] * chunk.images.num_rows, pa.int32()))
        for start in range(0, images.num_rows, ROWS_PER_BLOCK):
            yield images.slice(start, ROWS_PER_BLOCK)
