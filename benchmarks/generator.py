"""Automatic mask generation end to end, decoded pixels in, COCO run lengths out, side by side with its peers.

    python -m benchmarks.generator --peer-python ENV/bin/python --images PHOTOS/*.jpg

ENV is an environment of its own with PyPI `segment-anything` (see README.md here). Each generator runs in a process of
its own; they take turns, image by image and repetition by repetition, with the same weights, pixels, points and
thresholds. Beside each speed stands how far the masks agree with those of the first generator in the table, the
official one where it takes part. Exit code 1 if the fp32 masks are fewer than 99 % matched at IoU .95 with it, or their
counts differ by more than 1 %.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.matching import Agreement, ScoredMasks, agreement
from benchmarks.random_weights import random_sam
from benchmarks.table import markdown_table
from models.generator.generate import MaskGenerator
from models.generator.settings import GenerateSettings
from models.weights import convert, load_sam, save_sam
from stages.decode_pixels import DecodeSettings, decode_image

OURS = "ours fp32"
MIN_SHARE = 0.99
MAX_COUNT_DIFFERENCE = 0.01
CROP_DOWNSCALE = 2  # crop_n_points_downscale_factor, where there are crops
RANDOM = "random:"
SHARES = (1 / 3, 2 / 3)  # with random weights: outputs that pass predicted IoU, and of these those that pass stability


@dataclass
class Answers:
    """One generator's answers on one image, a repetition each; the masks are the same every time."""

    seconds: list[float]
    cpu_seconds: list[float]  # of all threads; on a busy machine the steadier measure, with one thread
    peak_bytes: list[int]
    masks: ScoredMasks


