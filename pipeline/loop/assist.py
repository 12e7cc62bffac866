"""`maskfoundry assist`: people's masks beside the model's, as a round of their own.

The first two stages of the engine of «Segment Anything» (Kirillov et al. 2023, section 4). Assisted-manual: people mask
everything. Semi-automatic: the masks that the model is sure of stay, people add what is missing.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import torch

from models.evaluation.overlap import best_overlaps, pairwise_iou
from models.masks.rle import areas, bounding_boxes
from models.sam.model import Sam
from models.training.oracle import ClickedMask, OracleSettings, click_masks
from models.weights import load_sam
from pipeline.coco_labels import LabelledImage, read_labels, read_pixels
from pipeline.dataset import open_dataset
from pipeline.devices import own_device
from pipeline.evaluation.evaluate import all_segments
from pipeline.labels.notes import Notes
from pipeline.loop.refresh import newest_published
from pipeline.progress import progress_bar
from pipeline.store.find_rounds import next_import
from pipeline.store.index import publish
from pipeline.store.lease import discarding, hold_lease
from pipeline.store.storage import Folder
from stages.decode_pixels import DecodeSettings
from stages.record import BROUGHT_SOURCES, SCHEMA
from stages.row_masks import RowMask, is_embedded, mask_lists, masks_of

COVERED_IOU = 0.5  # an object that a mask overlaps so far needs no person
NOT_CONFIDENT = "not_confident"


@dataclass
class AssistSummary:
    """What stands in the new round: `confident` masks of the model that stayed, `added` ones, after `clicks` if the
    oracle made them, `drawn` of them by hand in the end; `missed` objects nobody masked. `notes` counts what was left
    out of the labels or mended, by reason."""

    dataset: str
    stage: str
    round: int
    images: int = 0
    confident: int = 0
    added: int = 0
    drawn: int = 0
    missed: int = 0
    clicks: int = 0
    notes: Notes = field(default_factory=Notes)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def assist(
    dataset: str,
    labels: str,
    confident: float | None = None,
    oracle: OracleSettings | None = None,
    checkpoint: str | None = None,
    quiet: bool = False,
) -> AssistSummary:
    """Writes and publishes a round of the images that `labels` (COCO) name, each in the dataset by its id or file name.

    With `confident` the model's kept masks of at least that predicted IoU stay, and only objects that none of them
    covers are added (stage `semi_automatic`); without it the model's masks are dropped and everything comes from the
    labels (`assisted`). The labels' masks are taken as they are, or with `oracle` clicked with `checkpoint`.
    Raises ValueError for wrong labels, and if no labelled image is in the dataset.
    """
    folder = Folder(dataset)
    newest_published(folder)
    if oracle is not None and checkpoint is None:
        raise ValueError("--checkpoint: missing; the oracle clicks with a model")
    by_name, notes = _by_name(labels)
    sam = load_sam(checkpoint)[0].to(own_device()) if oracle is not None and checkpoint is not None else None
    target = next_import(folder)
    stage = "assisted" if confident is None else "semi_automatic"
    summary = AssistSummary(dataset, stage, target.number, notes=notes)
    source = open_dataset(dataset, candidates=True)
    generator = torch.Generator(own_device()).manual_seed(0)
    record = {"round": target.number, "imported": "human", "fingerprints": {}, "runs": []}
    with hold_lease(target, "assist") as lease:
        with discarding(lease), progress_bar("assisting", len(by_name), "images", quiet) as update:
            target.remove_parts()  # of one that was killed
            target.write_record(record)
            for part, rows in enumerate(source.tables()):
                written = []
                for row in rows.to_pylist():
                    image = by_name.get(row["image_id"]) or by_name.get(PurePosixPath(row["image_id"]).name)
                    if image is None or row["status"] != "ok":
                        continue
                    _assist_row(row, image, confident, sam, oracle, generator, summary)
                    written.append(row)
                    summary.images += 1
                    update(summary.images, f"{summary.added:,} masks added")
                if written:
                    target.write_part(part, pa.Table.from_pylist(written, schema=SCHEMA))
            if not summary.images:
                raise ValueError(f"labels: none of the {len(by_name)} images of {labels!r} is in {dataset!r}")
            target.write_record(record | {"assist": summary.as_dict() | {"clicked": oracle is not None}})
        publish(folder, target.number)
    return summary


def _by_name(labels: str) -> tuple[dict[str, LabelledImage], Notes]:
    labelled = read_labels(labels)
    images = list(labelled)
    names = Counter(image.path.name for image in images)
    if twice := [name for name, count in names.items() if count > 1]:
        raise ValueError(f"labels: {labels!r} names {twice[0]!r} twice; file names must differ")
    return {image.path.name: image for image in images}, labelled.notes


def _assist_row(
    row: dict[str, Any],
    image: LabelledImage,
    confident: float | None,
    sam: Sam | None,
    oracle: OracleSettings | None,
    generator: torch.Generator,
    summary: AssistSummary,
) -> None:
    if (row["height"], row["width"]) != (image.height, image.width):
        raise ValueError(
            f"labels: {image.path.name} is {image.width} x {image.height}, the dataset's image {row['width']} x "
            f"{row['height']}; give the picture that was annotated"
        )
    kept = list(_keep_confident(row, confident))
    summary.confident += sum(row["masks"][index]["source"] not in BROUGHT_SOURCES for index in kept)
    truths = all_segments(image)
    covered = best_overlaps(pairwise_iou(truths, [row["rles"][one] for one in kept], image.height, image.width))
    missing = [truth for truth, best in zip(truths, covered, strict=True) if best < COVERED_IOU]
    if sam is None or oracle is None:
        found = [ClickedMask(index, truth, (0.0, 0.0), 0, 1.0) for index, truth in enumerate(missing)]
    else:
        found = click_masks(sam, read_pixels(image, DecodeSettings()), missing, oracle, generator)
    summary.added += len(found)
    summary.drawn += sum(one.drawn for one in found)
    summary.missed += len(missing) - len(found)
    summary.clicks += sum(one.num_clicks for one in found)
    _add(row, found, summary)


def _keep_confident(row: dict[str, Any], confident: float | None) -> Iterator[int]:
    """Which masks stay; the model's others are dropped."""
    dropped = set()
    for index, mask in enumerate(row["masks"]):
        if not mask["keep"]:
            continue
        if mask["source"] in BROUGHT_SOURCES or (confident is not None and mask["predicted_iou"] >= confident):
            yield index
            continue
        mask |= {"keep": False, "drop_reason": NOT_CONFIDENT, "parent_id": None}
        dropped.add(mask["mask_id"])
    for mask in row["masks"]:
        if mask["parent_id"] in dropped:
            mask["parent_id"] = None


def _add(row: dict[str, Any], found: list[ClickedMask], summary: AssistSummary) -> None:
    rles = [one.rle for one in found]
    boxes = bounding_boxes(rles, row["height"]).tolist() if rles else []
    masks = masks_of(row)
    for number, (one, bbox, area) in enumerate(zip(found, boxes, areas(rles), strict=True)):
        fields = {
            "mask_id": f"{row['image_id']}/{summary.round}/{number}",
            "bbox": bbox,
            "area": int(area),
            "point": list(one.point) if one.num_clicks else None,
            "source": "human",
            "stage": summary.stage,
            "keep": True,
            "iscrowd": False,
            "tags": [],
        }
        masks.append(RowMask(fields, one.rle))
    row |= mask_lists(masks, is_embedded(row)) | {"round": summary.round, "predicted_iou_floor": None}
