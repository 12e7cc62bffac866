"""The splits that an export has assigned, kept in its folder so that images stay where they are as a dataset grows."""

import hashlib
import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.dataset import Dataset, Part
from pipeline.export.job import STATE
from pipeline.export.split import SPLITS, Split, make_split
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder

FILE = f"{STATE}/split.parquet"


class Assignments:
    """The split of one export: what its folder holds already, and the hashes of `parts` on top of it.

    Nothing is written before `save`, which must come before any image is: a killed export then goes on with the splits
    that its files have.
    """

    def __init__(
        self, dataset: Dataset, parts: list[Part], folder: Folder, shares: tuple[float, float, float], seed: int
    ) -> None:
        self.folder = folder
        self._hashes = _read_hashes(dataset, parts)
        present = np.concatenate([np.zeros(0, np.uint64), *self._hashes.values()])
        self.split: Split = make_split(present, shares, seed, _read(folder, shares, seed))

    def token(self, part: Part) -> str:
        """A hash of the splits of the part's images: it differs if one of them has moved."""
        return hashlib.sha256(self.split.places(self._hashes[part]).tobytes()).hexdigest()

    def save(self) -> None:
        """Writes what is assigned to the export's folder, as a whole."""
        names = pa.array(SPLITS).take(pa.array(self.split.assigned))
        sink = io.BytesIO()
        pq.write_table(pa.table({"phash": pa.array(self.split.hashes), "split": names}), sink, compression="zstd")
        self.folder.write(FILE, sink.getvalue())


def _read(folder: Folder, shares: tuple[float, float, float], seed: int) -> Split | None:
    """What an earlier export left; None before the first one. Raises ValueError for a file of something else."""
    try:
        data = folder.read(FILE)
    except FileNotFoundError:
        return None
    try:
        table = pq.read_table(io.BytesIO(data), columns=["phash", "split"])
        places = pc.index_in(table["split"], value_set=pa.array(SPLITS))
        return Split(shares, seed, table["phash"].to_numpy(), places.to_numpy().astype(np.uint8))
    except (pa.ArrowException, KeyError) as error:
        raise ValueError(
            f"output: {folder.path(FILE)} cannot be read ({error}); restore it, or export to another folder"
        ) from None


def _read_hashes(dataset: Dataset, parts: list[Part]) -> dict[Part, np.ndarray]:
    """The perceptual hashes of every image of each part, uint64, in the order of the rows."""
    folder = Folder(dataset.uri)

    def read(part: Part) -> np.ndarray:
        column = Round(folder, part.round).read_file(part.file, ["phash"])["phash"]
        return np.array([int(one, 16) for one in column.drop_null().to_pylist()], np.uint64)

    with ThreadPoolExecutor(folder.reads_at_once) as pool:
        return dict(zip(parts, pool.map(read, parts), strict=True))
