"""The steps of one sitting in one process: logged, shown, and saved now and then."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from models.training.optim import NonFiniteLossError
from pipeline.errors import TrainingError
from pipeline.progress import progress_bar
from pipeline.training.data import Batch, prefetch
from pipeline.training.files import MetricsLog


def sitting(first: int, num_steps: int, stop_after: int | None) -> range:
    """The steps to do now, from `first` on; none where all are done."""
    return range(first, num_steps if stop_after is None else min(num_steps, first + stop_after))


def run_steps(
    folder: Path,
    steps: range,
    num_steps: int,
    checkpoint_every: int,
    source: Callable[[int], Batch],
    step: Callable[[int, Batch], dict[str, Any]],
    save: Callable[[int], None],
    quiet: bool,
) -> dict[str, Any]:
    """Does `steps`, of `num_steps` in all, and returns the last one's row of metrics, {} where there is none.

    `source` makes a step's data by its number, in a thread and ahead; `step` does one with them, and its row has a
    `step` and a `loss`. `save` is called with the number of steps done, after every `checkpoint_every` and at the end.
    Raises TrainingError when a loss is no number, and what `source` raises; what was saved last stays.
    """
    log = MetricsLog(folder, steps.start)
    row: dict[str, Any] = {}
    try:
        with progress_bar("training", num_steps, "steps", quiet) as update, closing(prefetch(source, steps)) as made:
            for number, batch in made:
                row = step(number, batch)
                log.write(row)
                done = number + 1
                update(done, f"loss {row['loss']:.3f}")
                if done % checkpoint_every == 0 or done == steps.stop:
                    save(done)
    except NonFiniteLossError as error:
        raise TrainingError(f"{error}; what was saved last stays in {folder}") from error
    finally:
        log.close()
    return row
