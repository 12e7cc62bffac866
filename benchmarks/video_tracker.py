"""Tracking many objects through a clip, side by side with PyPI `sam2`'s video predictor.

    python -m benchmarks.video_tracker --peer-python ENV/bin/python --size 512 --objects 10 --frames 6

ENV is an environment of its own with PyPI `sam2`. Both track the same masks of the first frame through the same frames
(moving noise), with the same random weights of SAM 2.1 tiny, from pixels to logits at the clip's size, and take turns,
repetition by repetition; the peer in a process of its own. Exit code 1 if fewer than 99.9 % of the masks' pixels agree.
"""

import argparse
import dataclasses
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.table import markdown_table
from models.sam2.build import build_sam2
from models.sam2.config import SAM2_SIZES
from models.sam2.model import Sam2
from models.sam2.tracker import VideoTracker

MIN_AGREEMENT = 0.999


def random_sam2(image_size: int) -> Sam2:
    """Weights at which masks are no constants and objects stay in sight."""
    model = build_sam2(dataclasses.replace(SAM2_SIZES["sam2.1_hiera_tiny"], image_size=image_size))
    generator = torch.Generator().manual_seed(0)
    state = {
        name: torch.randn(value.shape, generator=generator) * (0.1 if value.ndim == 1 else value[0].numel() ** -0.5)
        for name, value in model.state_dict().items()
    }
    state["sam_mask_decoder.pred_obj_score_head.layers.2.bias"].fill_(3.0)
    model.load_state_dict(state)
    return model.eval().requires_grad_(False)


def moving_noise(num_frames: int, size: int) -> Tensor:
    coarse = torch.randn(1, 3, size // 16, size // 16, generator=torch.Generator().manual_seed(1))
    picture = F.interpolate(coarse, (size, size), mode="bilinear")[0]
    return torch.stack([picture.roll((3 * frame, 5 * frame), (1, 2)) for frame in range(num_frames)])


def squares(num_objects: int, size: int) -> Tensor:
    masks = torch.zeros(num_objects, size, size, dtype=torch.bool)
    for index, mask in enumerate(masks):
        top, left = size * (index // 4) // 4 + size // 16, size * (index % 4) // 4 + size // 16
        mask[top : top + size // 8, left : left + size // 8] = True
    return masks


def track(model: Sam2, frames: Tensor, masks: Tensor) -> dict[str, Any]:
    started, cpu_started = time.perf_counter(), time.process_time()
    size = frames.shape[-1]
    tracker = VideoTracker(model, frames, size, size)
    for object_id, mask in enumerate(masks):
        tracker.add_mask(0, object_id, mask)
    logits = [
        F.interpolate(found.logits[None], (size, size), mode="bilinear", align_corners=False)[0]
        for found in tracker.propagate()
    ]
    seconds = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu_started}
    return {**seconds, "logits": torch.stack(logits)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", type=Path, required=True)
    parser.add_argument("--size", type=int, default=512, help="pixels of the clip and of the model's input")
    parser.add_argument("--objects", type=int, default=10)
    parser.add_argument("--frames", type=int, default=6)
    parser.add_argument("--repetitions", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model, frames = random_sam2(args.size), moving_noise(args.frames, args.size)
    masks = squares(args.objects, args.size)
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as folder:
        job, answer = Path(folder) / "job.pt", Path(folder) / "answer.pt"
        content = {"state": model.state_dict(), "frames": frames, "masks": masks, "num_threads": args.threads}
        torch.save({**content, "config": "configs/sam2.1/sam2.1_hiera_t.yaml"}, job)
        for _ in range(args.repetitions):
            ours.append(track(model, frames, masks))
            command = [str(args.peer_python), "-m", "benchmarks.worker_official_sam2", str(job), str(answer)]
            subprocess.run(command, check=True)
            theirs.append(torch.load(answer, weights_only=True))
    difference = (ours[0]["logits"] - theirs[0]["logits"]).abs()
    agreement = ((ours[0]["logits"] > 0) == (theirs[0]["logits"] > 0)).float().mean().item()
    rows = []
    for name, runs in (("ours", ours), ("PyPI sam2", theirs)):
        seconds, cpu = (median(run[key] for run in runs) for key in ("seconds", "cpu_seconds"))
        rows.append([name, f"{args.frames / seconds:.3f}", f"{seconds:.1f}", f"{cpu:.1f}"])
    print(markdown_table(["tracker", "frames/s", "seconds", "CPU seconds"], rows))
    ratios = [other["cpu_seconds"] / one["cpu_seconds"] for one, other in zip(ours, theirs, strict=True)]
    spread = theirs[0]["logits"].std().item()
    print(f"\nCPU time, theirs over ours, each turn: {', '.join(f'{ratio:.2f}' for ratio in ratios)}")
    print(
        f"logits differ by {difference.max():.1e} at most, of a spread of {spread:.2f}; {agreement:.4%} of pixels agree"
    )
    return int(agreement < MIN_AGREEMENT)


if __name__ == "__main__":
    sys.exit(main())
