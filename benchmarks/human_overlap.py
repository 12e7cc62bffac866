"""How well a dataset's kept masks cover the segments that people drew.

    python -m benchmarks.human_overlap --data SET --recipe quickstart --dataset OUTPUT
    python -m benchmarks.human_overlap --data SET --dataset DATASET

SET holds images/ and annotations.json: COCO JSON whose annotations are people's segments, each with an `annotator`
(without one, an image has a single annotator). With --recipe the images are annotated first. The figures are those of
`benchmarks.overlap.Overlap` for each annotator of an image, averaged over the image's annotators, then over the
images. A failed image counts as one without masks. The yardstick is a fixed pyramid of boxes, the same for every image,
measured in the same way.
"""

import argparse
import json
import sys
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from benchmarks.matching import pairwise_iou
from benchmarks.overlap import Overlap, best_overlaps, grid_boxes, mean_overlap, overlap
from benchmarks.table import markdown_table
from models.masks.rle import areas, compress_counts, counts_from_transitions, transitions
from pipeline.load_recipe import load_recipe
from pipeline.rounds import Round, read_index
from pipeline.run import run
from pipeline.storage import Folder

PYRAMID = (1, 2, 3, 4, 6, 8)  # boxes a side: 130 in all


@dataclass(frozen=True)
class HumanImage:
    """One image's segments as COCO compressed run lengths, by annotator."""

    height: int
    width: int
    segments: dict[int, list[bytes]]


@dataclass(frozen=True)
class Measured:
    """Means over images."""

    num_images: int
    masks_per_image: float
    overlap: Overlap


def main() -> None:
    arguments = _arguments()
    images = read_human_segments(arguments.data / "annotations.json")
    seconds = None
    if arguments.recipe:
        overrides = [*arguments.override, f"input={arguments.data / 'images'}", f"output={arguments.dataset}"]
        seconds = run(load_recipe(arguments.recipe, overrides)).seconds
    masks = read_kept_masks(arguments.dataset)
    if missing := sorted(set(images) - set(masks)):
        raise SystemExit(
            f"--dataset {arguments.dataset}: lacks {len(missing)} images of {arguments.data} ({missing[0]} …); "
            "give a dataset of all of them, or --recipe to go on with it"
        )
    measured = measure(images, masks)
    yardstick = measure(images, {name: box_masks(image.height, image.width) for name, image in images.items()})
    lines = [(f"{arguments.dataset}", measured), (f"yardstick: boxes {PYRAMID} a side", yardstick)]
    print(_table(lines))
    if seconds is not None:
        print(f"\nthe run took {seconds:.0f} s")
    if arguments.json:
        report = {"dataset": asdict(measured), "yardstick": asdict(yardstick), "run_seconds": seconds}
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", type=Path, required=True, help="a folder with images/ and annotations.json")
    add("--dataset", required=True, help="a dataset that `maskfoundry run` wrote, or with --recipe where to write it")
    add("--recipe", help="annotate the images first, with this recipe")
    add("-o", dest="override", action="append", default=[], metavar="FIELD=VALUE", help="set a field of the recipe")
    add("--json", type=Path, help="write the figures to this file as well")
    return parser.parse_args()


def read_human_segments(path: Path) -> dict[str, HumanImage]:
    """The images of a COCO JSON that have segments, by file name; crowds are left out."""
    coco = json.loads(path.read_text(encoding="utf-8"))
    records = {record["id"]: record for record in coco["images"]}
    segments: dict[int, dict[int, list[bytes]]] = defaultdict(lambda: defaultdict(list))
    for one in coco["annotations"]:
        if not one.get("iscrowd", 0):
            record = records[one["image_id"]]
            rle = _compressed(one["segmentation"], record["height"], record["width"])
            segments[one["image_id"]][one.get("annotator", 0)].append(rle)
    images = {}
    for image_id, by_annotator in segments.items():
        record = records[image_id]
        images[PurePosixPath(record["file_name"]).name] = HumanImage(
            record["height"], record["width"], dict(by_annotator)
        )
    return images


def _compressed(segmentation: Any, height: int, width: int) -> bytes:
    """Any of COCO's three forms (polygons, counts as numbers, counts as text) as compressed counts."""
    if isinstance(segmentation, list):
        return bytes(coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))["counts"])
    counts = segmentation["counts"]
    if isinstance(counts, list):
        return bytes(coco_mask.frPyObjects(segmentation, height, width)["counts"])
    return counts.encode() if isinstance(counts, str) else bytes(counts)


def read_kept_masks(dataset: str) -> dict[str, list[bytes]]:
    """The kept masks of the newest published round, by the image's file name.

    Raises SystemExit if nothing is published, or two images have the same name.
    """
    folder = Folder(dataset)
    published = read_index(folder)["published"]
    if not published:
        raise SystemExit(f"--dataset {dataset}: holds no published round; give the folder that a run wrote")
    newest = Round(folder, published[-1])
    kept: dict[str, list[bytes]] = {}
    for part in newest.parts():
        for row in newest.read_part(part, ["uri", "masks", "rles"]).to_pylist():
            name = PurePosixPath(row["uri"]).name
            if name in kept:
                raise SystemExit(f"--dataset {dataset}: two images are called {name}; file names must differ")
            kept[name] = [rle for mask, rle in zip(row["masks"], row["rles"], strict=True) if mask["keep"]]
    return kept


def box_masks(height: int, width: int) -> list[bytes]:
    """The yardstick's masks in an image of this size."""
    counts = [
        counts_from_transitions(transitions(np.ones((y1 - y0, x1 - x0), bool), x0, y0, height), height * width)
        for x0, y0, x1, y1 in grid_boxes(height, width, PYRAMID)
    ]
    return compress_counts(np.concatenate(counts), np.array([len(one) for one in counts]))


def measure(images: dict[str, HumanImage], masks: dict[str, list[bytes]]) -> Measured:
    """Every image of `images` against its masks."""
    per_image = []
    for name, image in images.items():
        per_annotator = []
        for segments in image.segments.values():
            iou = pairwise_iou(segments, masks[name], image.height, image.width)
            per_annotator.append(overlap(best_overlaps(iou), areas(segments)))
        per_image.append(mean_overlap(per_annotator))
    return Measured(
        num_images=len(images),
        masks_per_image=float(np.mean([len(masks[name]) for name in images])),
        overlap=mean_overlap(per_image),
    )


def _table(lines: list[tuple[str, Measured]]) -> str:
    header = ["masks", "images", "masks an image", "mean best", "area-weighted best", "recall .5", "recall .75"]
    rows = []
    for name, one in lines:
        figures = [f"{value:.4f}" for value in asdict(one.overlap).values()]
        rows.append([name, f"{one.num_images}", f"{one.masks_per_image:.1f}", *figures])
    return markdown_table(header, rows)


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        sys.exit(f"{Path(__file__).stem}: {error}")
