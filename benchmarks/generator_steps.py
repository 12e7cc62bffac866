"""Where the time of automatic mask generation goes, step by step, and how near the model's steps come to the machine.

    python -m benchmarks.generator_steps --image PHOTO [--checkpoint sam_vit_b] [--threads 1]

Times are processor time, which a busy machine disturbs little; use one thread. The share is floating-point
operations actually done a second over those of a large matrix product in the same precision
and with as many threads (roofline). Runs on the CPU, where a step ends when its call returns.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.generator import RANDOM
from benchmarks.random_weights import random_sam
from benchmarks.table import markdown_table
from models.generator import generate
from models.generator.bounds import StabilityBound
from models.generator.generate import MaskGenerator
from models.generator.settings import GenerateSettings
from models.generator.upsample import Upsampler
from models.weights import load_sam
from stages import filter_rules
from stages.decode_pixels import DecodeSettings, decode_image
from stages.filter_settings import FilterSettings

MATRIX_SIDE = 2048


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    name = arguments.checkpoint
    sam = random_sam(name.removeprefix(RANDOM)) if name.startswith(RANDOM) else load_sam(name)[0]
    settings = GenerateSettings(points_per_side=arguments.points_per_side, precision=arguments.precision)
    thresholds = arguments.pred_iou_thresh, arguments.stability_score_thresh
    generator = MaskGenerator(sam, settings, *thresholds)
    filters = FilterSettings(pred_iou_thresh=thresholds[0], stability_score_thresh=thresholds[1])
    seconds: dict[str, float] = defaultdict(float)
    encoded = arguments.image.read_bytes()
    pixels = _timed(seconds, "decode", decode_image)(encoded, DecodeSettings()).pixels
    model_steps: list[tuple[Any, str, str]] = [
        (sam, "encode_images", "encoder"),
        (sam.prompt_encoder, "forward", "prompts"),
        (sam.mask_decoder, "attend", "decoder: attention"),
        (sam.mask_decoder, "masks", "decoder: masks"),
    ]
    run = lambda: filter_rules.filter_found(generator.generate([pixels])[0], filters)  # noqa: E731
    flops = _flops(run, model_steps)
    steps = [
        *model_steps,
        (generate, "resize_longest_side", "resize"),
        (StabilityBound, "may_reach", "score: bound"),
        (Upsampler, "scan", "score, upsample, outline"),
        (generate, "_assemble", "RLE"),
        (filter_rules, "by_box_nms", "NMS"),
    ]
    for owner, attribute, step in steps:
        setattr(owner, attribute, _timed(seconds, step, getattr(owner, attribute)))
    filter_rules.RULES = tuple(
        filter_rules.by_box_nms if rule.__name__ == "by_box_nms" else rule for rule in filter_rules.RULES
    )
    whole = _timed(seconds, "whole", run)
    for _ in range(arguments.repetitions):
        kept = whole().keep.sum()
    decode = seconds.pop("decode")
    seconds = {step: value / arguments.repetitions for step, value in seconds.items()}
    rate = _matrix_rate(torch.float32 if arguments.precision == "fp32" else torch.bfloat16)
    height, width = pixels.shape[:2]
    print(f"{arguments.image.name} {width}×{height}, {kept} masks; decode {decode:.3f} s")
    print(f"matrix product: {rate / 1e9:.0f} GFLOP/s with {arguments.threads} threads, {arguments.precision}\n")
    print(_table(seconds, flops, rate))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--image", type=Path, required=True)
    add("--checkpoint", default="sam_tiny", help="a model's name, a file, or random:vit_b (default: %(default)s)")
    add("--points-per-side", type=int, default=32)
    add("--pred-iou-thresh", type=float, default=0.22)
    add("--stability-score-thresh", type=float, default=0.6)
    add("--precision", choices=("fp32", "bf16"), default="fp32")
    add("--threads", type=int, default=torch.get_num_threads())
    add("--repetitions", type=int, default=3)
    return parser.parse_args()


def _timed(seconds: dict[str, float], step: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def timed(*arguments: Any, **named: Any) -> Any:
        started = time.process_time()
        result = function(*arguments, **named)
        seconds[step] += time.process_time() - started
        return result

    return timed


def _flops(run: Callable[[], Any], steps: list[tuple[Any, str, str]]) -> dict[str, int]:
    """What each step of the model computes in one run; fused attention taken apart, so that it is counted."""
    counts: dict[str, int] = defaultdict(int)

    def counted(step: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*arguments: Any) -> Any:
            with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
                result = function(*arguments)
            counts[step] += counter.get_total_flops()
            return result

        return counting

    originals = [getattr(owner, attribute) for owner, attribute, _ in steps]
    for (owner, attribute, step), original in zip(steps, originals, strict=True):
        setattr(owner, attribute, counted(step, original))
    run()
    for (owner, attribute, _), original in zip(steps, originals, strict=True):
        setattr(owner, attribute, original)
    return counts


def _matrix_rate(dtype: torch.dtype) -> float:
    """Floating-point operations a second of a large product, the best of several."""
    one, other = torch.randn(2, MATRIX_SIDE, MATRIX_SIDE, dtype=dtype).unbind(0)
    times = []
    for _ in range(8):
        started = time.process_time()
        one @ other
        times.append(time.process_time() - started)
    return float(2 * MATRIX_SIDE**3 / np.min(times))


def _table(seconds: dict[str, float], flops: dict[str, int], rate: float) -> str:
    whole = seconds.pop("whole")
    seconds = seconds | {"the rest": whole - sum(seconds.values())}
    rows = []
    for step, value in [*seconds.items(), ("whole", whole)]:
        count = sum(flops.values()) if step == "whole" else flops.get(step, 0)
        share = [f"{count / 1e9:.1f}", f"{count / value / rate:.0%}"] if count else ["", ""]
        rows.append([step, f"{value * 1e3:.0f}", f"{value / whole:.0%}", *share])
    return markdown_table(["step", "ms", "of the whole", "GFLOP", "of the matrix rate"], rows)


if __name__ == "__main__":
    main()
