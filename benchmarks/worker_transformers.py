"""The mask-generation pipeline of `transformers`. It gives dense masks, so encoding them is part of its work."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from transformers import MaskGenerationPipeline, SamImageProcessor, SamModel

from benchmarks.worker import Generate, Masks, serve


def load(job: dict[str, Any]) -> Generate:
    size = job["sizes"]["image_size"]
    low = 4 * size // job["sizes"]["patch_size"]
    processor = SamImageProcessor(
        size={"longest_edge": size},
        pad_size={"height": size, "width": size},
        mask_size={"longest_edge": low},
        mask_pad_size={"height": low, "width": low},
    )
    model = SamModel.from_pretrained(job["folder"], dtype=torch.float32).eval()
    pipeline = MaskGenerationPipeline(model=model, image_processor=processor, device=job["device"])

    def generate(pixels: np.ndarray) -> Masks:
        with torch.inference_mode():
            found = pipeline(
                Image.fromarray(pixels),
                points_per_crop=job["points_per_side"],
                points_per_batch=job["points_per_batch"],
                pred_iou_thresh=job["pred_iou_thresh"],
                stability_score_thresh=job["stability_score_thresh"],
                crops_n_layers=job["crop_layers"],
                crop_n_points_downscale_factor=job["crop_downscale"],
            )
        rles = [coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"] for mask in found["masks"]]
        return rles, found["scores"].tolist(), [float("nan")] * len(rles)

    return generate


if __name__ == "__main__":
    serve(load)
