"""The official generator, PyPI `segment-anything`, in its own environment; imports nothing of MaskFoundry."""

from typing import Any

import numpy as np
import torch
from segment_anything import SamAutomaticMaskGenerator

from benchmarks.official_sam import build_official_sam
from benchmarks.worker import Generate, Masks, serve


def load(job: dict[str, Any]) -> Generate:
    sam = build_official_sam(job["sizes"])
    sam.load_state_dict(torch.load(job["weights"], map_location="cpu", weights_only=True), strict=True)
    generator = SamAutomaticMaskGenerator(
        sam.eval().to(job["device"]),
        output_mode="coco_rle",
        points_per_side=job["points_per_side"],
        points_per_batch=job["points_per_batch"],
        pred_iou_thresh=job["pred_iou_thresh"],
        stability_score_thresh=job["stability_score_thresh"],
        crop_n_layers=job["crop_layers"],
        crop_n_points_downscale_factor=job["crop_downscale"],
    )

    def generate(pixels: np.ndarray) -> Masks:
        masks = generator.generate(pixels)
        rles = [mask["segmentation"]["counts"].encode() for mask in masks]
        return rles, [mask["predicted_iou"] for mask in masks], [mask["stability_score"] for mask in masks]

    return generate


if __name__ == "__main__":
    serve(load)
