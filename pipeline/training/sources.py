"""Where a training's images come from: labelled folders, and datasets with the original images."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from pipeline.coco_labels import LabelledImage, read_labels, read_pixels
from pipeline.evaluation.evaluate import all_segments
from pipeline.pictures import decode, read_bytes
from pipeline.rounds import INDEX, Round, read_index
from pipeline.storage import Folder
from stages.decode_image import describe
from stages.decode_pixels import DecodeSettings

HUMAN_WEIGHT = 10.0  # Kirillov et al. 2023, appendix A: manual masks are drawn ten times as often
HUMAN_SOURCES = ("human", "imported")
NUM_CACHED_PARTS = 8


@dataclass(frozen=True)
class TrainingImage:
    """`pixels` (H, W, 3) uint8 RGB; `rles`: N masks as COCO compressed run lengths; `weights` (N,): how often each is
    drawn, relative to the image's others."""

    name: str
    pixels: np.ndarray
    rles: list[bytes]
    weights: np.ndarray


class TrainingImages(Protocol):
    """Images by number. `read` raises ValueError, naming the image, for one that vanished or changed."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> TrainingImage: ...


class LabelledImages:
    """People's labels, or a renderer's, in the COCO layout; every mask counts alike."""

    def __init__(self, images: Sequence[LabelledImage]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> TrainingImage:
        image = self.images[index]
        rles = all_segments(image)
        return TrainingImage(str(image.path), read_pixels(image, DecodeSettings()), rles, np.ones(len(rles)))


class DatasetImages:
    """A dataset's kept masks: of every image its newest published round, if that has any.

    A mask's weight is the product of its scores, a person's `HUMAN_WEIGHT`. The pictures are read from where the run
    read them. Memory holds three numbers an image. Raises ValueError if no image has a kept mask.
    """

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        newest: dict[str, tuple[int, int, int] | None] = {}  # None where the newest round kept nothing
        for number in sorted(read_index(folder)["published"]):
            for part in Round(folder, number).parts():
                rows = Round(folder, number).read_part(part, ["image_id", "masks.list.element.keep"])
                for row, (image_id, masks) in enumerate(zip(*(column.to_pylist() for column in rows), strict=True)):
                    kept = any(mask["keep"] for mask in masks or ())
                    newest[image_id] = (number, part, row) if kept else None
        self.places = np.array([place for place in newest.values() if place is not None], np.int32).reshape(-1, 3)
        if not len(self.places):
            raise ValueError(
                f"data: none of the {len(newest)} images of {folder.uri} has a kept mask; lower its thresholds"
            )

    def __len__(self) -> int:
        return len(self.places)

    def read(self, index: int) -> TrainingImage:
        number, part, row = self.places[index].tolist()
        record = _part(self.folder, number, part).slice(row, 1).to_pylist()[0]
        kept = [index for index, mask in enumerate(record["masks"]) if mask["keep"]]
        return TrainingImage(
            record["uri"],
            _read_picture(record),
            [record["rles"][index] for index in kept],
            np.array([_weight(record["masks"][index]) for index in kept]),
        )


def open_training_images(data: Sequence[str]) -> list[TrainingImages]:
    """Labelled folders, COCO JSON files and datasets, told apart by what is there.

    Raises ValueError as `read_labels` and `DatasetImages` do.
    """
    return [_open(one) for one in data]


def _open(data: str) -> TrainingImages:
    folder = Folder(data)
    if folder.exists(INDEX):
        return DatasetImages(folder)
    return LabelledImages(tuple(read_labels(data)))


@lru_cache(maxsize=NUM_CACHED_PARTS)
def _part(folder: Folder, number: int, part: int) -> pa.Table:
    columns = ["uri", "content_sha256", "width", "height", "decode", "masks", "rles"]
    return Round(folder, number).read_part(part, columns)


def _read_picture(record: dict[str, Any]) -> np.ndarray:
    """The picture as the run decoded it, if it is still the same file."""
    try:
        return decode(record, read_bytes(record))
    except Exception as error:  # a picture may vanish or break in any way: the line says which one and how
        raise ValueError(
            f"{record['uri']}: cannot be read ({describe(error)}); run the dataset again or leave it out"
        ) from error


def _weight(mask: dict[str, Any]) -> float:
    if mask["source"] in HUMAN_SOURCES:
        return HUMAN_WEIGHT
    scores = (mask["predicted_iou"], mask["stability_score"])
    return float(np.prod([min(1.0, max(0.01, score)) for score in scores if score is not None]))
