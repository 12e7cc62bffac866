"""Where a training's images come from: labelled folders, and datasets with the original images."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.coco_labels import LabelledImage, read_labels, read_pixels
from pipeline.dataset import Dataset, Part, open_dataset
from pipeline.evaluation.evaluate import all_segments
from pipeline.labels.crowds import CROWD
from pipeline.labels.notes import Notes
from pipeline.pictures import decode, read_bytes
from pipeline.store.index import INDEX
from pipeline.store.lease import live_leases
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder
from pipeline.training.recipe import DataSource
from stages.decode_image import describe
from stages.decode_pixels import DecodeSettings
from stages.record import SCHEMA, conform

NUM_CACHED_PARTS = 8
HEAVY = ("rles", "raw_rles", "embedding")


@dataclass(frozen=True)
class TrainingImage:
    """`pixels` (H, W, 3) uint8 RGB; `rles`: N masks as COCO compressed run lengths; `weights` (N,): how often each is
    drawn, relative to the image's others."""

    name: str
    pixels: np.ndarray
    rles: list[bytes]
    weights: np.ndarray


class TrainingImages(Protocol):
    """Images by number. `read` raises ValueError, naming the image, for one that vanished or changed. `fingerprint` is
    a hash over the images and masks, whatever files they lie in. `notes` counts what was left out or mended."""

    fingerprint: str
    notes: Notes

    def __len__(self) -> int: ...

    def read(self, index: int) -> TrainingImage: ...


class LabelledImages:
    """People's labels, or a renderer's, in the COCO layout; every mask counts alike."""

    def __init__(self, images: Sequence[LabelledImage], notes: Notes | None = None) -> None:
        self.images = images
        self.notes = notes or Notes()
        self.fingerprint = _hash(
            [[one.path.name, _hash([rle.decode() for rle in all_segments(one)])] for one in images]
        )

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> TrainingImage:
        image = self.images[index]
        rles = all_segments(image)
        return TrainingImage(str(image.path), read_pixels(image, DecodeSettings()), rles, np.ones(len(rles)))


