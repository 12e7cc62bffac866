"""Put parts of a round back otherwise, on Ray, one part a task."""

from collections.abc import Iterator
from typing import Any, Protocol

import pyarrow as pa

from pipeline.errors import RunError
from pipeline.progress import progress_bar
from pipeline.store.rounds import Round

ANSWER = "saved"  # the column of an answer that names the file to commit


class Rewrite(Protocol):
    """`rewrite_parts`, or the same on something else than Ray."""

    def __call__(
        self, target: Round, items: list[dict[str, Any]], work: Any, doing: str, quiet: bool, **options: Any
    ) -> Iterator[pa.Table]: ...


def rewrite_parts(
    target: Round, items: list[dict[str, Any]], work: Any, doing: str, quiet: bool, **options: Any
) -> Iterator[pa.Table]:
    """What `work` answers for each item, once its part is committed: a table of one row, whose `images` counts the
    part's and whose `saved` names the file with its new rows (null where none are left).

    `work` takes a table of one of the `part_items`; `options` are those of Ray's `map_batches`. Needs a running Ray,
    and that this process holds the round. Raises RunError where the work fails; the parts that are done stay so.
    """
    import ray.data
    from ray.exceptions import RayError

    images = 0
    with progress_bar(doing, len(items), "parts", quiet) as update:
        rewritten: Any = ray.data.from_items(items, override_num_blocks=len(items))
        rewritten = rewritten.map_batches(work, batch_size=1, batch_format="pyarrow", **options)
        try:
            for done, answer in enumerate(rewritten.iter_batches(batch_size=1, batch_format="pyarrow"), 1):
                target.commit({answer["part"][0].as_py(): answer[ANSWER][0].as_py()})
                images += answer["images"][0].as_py()
                update(done, f"{images:,} images")
                yield answer
        except RayError as error:
            reason = str(error).strip().splitlines()[-1]
            raise RunError(f"{doing} failed: {reason}; run the same command to go on") from error


def part_items(target: Round, parts: list[int]) -> list[dict[str, Any]]:
    """What a worker has to know of each part to read it, and to save its new rows for this process to commit."""
    files = target.files()
    return [{"part": part, "file": files[part], "epoch": target.epoch(part)} for part in parts]


def answer(item: dict[str, Any], saved: str | None, **columns: Any) -> pa.Table:
    """A worker's answer for one of `part_items`."""
    names = {"part": pa.array([item["part"]]), ANSWER: pa.array([saved], pa.string())}
    return pa.table(names | {name: pa.array([value]) for name, value in columns.items()})
