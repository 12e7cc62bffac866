"""One generator in a process of its own: images in by name, masks, seconds and peak memory out.

Runs in the peers' environments too, so it imports nothing of MaskFoundry. The first line of standard input is the job
(JSON), each further line the path of an image (.npy); for each of these a line of JSON is written to standard output.
Waiting costs nothing, so several workers can take turns on one machine. Memory is read from Linux' /proc.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

# COCO compressed run lengths, predicted IoU and stability score (NaN where a peer does not say) of each mask
Masks = tuple[Sequence[bytes], Sequence[float], Sequence[float]]
Generate = Callable[[np.ndarray], Masks]


def serve(load: Callable[[dict[str, Any]], Generate]) -> None:
    """`load` makes the generator from the job. Peak memory counts above the loaded model and the image's pixels."""
    job = json.loads(sys.stdin.readline())
    torch.set_num_threads(job["threads"])
    generate = load(job)
    loaded = _memory("VmRSS")
    for line in sys.stdin:
        pixels = np.load(line.strip())
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew
        started, started_cpu = time.perf_counter(), time.process_time()
        rles, predicted_iou, stability_score = generate(pixels)
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - started_cpu
        answer = {
            "seconds": seconds,
            "cpu_seconds": cpu_seconds,
            "peak_bytes": _memory("VmHWM") - loaded - pixels.nbytes,
            "rles": [rle.decode() for rle in rles],
            "predicted_iou": [float(score) for score in predicted_iou],
            "stability_score": [float(score) for score in stability_score],
        }
        print(json.dumps(answer), flush=True)


def _memory(name: str) -> int:
    """A line of /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}")
