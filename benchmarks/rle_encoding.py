"""Dense masks to COCO run lengths: `models.masks.rle.encode_masks` beside pycocotools' `encode`, byte for byte.

    python -m benchmarks.rle_encoding [--masks 1000] [--size 2250x1500]

The masks are smooth blobs of many sizes, what a generator finds. pycocotools wants them column by column (H, W, N in
Fortran order) and is timed with that layout given, and with the conversion from (N, H, W). Exit code 1 if any byte
differs.
"""

import argparse
import sys
import time
from statistics import median

import numpy as np
import torch
import torch.nn.functional as F
from pycocotools import mask as coco_mask

from benchmarks.table import markdown_table
from models.masks.rle import encode_masks

BLOCK = 50  # dense masks held at once, in each layout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--masks", type=int, default=1000)
    parser.add_argument("--size", default="2250x1500")
    parser.add_argument("--repetitions", type=int, default=3)
    arguments = parser.parse_args()
    width, height = map(int, arguments.size.split("x"))
    seconds: dict[str, list[float]] = {"pycocotools": [], "pycocotools, with conversion": [], "ours": []}
    equal = True
    for _ in range(arguments.repetitions):
        sums = dict.fromkeys(seconds, 0.0)
        for start in range(0, arguments.masks, BLOCK):
            masks = _blobs(min(BLOCK, arguments.masks - start), height, width, start)
            started = time.process_time()
            columns = np.asfortranarray(masks.transpose(1, 2, 0))
            converted = time.process_time()
            expected = coco_mask.encode(columns)
            encoded = time.process_time()
            ours = encode_masks(masks)
            sums["ours"] += time.process_time() - encoded
            sums["pycocotools"] += encoded - converted
            sums["pycocotools, with conversion"] += encoded - started
            equal &= ours == [one["counts"] for one in expected]
        for name, value in sums.items():
            seconds[name].append(value)
    ours_seconds = median(seconds["ours"])
    rows = [
        [name, f"{median(values):.2f}", f"{min(values):.2f}–{max(values):.2f}", f"{median(values) / ours_seconds:.1f}×"]
        for name, values in seconds.items()
    ]
    print(f"{arguments.masks} masks of {width}×{height}, {'the same bytes' if equal else 'BYTES DIFFER'}\n")
    print(markdown_table(["encoder", "median s", "min–max", "of ours"], rows))
    sys.exit(0 if equal else 1)


def _blobs(num_masks: int, height: int, width: int, seed: int) -> np.ndarray:
    """(N, H, W) uint8; from specks to most of the image."""
    generator = torch.Generator().manual_seed(seed)
    masks = np.zeros((num_masks, height, width), np.uint8)
    for mask in masks:
        noise = torch.randn(1, 1, 5, 5, generator=generator)
        h, w = (int(side * float(torch.rand(1, generator=generator)) ** 2) + 8 for side in (height, width))
        h, w = min(h, height), min(w, width)
        blob = F.interpolate(noise, (h, w), mode="bicubic", align_corners=False)[0, 0] > 0
        y, x = (
            int(torch.randint(side - size + 1, (1,), generator=generator)) for side, size in ((height, h), (width, w))
        )
        mask[y : y + h, x : x + w] = blob.numpy()
    return masks


if __name__ == "__main__":
    main()