class Worker:
    """A generator in its own process."""

    def __init__(self, python: Path, module: str, job: dict[str, Any]) -> None:
        command = [str(python), "-m", f"benchmarks.{module}"]
        self.name = f"{python} -m {module}"
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._send(json.dumps(job))

    def ask(self, image: Path) -> dict[str, Any]:
        self._send(str(image))
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name}: ended with code {self.process.wait()}, see above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _send(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        images = _images(arguments, Path(folder))
        checkpoint = _checkpoint(arguments, Path(folder), next(iter(images.values())))
        workers = _workers(arguments, Path(folder), checkpoint)
        rows, disagree = [], False
        for name, path in images.items():
            height, width = np.load(path, mmap_mode="r").shape[:2]
            answers = _take_turns(workers, path, arguments.repetitions)
            reference = next(iter(answers.values())).masks
            for worker, answer in answers.items():
                against = agreement(reference, answer.masks)
                rows.append(_row(f"{name} {width}×{height}", worker, answer, against, answers[OURS]))
                off = against.share < MIN_SHARE or against.count_difference > MAX_COUNT_DIFFERENCE
                disagree |= worker == OURS and off
            print(_table(rows), end="\n\n", flush=True)
        for worker in workers.values():
            worker.process.stdin.close()
            worker.process.wait()
    thresholds = arguments.pred_iou_thresh, arguments.stability_score_thresh
    print("thresholds: predicted IoU > {:.4g}, stability ≥ {:.4g}".format(*thresholds))
    sys.exit(1 if disagree else 0)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--peer-python", type=Path, help="the interpreter of an environment with segment-anything; without it, no peer")
    add("--transformers", action="store_true", help="the pipeline of `transformers` as well")
    add("--images", type=Path, nargs="+", required=True)
    add("--size", help="WIDTHxHEIGHT to enlarge the images to, such as 6000x4000")
    add("--checkpoint", default="sam_tiny", help="a model's name, a file, or random:vit_b (default: %(default)s)")
    add("--points-per-side", type=int, default=32)
    add("--pred-iou-thresh", type=float, default=0.22, help="default: %(default)s, what the embedded model needs")
    add("--stability-score-thresh", type=float, default=0.6, help="both are chosen anew for random weights")
    add("--crop-layers", type=int, default=0, help="the official crop_n_layers, points halved a layer")
    add("--layers", type=int, nargs="+", help="our crop layers, such as 1 2 for a large scene; not with a peer")
    add("--points-per-batch", type=int, default=64, help="the peers'; fewer need less memory on large photographs")
    add("--precisions", nargs="+", default=["fp32"], help="ours, fp32 among them")
    add("--store-rejected", action="store_true", help="ours once more, with rejected candidates kept for replays")
    add("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    add("--compile", action="store_true", help="ours compiled; the first repetition then includes compiling")
    add("--threads", type=int, default=torch.get_num_threads())
    add("--repetitions", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.layers and arguments.peer_python:
        parser.error("--layers: the official generator always begins with the whole image; use --crop-layers")
    return arguments


def _images(arguments: argparse.Namespace, folder: Path) -> dict[str, Path]:
    """Decoded once, here, so that what is compared is the generators: name to array file."""
    arrays = {}
    for path in arguments.images:
        pixels = decode_image(path.read_bytes(), DecodeSettings()).pixels
        if arguments.size:
            width, height = map(int, arguments.size.split("x"))
            pixels = np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))
        arrays[path.stem] = folder / f"{path.stem}.npy"
        np.save(arrays[path.stem], pixels)
    return arrays


def _checkpoint(arguments: argparse.Namespace, folder: Path, first_image: Path) -> str:
    """The checkpoint itself, or random weights; for these thresholds are chosen on the first image."""
    if not arguments.checkpoint.startswith(RANDOM):
        return arguments.checkpoint
    sam = random_sam(arguments.checkpoint.removeprefix(RANDOM))
    save_sam(folder / "random.safetensors", sam, sam.config, torch.float32)
    settings = GenerateSettings(points_per_side=8)
    [found] = MaskGenerator(sam, settings, -1e9, 0.0).generate([np.load(first_image)])
    # what is empty or never came out counts as not passed
    num_outputs = 64 * sam.config.num_multimask_outputs
    scores = np.sort(found.predicted_iou)[::-1]
    arguments.pred_iou_thresh = float(scores[min(len(scores) - 1, int(SHARES[0] * num_outputs))])
    passed = found.stability_score[found.predicted_iou > arguments.pred_iou_thresh]
    arguments.stability_score_thresh = float(np.quantile(passed, 1 - SHARES[1]))
    return str(folder / "random.safetensors")


def _workers(arguments: argparse.Namespace, folder: Path, checkpoint: str) -> dict[str, Worker]:
    """The reference first."""
    sam, _ = load_sam(checkpoint)
    job: dict[str, Any] = {
        "sizes": json.loads(sam.config.to_json()),
        "threads": arguments.threads,
        "device": arguments.device,
        "compile": arguments.compile,
        "our_points_per_batch": 64 if arguments.device == "cpu" else 256,  # as `resources` resolves it
        "points_per_side": arguments.points_per_side,
        "points_per_batch": arguments.points_per_batch,
        "pred_iou_thresh": arguments.pred_iou_thresh,
        "stability_score_thresh": arguments.stability_score_thresh,
        "crop_layers": arguments.crop_layers,
        "crop_downscale": CROP_DOWNSCALE if arguments.crop_layers else 1,
        "weights": str(folder / "weights.pth"),
        "folder": str(folder / "hugging_face"),
    }
    workers = {}
    if arguments.peer_python:
        convert(checkpoint, folder / "weights.pth")
        workers["segment-anything"] = Worker(arguments.peer_python, "worker_official", job)
    if arguments.peer_python and arguments.transformers:
        convert(checkpoint, folder / "hugging_face")
        workers["transformers"] = Worker(arguments.peer_python, "worker_transformers", job)
    for precision in arguments.precisions:
        recipe = _recipe(arguments, checkpoint, precision, store_rejected=False)
        workers[f"ours {precision}"] = Worker(Path(sys.executable), "worker_ours", job | {"recipe": recipe})
    if arguments.store_rejected:
        recipe = _recipe(arguments, checkpoint, "fp32", store_rejected=True)
        workers["ours fp32, store_rejected"] = Worker(Path(sys.executable), "worker_ours", job | {"recipe": recipe})
    return workers


def _recipe(arguments: argparse.Namespace, checkpoint: str, precision: str, store_rejected: bool) -> dict[str, Any]:
    layers = arguments.layers or list(range(arguments.crop_layers + 1))
    crops = {"layers": layers, "crop_n_points_downscale_factor": CROP_DOWNSCALE}
    iou, stability = arguments.pred_iou_thresh, arguments.stability_score_thresh
    # below the thresholds by about as much as the default floor is below the default thresholds
    floor = {"predicted_iou": min(1.0, max(0.0, 0.9 * iou)), "stability_score": 0.95 * stability}
    return {
        "input": "unused",
        "output": "unused",
        "preset": "sam_amg",
        "model": {"checkpoint": checkpoint},
        "generate": {
            "points_per_side": arguments.points_per_side,
            "precision": precision,
            "store_rejected": store_rejected,
            "store_floor": floor,
            **(crops if layers != [0] else {}),
        },
        "filter": {"pred_iou_thresh": iou, "stability_score_thresh": stability},
    }


def _take_turns(workers: dict[str, Worker], image: Path, repetitions: int) -> dict[str, Answers]:
    height, width = np.load(image, mmap_mode="r").shape[:2]
    answers: dict[str, Answers] = {}
    for _ in range(repetitions):
        for name, worker in workers.items():
            found = worker.ask(image)
            scores = np.array(found["predicted_iou"]), np.array(found["stability_score"])
            masks = ScoredMasks(height, width, [rle.encode() for rle in found["rles"]], *scores)
            answer = answers.setdefault(name, Answers([], [], [], masks))
            answer.seconds.append(found["seconds"])
            answer.cpu_seconds.append(found["cpu_seconds"])
            answer.peak_bytes.append(found["peak_bytes"])
            print(
                f"{name}: {len(masks.rles)} masks, {found['seconds']:.1f} s, CPU {found['cpu_seconds']:.1f} s",
                file=sys.stderr,
                flush=True,
            )
    return answers


def _row(image: str, worker: str, answer: Answers, against: Agreement, ours: Answers) -> list[str]:
    seconds, cpu_seconds = median(answer.seconds), median(answer.cpu_seconds)
    spread = f"{min(answer.seconds):.2f}–{max(answer.seconds):.2f}"
    row = [image, worker, f"{seconds:.2f}", spread, f"{seconds / median(ours.seconds):.1f}×", f"{cpu_seconds:.2f}"]
    row += [f"{cpu_seconds / median(ours.cpu_seconds):.1f}×", f"{max(answer.peak_bytes) / 1e9:.2f}"]
    row += [f"{against.num_ours}", f"{against.share:.2%}", f"{against.near_share:.2%}"]
    return [*row, f"{against.mean_matched_iou:.5f}", f"{against.missing}", f"{against.extra}"]


def _table(rows: list[list[str]]) -> str:
    header = ["image", "generator", "median s", "min–max", "of ours", "CPU s", "of ours"]
    header += ["peak GB", "masks"]
    return markdown_table([*header, "at .95", "at .99", "mean IoU", "missing", "extra"], rows)


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        sys.exit(f"{Path(__file__).stem}: {error}")
