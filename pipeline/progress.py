"""What a person sees while work is under way: a bar with rate and time left, on stderr, and only on a terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def progress_bar(title: str, total: int, unit: str, quiet: bool) -> Iterator[Callable[[int, str], None]]:
    """Yields `update(done, note)`: how many of `total` are done, and a note such as `1,204 masks · 2 failed`."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(f"{unit} · {{task.fields[rate]}}"),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as progress:
        task = progress.add_task(title, total=total, rate="", note="")

        def update(done: int, note: str) -> None:
            elapsed = progress.tasks[0].elapsed or 0.0
            rate = f"{done / elapsed:.2f}/s" if elapsed and done else ""
            progress.update(task, completed=done, rate=rate, note=note)

        yield update
