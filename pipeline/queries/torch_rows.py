"""A dataset's rows for torch's DataLoader."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch.utils.data import IterableDataset, get_worker_info

if TYPE_CHECKING:
    from pipeline.dataset import Dataset


class TorchRows(IterableDataset[dict[str, Any]]):
    """Image rows as plain values; each of a DataLoader's workers reads parts of its own, so every row comes once."""

    def __init__(self, dataset: "Dataset") -> None:
        self.dataset = dataset

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for part in self.dataset.parts()[first::step]:
            yield from self.dataset.read(part).to_pylist()
