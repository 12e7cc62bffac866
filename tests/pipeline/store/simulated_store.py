"""A store in memory on which writers take turns: every operation is a step, and a seed decides whose step is next and
how much time passes before it. It has what a disk has (a file is made once, a rename is one step) or what a bucket with
conditional writes has (a rename is a copy and a deletion, and answers may be lost after the deed)."""

import io
import random
import threading
from collections.abc import Callable
from typing import Any, Literal

from pipeline.store.storage import Folder

Kind = Literal["disk", "bucket"]
LOST_ANSWERS = 0.05


class Turns:
    """Lets one of several threads run at a time, from one of its steps to the next."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.time = 1_000_000.0
        self.after_step: Callable[[], None] = lambda: None
        self._go: dict[str, threading.Semaphore] = {}
        self._back = threading.Semaphore(0)
        self._names = threading.local()
        self.failures: list[BaseException] = []

    def step(self) -> None:
        """Called by a writer before each of its operations; the test's own thread takes no turns."""
        name = getattr(self._names, "own", None)
        if name is not None:
            self._back.release()
            self._go[name].acquire()

    def run(self, writers: dict[str, Callable[[], None]]) -> None:
        """Until all have ended; `after_step` looks at the store in between. Raises what any of them raised."""
        self._go = {name: threading.Semaphore(0) for name in writers}
        running = dict(writers)
        threads = [threading.Thread(target=self._begin, args=item, daemon=True) for item in writers.items()]
        for thread in threads:
            thread.start()
            self._back.acquire()
        self._ended: set[str] = set()
        while running:
            name = self.random.choice(sorted(running))
            self.time += self.random.choice([0.1, 1.0, 20.0]) if self.random.random() < 0.96 else 400.0
            self._go[name].release()
            self._back.acquire()
            for ended in self._ended & running.keys():
                del running[ended]
            self.after_step()
        for thread in threads:
            thread.join()
        if self.failures:
            raise self.failures[0]

    def _begin(self, name: str, work: Callable[[], None]) -> None:
        self._names.own = name
        self.step()
        try:
            work()
        except BaseException as error:
            self.failures.append(error)
        self._ended.add(name)
        self._back.release()


class SimulatedFolder(Folder):
    """The files of a dataset in `files`, a dictionary that all writers share."""

    def __init__(self, files: dict[str, bytes], turns: Turns, kind: Kind) -> None:
        super().__init__("memory://simulated")
        self.files = files
        self.turns = turns
        self.kind = kind
        self.fs = self  # type: ignore[assignment]
        self.root = ""
        self.creates_once = True

    @property
    def is_local(self) -> bool:
        return False

    @property
    def reads_at_once(self) -> int:
        return 1

    def now(self) -> float:
        return self.turns.time

    def path(self, name: str) -> str:
        return name

    def ask(self, action: Callable[[], Any]) -> Any:
        return action()

    def open(self, path: str, mode: str) -> io.BytesIO:
        return io.BytesIO(self.read(path))

    def read(self, name: str) -> bytes:
        self.turns.step()
        if name not in self.files:
            raise FileNotFoundError(name)
        return self.files[name]

    def exists(self, name: str) -> bool:
        self.turns.step()
        return name in self.files

    def names(self, folder: str, prefix: str, suffix: str) -> list[str]:
        self.turns.step()
        start = f"{folder}/" if folder else ""
        below = {name[len(start) :].split("/", 1)[0] for name in self.files if name.startswith(start)}
        return sorted(start + name for name in below if name.startswith(prefix) and name.endswith(suffix))

    def write(self, name: str, data: bytes) -> None:
        self.turns.step()
        self.files[name] = data

    def create(self, name: str, data: bytes) -> bool:
        self.turns.step()
        if name in self.files:
            return False
        self.files[name] = data
        # the answer is lost, the store's client asks again, and then finds its own file
        return not (self.kind == "bucket" and self.turns.random.random() < LOST_ANSWERS)

    def remove(self, name: str) -> None:
        self.turns.step()
        self.files.pop(name, None)

    def move(self, source: str, target: str) -> None:
        self.turns.step()
        if source not in self.files:
            return
        self.files[target] = self.files[source]
        if self.kind == "bucket":
            self.turns.step()
        self.files.pop(source, None)

    def remove_temporary(self, folder: str, wanted: Callable[[str], bool] = lambda _: True) -> None:
        """Nothing here is temporary."""
