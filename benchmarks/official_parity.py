"""Does `preset: sam_amg` find the masks that the official generator finds? Same weights, same pixels, fp32.

    python -m benchmarks.official_parity --official-python ENV/bin/python --images PHOTOS

ENV is an environment of its own with PyPI `segment-anything` (see README.md here); nothing of it is imported on this
side. Each image is decoded once, here, and handed over as an array, so that what is compared is the generators. Exit
code 1 if fewer than 99 % of the masks match at IoU .95, or the counts differ by more than 1 %.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.matching import Agreement, ScoredMasks, agreement, total
from benchmarks.table import markdown_table
from models.generator.generate import MaskGenerator
from models.sam.config import SamConfig
from models.weights import convert, load_sam
from pipeline.load_recipe import validate_recipe
from pipeline.recipe import Recipe
from stages.decode_pixels import DecodeSettings, decode_image
from stages.filter_rules import filter_found

MIN_SHARE = 0.99
MAX_COUNT_DIFFERENCE = 0.01
CROP_DOWNSCALE = 2  # crop_n_points_downscale_factor, where there are crops
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png"}


def main() -> None:
    arguments = _arguments()
    paths = sorted(path for path in arguments.images.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise SystemExit(
            f"--images {arguments.images}: holds no {', '.join(sorted(IMAGE_SUFFIXES))}; give another folder"
        )
    images = [decode_image(path.read_bytes(), DecodeSettings()).pixels for path in paths]
    official, official_seconds, official_torch = _official(arguments, images, [path.stem for path in paths])
    ours, our_seconds = _ours(_recipe(arguments), images, arguments.points_per_batch)
    parts = [agreement(theirs, own) for theirs, own in zip(official, ours, strict=True)]
    whole = total(parts)
    names = [path.name for path in paths]
    lines = [*zip(names, parts, official_seconds, our_seconds, strict=True)]
    lines.append(("total", whole, sum(official_seconds), sum(our_seconds)))
    print(_table(lines))
    agrees = whole.share >= MIN_SHARE and whole.count_difference <= MAX_COUNT_DIFFERENCE
    print(
        f"\n{whole.share:.2%} of masks matched at IoU .95 (goal {MIN_SHARE:.0%}), counts differ by "
        f"{whole.count_difference:.2%} (goal {MAX_COUNT_DIFFERENCE:.0%}): {'agrees' if agrees else 'DOES NOT AGREE'}"
    )
    if arguments.json:
        report = {
            "agrees": agrees,
            "torch": {"official": official_torch, "ours": torch.__version__},
            "images": [_report(*line) for line in lines],
        }
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    sys.exit(0 if agrees else 1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--official-python", type=Path, required=True, help="the interpreter of an environment with segment-anything")
    add("--images", type=Path, required=True, help="a folder of photographs")
    add("--checkpoint", default="sam_tiny", help="a model's name, or a checkpoint file (default: %(default)s)")
    add("--points-per-side", type=int, default=32)
    add("--pred-iou-thresh", type=float, default=0.22, help="default: %(default)s, what the embedded model needs")
    add("--stability-score-thresh", type=float, default=0.6)
    add("--crop-layers", type=int, default=0, help="the official crop_n_layers, points halved a layer")
    add("--points-per-batch", type=int, default=64, help="fewer need less memory on large photographs")
    add("--json", type=Path, help="write the figures to this file as well")
    return parser.parse_args()


def _recipe(arguments: argparse.Namespace) -> Recipe:
    """The preset as a user would run it."""
    crops = {"layers": list(range(arguments.crop_layers + 1)), "crop_n_points_downscale_factor": CROP_DOWNSCALE}
    return validate_recipe(
        {
            "input": str(arguments.images),
            "output": "unused",
            "preset": "sam_amg",
            "model": {"checkpoint": arguments.checkpoint},
            "generate": {
                "points_per_side": arguments.points_per_side,
                "store_rejected": False,
                **(crops if arguments.crop_layers else {}),
            },
            "filter": {
                "pred_iou_thresh": arguments.pred_iou_thresh,
                "stability_score_thresh": arguments.stability_score_thresh,
            },
        }
    )


def _official(
    arguments: argparse.Namespace, images: list[np.ndarray], names: list[str]
) -> tuple[list[ScoredMasks], list[float], str]:
    """The official generator's masks, its seconds an image, and its torch."""
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder, "weights.pth")
        convert(arguments.checkpoint, weights)
        sizes = SamConfig.from_json(weights.with_suffix(".json").read_text(encoding="utf-8"))
        arrays = [Path(folder, f"{name}.npy") for name in names]
        for path, image in zip(arrays, images, strict=True):
            np.save(path, image)
        job: dict[str, Any] = {
            "weights": str(weights),
            "sizes": json.loads(sizes.to_json()),
            "images": [str(path) for path in arrays],
            "generator": {
                "points_per_side": arguments.points_per_side,
                "points_per_batch": arguments.points_per_batch,
                "pred_iou_thresh": arguments.pred_iou_thresh,
                "stability_score_thresh": arguments.stability_score_thresh,
                "crop_n_layers": arguments.crop_layers,
                "crop_n_points_downscale_factor": CROP_DOWNSCALE if arguments.crop_layers else 1,
            },
            "output": str(Path(folder, "masks.json")),
        }
        Path(folder, "job.json").write_text(json.dumps(job), encoding="utf-8")
        script = Path(__file__).with_name("official_generate.py")
        command = [str(arguments.official_python), str(script), str(Path(folder, "job.json"))]
        if subprocess.run(command, check=False).returncode:
            raise SystemExit(f"--official-python {arguments.official_python}: the official generator failed, see above")
        result = json.loads(Path(job["output"]).read_text(encoding="utf-8"))
    masks = [
        ScoredMasks(
            height=image.shape[0],
            width=image.shape[1],
            rles=[rle.encode() for rle in found["rles"]],
            predicted_iou=np.array(found["predicted_iou"]),
            stability_score=np.array(found["stability_score"]),
        )
        for found, image in zip(result["images"], images, strict=True)
    ]
    return masks, [found["seconds"] for found in result["images"]], result["torch"]