class DatasetImages:
    """A dataset's masks, as a `DataSource` chooses them: the kept ones of every image's newest published round, or of
    one round, or those of them that match.

    Crowd regions are no masks of one object and are left out. A mask's weight is the product of its scores, a person's
    `human_weight`. The pictures are read from where the run read them. Memory holds two numbers an image. Raises
    ValueError if no image has such a mask, and for a round that is still being written, as its images would have
    another order when the training goes on.
    """

    def __init__(self, source: DataSource) -> None:
        self.source = source
        self.notes = Notes()
        dataset = open_dataset(source.path, source.round).allowing(source.allow)
        self.dataset: Dataset = dataset if source.where is None else dataset.filter(source.where)
        folder = Folder(source.path)
        for number in self.dataset.rounds:
            _refuse_live(Round(folder, number))
        found: dict[str, tuple[int, int, str] | None] = {}  # None where the newest round has no such mask
        crowds: dict[str, int] = {}
        self.parts = self.dataset.parts()
        for place, part in enumerate(self.parts):
            names = [name for name in SCHEMA.names if name not in HEAVY]
            rows = conform(Round(folder, part.round).read_file(part.file, names))
            for row, (image_id, (masks, num_crowds)) in enumerate(
                zip(rows["image_id"].to_pylist(), self._masks(rows), strict=True)
            ):
                crowds[image_id] = num_crowds
                found[image_id] = (place, row, masks) if masks else None
        for image_id, number in crowds.items():
            if number:
                self.notes.add(CROWD, f"{image_id} of {source.path}", number)
        chosen = {image_id: place for image_id, place in found.items() if place is not None}
        if not chosen:
            lacks = "a kept mask; lower its thresholds"
            if source.where is not None:
                lacks = f"a mask for which {source.where!r} is true; choose another `where`"
            raise ValueError(f"data: none of the {len(found)} images of {source.path} has {lacks}")
        self.places = np.array([place[:2] for place in chosen.values()], np.int32)
        self.fingerprint = _hash(sorted((image_id, place[2]) for image_id, place in chosen.items()))

    def __len__(self) -> int:
        return len(self.places)

    def read(self, index: int) -> TrainingImage:
        part, row = self.places[index].tolist()
        record = _part(self.dataset, self.parts[part]).slice(row, 1).to_pylist()[0]
        both = zip(record["masks"], record["rles"], strict=True)
        masks, rles = zip(*((mask, rle) for mask, rle in both if not mask["iscrowd"]), strict=True)
        weights = np.array([_weight(mask, self.source) for mask in masks])
        return TrainingImage(record["uri"], self._picture(record), list(rles), weights)

    def _picture(self, record: dict[str, Any]) -> np.ndarray:
        """As the run decoded it, if it is still the same file."""
        try:
            return decode(record, read_bytes(record, self.dataset.picture_places))
        except Exception as error:  # a picture may vanish or break in any way: the line says which one and how
            raise ValueError(
                f"{record['uri']}: cannot be read ({describe(error)}); run the dataset again or leave it out"
            ) from error

    def _masks(self, rows: pa.Table) -> list[tuple[str | None, int]]:
        """For each row a hash of its picture and the masks that count, or None without any, and how many crowds would
        count."""
        flat = rows["masks"].combine_chunks().flatten()
        passing = self.dataset.passing(rows)
        crowd = pc.fill_null(pc.struct_field(flat, "iscrowd"), False).to_numpy(zero_copy_only=False) & passing
        ids, areas = (pc.struct_field(flat, name).to_pylist() for name in ("mask_id", "area"))
        found: list[tuple[str | None, int]] = []
        start = 0
        lengths = pc.fill_null(pc.list_value_length(rows["masks"]), 0).to_pylist()
        for picture, length in zip(rows["content_sha256"].to_pylist(), lengths, strict=True):
            places = range(start, start + length)
            own = [[ids[index], areas[index]] for index in places if passing[index] and not crowd[index]]
            found.append((_hash([picture, own]) if own else None, int(crowd[start : start + length].sum())))
            start += length
        return found


def open_training_images(data: Sequence[str | DataSource]) -> list[TrainingImages]:
    """Labelled folders, COCO JSON files and datasets, told apart by what is there.

    Raises ValueError as `read_labels` and `DatasetImages` do.
    """
    return [_open(DataSource(path=one) if isinstance(one, str) else one) for one in data]


def data_fingerprint(sets: Sequence[TrainingImages]) -> str:
    """One hash of everything that a training sees."""
    return _hash([one.fingerprint for one in sets])


def data_notes(sets: Sequence[TrainingImages]) -> Notes:
    """What was left out of the labels or mended."""
    notes = Notes()
    for one in sets:
        notes.update(one.notes)
    return notes


def _open(source: DataSource) -> TrainingImages:
    if Folder(source.path).exists(INDEX):
        return DatasetImages(source)
    if source.where is not None or source.round is not None:
        raise ValueError(
            f"data: {source.path!r} is no dataset, and only those have `where` and `round`; leave them out"
        )
    labels = read_labels(source.path)
    images = tuple(labels)
    return LabelledImages(images, labels.notes)


def _refuse_live(target: Round) -> None:
    if live := live_leases(target):
        raise ValueError(
            f"data: {target.folder.uri}/{target.name} is still being written by run {live[0]['run_id']} "
            f"(process {live[0]['pid']} on {live[0]['host']}); wait for it to end"
        )


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


@lru_cache(maxsize=NUM_CACHED_PARTS)
def _part(dataset: Dataset, part: Part) -> pa.Table:
    return dataset.with_masks(Round(Folder(dataset.uri), part.round).read_file(part.file))


def _weight(mask: dict[str, Any], source: DataSource) -> float:
    if mask["source"] == "human":
        return source.human_weight
    scores = (mask["predicted_iou"], mask["stability_score"]) if source.score_weights else ()
    return float(np.prod([min(1.0, max(0.01, score)) for score in scores if score is not None]))
