"""How much people changed of an audit's sample, as section 5 of «Segment Anything» measures mask quality."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from models.evaluation.overlap import pairwise_iou
from pipeline.audit.sample import SAMPLE
from pipeline.imports.corrections import CORRECTED_ROUND, CORRECTS, Held
from pipeline.store.find_rounds import round_numbers
from pipeline.store.index import read_index
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder

HIGH, LOW = 0.90, 0.75
NUM_RESAMPLES = 1000
SIZES = {"small": 32**2, "medium": 96**2, "large": float("inf")}  # areas in pixels as COCO divides them


@dataclass(frozen=True)
class Share:
    """Of `pairs` of a mask and what a person made of it, the share above .90 and .75 IoU."""

    pairs: int
    above_90: float | None
    above_75: float | None


@dataclass
class AuditResult:
    """`images` of `sampled` have come back. `interval_90` and `interval_75` hold the true share with 95 % (bootstrap
    over images). Masks that people took away (`removed`) or drew anew (`added`) are no pairs."""

    sampled: int
    images: int
    all: Share
    interval_90: tuple[float, float] | None
    interval_75: tuple[float, float] | None
    by_size: dict[str, Share] = field(default_factory=dict)
    removed: int = 0
    added: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def measure_audit(uri: str) -> AuditResult:
    """Compares the sample's masks with those that `maskfoundry import` took from people.

    Raises ValueError if no sample was drawn, or none of it has come back.
    """
    folder = Folder(uri)
    if not folder.exists(SAMPLE):
        raise ValueError(f"dataset: of {uri!r} no sample was drawn; `maskfoundry audit {uri} -n 500` draws one")
    sample = folder.read_json(SAMPLE)
    wanted = set(sample["images"])
    held = Held(uri)
    pairs: list[np.ndarray] = []  # for each image (N, 2): IoU, area before
    removed = added = 0
    for row in _corrected(folder, wanted):
        extra = dict(row["extra"])
        origins = json.loads(extra[CORRECTS])
        before = held.row(row["image_id"], int(extra[CORRECTED_ROUND]))
        if before is None or any(mask["source"] not in (None, "auto") for mask in before["masks"]):
            continue
        places = {mask["mask_id"]: index for index, mask in enumerate(before["masks"])}
        size = [row["height"], row["width"]]
        found = [
            (_iou(before["rles"][places[name]], rle, size), before["masks"][places[name]]["area"])
            for name, rle in zip(origins, row["rles"], strict=True)
            if name in places
        ]
        pairs.append(np.array(found, np.float64).reshape(-1, 2))
        removed += len(places.keys() - set(origins))
        added += len(origins) - len(found)
    if not pairs:
        raise ValueError(f"dataset: no image of the sample has been corrected; import what people made of {uri!r}")
    together = np.concatenate(pairs)
    areas, borders = together[:, 1], [0.0, *SIZES.values()]
    return AuditResult(
        sampled=len(wanted),
        images=len(pairs),
        all=_share(together),
        interval_90=_interval(pairs, HIGH),
        interval_75=_interval(pairs, LOW),
        by_size={
            name: _share(together[(areas >= low) & (areas < high)])
            for name, low, high in zip(SIZES, borders[:-1], borders[1:], strict=True)
        },
        removed=removed,
        added=added,
    )


def _corrected(folder: Folder, wanted: set[str]) -> Iterator[dict[str, Any]]:
    """The sample's images in rounds of people's masks; of one that was corrected twice the first, which was drawn."""
    seen: set[str] = set()
    published = set(read_index(folder).published)
    for number in round_numbers(folder):
        target = Round(folder, number)
        if number not in published or (target.read_record() or {}).get("imported") != "human":
            continue
        for part in target.parts():
            for row in target.read_part(part).to_pylist():
                if row["image_id"] in wanted - seen and CORRECTS in dict(row["extra"] or []):
                    seen.add(row["image_id"])
                    yield row


def _iou(one: bytes, other: bytes, size: list[int]) -> float:
    if one == other:  # two empty masks as well
        return 1.0
    return float(pairwise_iou([one], [other], size[0], size[1])[0, 0])


def _share(pairs: np.ndarray) -> Share:
    if not len(pairs):
        return Share(0, None, None)
    return Share(len(pairs), float((pairs[:, 0] > HIGH).mean()), float((pairs[:, 0] > LOW).mean()))


def _interval(pairs: list[np.ndarray], threshold: float) -> tuple[float, float] | None:
    """Masks of one image are not independent, so images are drawn again and not masks."""
    totals = np.array([len(one) for one in pairs])
    if not totals.sum():
        return None
    above = np.array([(one[:, 0] > threshold).sum() for one in pairs])
    drawn = np.random.default_rng(0).integers(0, len(pairs), (NUM_RESAMPLES, len(pairs)))
    shares = above[drawn].sum(1) / np.maximum(totals[drawn].sum(1), 1)
    low, high = np.quantile(shares, [0.025, 0.975]).tolist()
    return low, high