def _ours(recipe: Recipe, images: list[np.ndarray], points_per_batch: int) -> tuple[list[ScoredMasks], list[float]]:
    """This generator's kept masks, and its seconds an image, filters included."""
    sam, _ = load_sam(recipe.model.checkpoint)
    generator = MaskGenerator(sam, recipe.generate, recipe.min_predicted_iou, recipe.min_stability, points_per_batch)
    masks, seconds = [], []
    for image in images:
        started = time.perf_counter()
        found = generator.generate([image])[0]
        filtered = filter_found(found, recipe.filter)
        seconds.append(time.perf_counter() - started)
        kept = np.flatnonzero(filtered.keep)
        rles = [filtered.rles[index] for index in kept]
        scores = filtered.predicted_iou[kept].astype(np.float64), filtered.stability_score[kept].astype(np.float64)
        masks.append(ScoredMasks(found.height, found.width, rles, *scores))
        print(f"ours: {len(kept)} masks, {seconds[-1]:.1f} s", file=sys.stderr, flush=True)
    return masks, seconds


def _table(lines: list[tuple[str, Agreement, float, float]]) -> str:
    header = ["image", "official", "ours", "at .95", "at .99", "equal", "mean IoU", "missing", "extra"]
    header += ["max Δ IoU score", "max Δ stability", "official s", "ours s"]
    rows = []
    for name, part, official, ours in lines:
        row = [name, f"{part.num_reference}", f"{part.num_ours}", f"{part.share:.2%}", f"{part.near_share:.2%}"]
        row += [f"{part.equal}", f"{part.mean_matched_iou:.5f}", f"{part.missing}", f"{part.extra}"]
        row += [f"{part.max_predicted_iou_difference:.1e}", f"{part.max_stability_difference:.1e}"]
        rows.append([*row, f"{official:.1f}", f"{ours:.1f}"])
    return markdown_table(header, rows)


def _report(name: str, part: Agreement, official_seconds: float, our_seconds: float) -> dict[str, Any]:
    derived = {"share": part.share, "near_share": part.near_share, "mean_matched_iou": part.mean_matched_iou}
    seconds = {"official_seconds": official_seconds, "our_seconds": our_seconds}
    return {"image": name} | asdict(part) | derived | {"missing": part.missing, "extra": part.extra} | seconds


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        sys.exit(f"{Path(__file__).stem}: {error}")
