"""A record of attempts that outlives a worker, so that an image that kills its worker is not tried for ever."""

import faulthandler
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol


class Attempts(Protocol):
    """`begin` notes that work on images starts and gives each image's number of attempts that began and never ended,
    this one included; `done` ends them, well or not; `counts` looks without beginning one.

    Only the death of a process leaves an attempt without an end.
    """

    def counts(self, image_ids: Sequence[str]) -> list[int]: ...

    def begin(self, image_ids: Sequence[str]) -> list[int]: ...

    def done(self, image_ids: Sequence[str]) -> None: ...


class AttemptCounts:
    """The record itself, in this process."""

    def __init__(self) -> None:
        self._begun: Counter[str] = Counter()

    def counts(self, image_ids: Sequence[str]) -> list[int]:
        return [self._begun[image_id] for image_id in image_ids]

    def begin(self, image_ids: Sequence[str]) -> list[int]:
        self._begun.update(image_ids)
        return self.counts(image_ids)

    def done(self, image_ids: Sequence[str]) -> None:
        for image_id in image_ids:
            self._begun.pop(image_id, None)


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """End this process if the block takes longer: a hang inside native code, which may hold the interpreter's lock, can
    be ended in no other way, and becomes a death that `Attempts` counts. One block of a process at a time."""
    if seconds is None:
        yield
        return
    faulthandler.dump_traceback_later(seconds, exit=True, file=2)  # from a thread that needs no lock
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
