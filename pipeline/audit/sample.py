"""Draw images for people to look over: a stratified sample, as Label Studio tasks."""

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipeline.dataset import Dataset
from pipeline.export.write import export
from pipeline.queries.query import query
from pipeline.store.storage import Folder

SAMPLE = "_audit.json"
NUM_BINS = 3

# Of images that nobody has corrected yet.
_IMAGES = """
SELECT image_id, count(*) AS num_masks, coalesce(avg(predicted_iou), 0) AS score
FROM masks GROUP BY image_id HAVING bool_and(coalesce(source, 'auto') = 'auto') ORDER BY image_id
"""


@dataclass(frozen=True)
class SampleSummary:
    """What was written; the images' strata are counted from few masks and low scores to many and high."""

    output: str
    images: int
    masks: int
    missing: int
    strata: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def draw_sample(
    dataset: Dataset, num_images: int, output: str, pictures: bool, seed: int = 0, quiet: bool = False
) -> SampleSummary:
    """Writes Label Studio tasks of `num_images` images (of all where there are fewer) to `output`, and which images
    they are to the dataset's _audit.json.

    Images are grouped by thirds of their number of masks and of their mean predicted IoU; each group gives its share,
    so that the result needs no weights. The same seed draws the same images. Raises ValueError for a dataset without
    masks of a model.
    """
    found, _ = query(dataset, _IMAGES)
    if not found.num_rows:
        raise ValueError(
            f"dataset: {dataset.uri!r} holds no images whose masks are all a model's; there is nothing to audit"
        )
    names = found["image_id"].to_pylist()
    strata = _thirds(found["num_masks"].to_numpy()) * NUM_BINS + _thirds(found["score"].to_numpy())
    chosen = choose(names, strata, num_images, seed)
    summary = export(_only(dataset, sorted(chosen)), output, "label-studio", pictures, quiet)
    Folder(dataset.uri).write_json(SAMPLE, {"seed": seed, "tasks": output, "images": chosen})
    counts: dict[str, int] = {}
    for stratum in chosen.values():
        counts[stratum] = counts.get(stratum, 0) + 1
    return SampleSummary(output, summary.images, summary.masks, summary.missing, dict(sorted(counts.items())))


def choose(names: list[str], strata: np.ndarray, num_images: int, seed: int) -> dict[str, str]:
    """Names and strata of the sample: each stratum's share of `num_images` (the largest remainders rounded up), and in
    it those that a hash of the seed and the name puts first."""
    kinds, sizes = np.unique(strata, return_counts=True)
    total = min(num_images, len(names))
    exact = sizes * total / len(names)
    shares = np.floor(exact).astype(int)
    shares[np.argsort(shares - exact, kind="stable")[: total - int(shares.sum())]] += 1
    drawn: dict[str, str] = {}
    for kind, share in zip(kinds.tolist(), shares.tolist(), strict=True):
        own = [names[index] for index in np.flatnonzero(strata == kind)]
        own.sort(key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest())
        drawn |= {name: f"masks {kind // NUM_BINS + 1}, score {kind % NUM_BINS + 1}" for name in own[:share]}
    return drawn


def _thirds(values: np.ndarray) -> np.ndarray:
    borders = np.quantile(values, np.arange(1, NUM_BINS) / NUM_BINS)
    return np.searchsorted(borders, values, side="left")


def _only(dataset: Dataset, names: list[str]) -> Dataset:
    listed = ", ".join("'" + name.replace("'", "''") + "'" for name in names)
    return dataset.filter(f"image_id IN ({listed})")
