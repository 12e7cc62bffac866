"""The graph: listing → decode → SAM → filter → tag → caption → rank, streamed through Ray Data with backpressure."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline.recipes.recipe import Recipe
from pipeline.runs.chunks import Chunk
from pipeline.runs.resolve import ResolvedRun
from pipeline.runs.resources import TASK_CPUS, Resources
from stages.allowed_places import AllowedPlaces
from stages.attempts import Attempts
from stages.caption_masks import CaptionMasks
from stages.decode_image import DecodeImages
from stages.filter_masks import FilterMasks, StoredScores
from stages.generate_masks import GenerateMasks
from stages.near_duplicates import NearDuplicates
from stages.rank_masks import RankMasks
from stages.tag_masks import TagMasks

if TYPE_CHECKING:
    from pipeline.runs.in_flight import Window

MAX_ROWS_PER_BLOCK = 8  # so that decoded images in flight stay a small part of memory
# Next to nothing, so that it fits beside decoding: with an equal share, decoding takes every slot that comes free, and
# no image is finished before the last one is decoded.
FILTER_CPUS = 0.01
TAG_CPUS = 0.01  # and as much for captions and for ranking


def build_graph(
    resolved: ResolvedRun,
    resources: Resources,
    chunks: list[Chunk],
    round_number: int,
    attempts: Attempts,
    duplicates: NearDuplicates | None,
    places: AllowedPlaces,
) -> tuple[Any, "Window"]:
    """The Ray Dataset whose rows are finished image rows, each with the `part` it belongs to, in no order; and the
    window that must be told how many of them are committed. Images outside of `places` fail unread."""
    import ray.data
    from ray.data import ActorPoolStrategy, TaskPoolStrategy

    from pipeline.runs.in_flight import Window, max_in_flight

    recipe = resolved.recipe
    batches: dict[str, Any] = {"batch_format": "pyarrow", "zero_copy_batch": True}
    decode = DecodeImages(
        recipe.decode, attempts, recipe.run.decode_timeout, duplicates, recipe.dedup == "skip", places
    )
    blocks = list(_blocks(chunks, resources))
    dataset = (
        ray.data.from_blocks(blocks)
        .map_batches(decode, batch_size=1, num_cpus=TASK_CPUS - FILTER_CPUS - 3 * TAG_CPUS, **batches)
        .map_batches(
            GenerateMasks,
            fn_constructor_kwargs=_generator(resolved, resources, round_number, attempts),
            compute=ActorPoolStrategy(size=min(resources.sam_actors, len(blocks))),
            batch_size=resources.images_per_batch,
            num_cpus=resources.cpus_per_actor,
            num_gpus=resources.gpus_per_actor,
            **batches,
        )
        .map_batches(
            FilterMasks(recipe.filter, _stored(recipe)),
            compute=TaskPoolStrategy(size=resources.filter_tasks),
            batch_size=None,
            num_cpus=FILTER_CPUS,
            **batches,
        )
    )
    dataset = _named(dataset, resolved, resources, len(blocks), batches)
    window = Window([block.num_rows for block in blocks], max_in_flight(chunks, resources.sam_actors))
    window.bind(dataset)
    return dataset, window


def _generator(resolved: ResolvedRun, resources: Resources, round_number: int, attempts: Attempts) -> dict[str, Any]:
    recipe = resolved.recipe
    return {
        "weights": resolved.weights,
        "image_size": recipe.model.image_size,
        "settings": recipe.generate,
        "min_predicted_iou": recipe.min_predicted_iou,
        "min_stability": recipe.min_stability,
        "points_per_batch": resources.points_per_batch,
        "crops_per_batch": resources.crops_per_batch,
        "device": resources.device,
        "num_threads": resources.threads_per_actor,
        "compiled": recipe.resources.compile,
        "round_number": round_number,
        "attempts": attempts,
        "image_timeout": recipe.run.image_timeout,
        "keep_pixels": recipe.tag is not None,
        "text_token": resolved.prompt and resolved.prompt.token,
    }


def _named(dataset: Any, resolved: ResolvedRun, resources: Resources, num_blocks: int, batches: dict[str, Any]) -> Any:
    """The graph's last stages, tags, captions and the order of the masks, where the recipe asks for them."""
    from ray.data import ActorPoolStrategy, TaskPoolStrategy

    labels, direction = resolved.labels, resolved.direction
    if labels is None:
        return dataset
    shared: dict[str, Any] = {
        "tagging": labels.tagging,
        "device": resources.device,
        "num_threads": resources.threads_per_actor,
    }
    pool: dict[str, Any] = {"batch_size": resources.tag_images, "num_cpus": TAG_CPUS, **batches}
    size = min(resources.tag_actors, num_blocks)
    stored = labels.tagging.settings.store_embeddings
    features = stored or labels.captioning is not None or direction is not None
    tag = {"views_per_batch": resources.views_per_batch, "keep_features": features}
    dataset = dataset.map_batches(
        TagMasks,
        fn_constructor_kwargs=shared | tag,
        compute=ActorPoolStrategy(size=size),
        num_gpus=resources.tag_gpus,
        **pool,
    )
    if labels.captioning is not None:
        features = stored or direction is not None
        caption = {"captioning": labels.captioning, "keep_features": features}
        dataset = dataset.map_batches(
            CaptionMasks,
            fn_constructor_kwargs=shared | caption,
            compute=ActorPoolStrategy(size=size),
            num_gpus=resources.caption_gpus,
            **pool,
        )
    if direction is not None:
        dataset = dataset.map_batches(
            RankMasks(direction, keep_features=stored),
            compute=TaskPoolStrategy(size=resources.filter_tasks),
            batch_size=None,
            num_cpus=TAG_CPUS,
            **batches,
        )
    return dataset


def _stored(recipe: Recipe) -> StoredScores:
    floor = recipe.generate.store_floor if recipe.generate.store_rejected else None
    return StoredScores(floor, recipe.min_predicted_iou)


def _blocks(chunks: list[Chunk], resources: Resources) -> Iterator[pa.Table]:
    """Input blocks within chunks, small enough that every actor finds work to the end of a short run."""
    total = sum(chunk.images.num_rows for chunk in chunks)
    num_rows = max(1, min(MAX_ROWS_PER_BLOCK, total // (8 * resources.sam_actors)))
    for chunk in chunks:
        images = chunk.images.append_column("part", pa.array([chunk.part] * chunk.images.num_rows, pa.int32()))
        for start in range(0, images.num_rows, num_rows):
            yield images.slice(start, num_rows)
