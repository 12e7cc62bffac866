"""How well a dataset's kept masks cover the segments that people drew.

    python -m benchmarks.human_overlap --data SET --recipe quickstart --dataset OUTPUT
    python -m benchmarks.human_overlap --data SET --dataset DATASET

SET holds images/ and annotations.json: COCO JSON whose annotations are people's segments, each with an `annotator`
(without one, an image has a single annotator). With --recipe the images are annotated first. The figures are those of
`models.evaluation.overlap.Overlap` for each annotator of an image, averaged over the image's annotators, then over the
images. A failed image counts as one without masks. The yardstick is a fixed pyramid of boxes, the same for every image,
measured in the same way.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath

import numpy as np

from benchmarks.table import markdown_table
from models.evaluation.overlap import Overlap, best_overlaps, mean_overlap, overlap, pairwise_iou
from models.masks.rle import areas, compress_counts, counts_from_transitions, transitions
from pipeline.coco_labels import LabelledImage, read_labels
from pipeline.recipes.load_recipe import load_recipe
from pipeline.runs.run import run
from pipeline.store.index import read_index
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder

PYRAMID = (1, 2, 3, 4, 6, 8)  # boxes a side: 130 in all


@dataclass(frozen=True)
class Measured:
    """Means over images."""

    num_images: int
    masks_per_image: float
    overlap: Overlap


def main() -> None:
    arguments = _arguments()
    images = {image.path.name: image for image in read_labels(str(arguments.data))}
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
    lines = [("kept masks", measured), (f"yardstick: boxes {PYRAMID} a side", yardstick)]
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


def read_kept_masks(dataset: str) -> dict[str, list[bytes]]:
    """The kept masks of the newest published round, by the image's file name.

    Raises SystemExit if nothing is published, or two images have the same name.
    """
    folder = Folder(dataset)
    published = read_index(folder).published
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


def grid_boxes(height: int, width: int, per_side: Sequence[int]) -> list[tuple[int, int, int, int]]:
    """A pyramid of boxes x0, y0, x1, y1 (x1 and y1 exclusive): for each n in `per_side`, n x n that tile the image.

    A box of a tiny image that would hold no pixel is left out.
    """
    boxes = []
    for n in per_side:
        rows, columns = (np.rint(np.linspace(0, length, n + 1)).astype(int).tolist() for length in (height, width))
        for y0, y1 in pairwise(rows):
            boxes += [(x0, y0, x1, y1) for x0, x1 in pairwise(columns) if x0 < x1 and y0 < y1]
    return boxes


def box_masks(height: int, width: int) -> list[bytes]:
    """The yardstick's masks in an image of this size."""
    counts = [
        counts_from_transitions(transitions(np.ones((y1 - y0, x1 - x0), bool), x0, y0, height), height * width)
        for x0, y0, x1, y1 in grid_boxes(height, width, PYRAMID)
    ]
    return compress_counts(np.concatenate(counts), np.array([len(one) for one in counts]))


def measure(images: dict[str, LabelledImage], masks: dict[str, list[bytes]]) -> Measured:
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
