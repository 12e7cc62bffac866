"""Put parts of a round back otherwise, on Ray, one part a task."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from pipeline.errors import RunError
from pipeline.progress import progress_bar


def rewrite_parts(parts: list[int], work: Any, doing: str, quiet: bool, **options: Any) -> Iterator[pa.Table]:
    """What `work` answers for each part, as it is done: a table of one row, whose `images` counts the part's.

    `work` takes a table with the part's number as `id`; `options` are those of Ray's `map_batches`. Needs a running
    Ray. Raises RunError where the work fails; the parts that are done stay so.
    """
    import ray.data
    from ray.exceptions import RayError

    images = 0
    with progress_bar(doing, len(parts), "parts", quiet) as update:
        rewritten: Any = ray.data.from_items([{"id": part} for part in parts], override_num_blocks=len(parts))
        rewritten = rewritten.map_batches(work, batch_size=1, batch_format="pyarrow", **options)
        try:
            for done, answer in enumerate(rewritten.iter_batches(batch_size=1, batch_format="pyarrow"), 1):
                images += answer["images"][0].as_py()
                update(done, f"{images:,} images")
                yield answer
        except RayError as error:
            reason = str(error).strip().splitlines()[-1]
            raise RunError(f"{doing} failed: {reason}; run the same command to go on") from error
