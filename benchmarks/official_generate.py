"""Masks by the official generator, PyPI `segment-anything`: the half of `official_parity` that runs in its environment.

    python official_generate.py JOB.json

JOB.json, written by `official_parity`, names the weights and sizes, the images (arrays of .npy files) and the
generator's arguments; the masks go to its `output`. Imports nothing of MaskFoundry. The constructors' arguments are
those of segment-anything's `build_sam.py`, with the sizes from the job instead of its constants.
"""

import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from segment_anything import SamAutomaticMaskGenerator
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer


def build_official_sam(sizes: dict[str, Any]) -> Sam:
    """The official modules at the sizes of a MaskFoundry `SamConfig`."""
    grid = sizes["image_size"] // sizes["patch_size"]
    sam = Sam(
        image_encoder=ImageEncoderViT(
            img_size=sizes["image_size"],
            patch_size=sizes["patch_size"],
            embed_dim=sizes["encoder_embed_dim"],
            depth=sizes["encoder_depth"],
            num_heads=sizes["encoder_num_heads"],
            out_chans=sizes["prompt_embed_dim"],
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=sizes["window_size"],
            global_attn_indexes=tuple(sizes["encoder_global_attn_indexes"]),
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=sizes["prompt_embed_dim"],
            image_embedding_size=(grid, grid),
            input_image_size=(sizes["image_size"], sizes["image_size"]),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            transformer_dim=sizes["prompt_embed_dim"],
            transformer=TwoWayTransformer(
                depth=sizes["decoder_depth"],
                embedding_dim=sizes["prompt_embed_dim"],
                num_heads=sizes["decoder_num_heads"],
                mlp_dim=sizes["decoder_mlp_dim"],
            ),
            num_multimask_outputs=sizes["num_multimask_outputs"],
            iou_head_depth=sizes["iou_head_depth"],
            iou_head_hidden_dim=sizes["iou_head_hidden_dim"],
        ),
        pixel_mean=sizes["pixel_mean"],
        pixel_std=sizes["pixel_std"],
    )
    sam.mask_threshold = sizes["mask_threshold"]
    return sam


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    sam = build_official_sam(job["sizes"])
    sam.load_state_dict(torch.load(job["weights"], map_location="cpu", weights_only=True), strict=True)
    generator = SamAutomaticMaskGenerator(sam.eval(), output_mode="coco_rle", **job["generator"])
    results = []
    for path in job["images"]:
        pixels = np.load(path)
        started = time.perf_counter()
        masks = generator.generate(pixels)
        seconds = time.perf_counter() - started
        results.append(
            {
                "seconds": seconds,
                "rles": [mask["segmentation"]["counts"] for mask in masks],
                "predicted_iou": [mask["predicted_iou"] for mask in masks],
                "stability_score": [mask["stability_score"] for mask in masks],
            }
        )
        print(f"official: {Path(path).stem}, {len(masks)} masks, {seconds:.1f} s", file=sys.stderr, flush=True)
    output = {"torch": torch.__version__, "images": results}
    Path(job["output"]).write_text(json.dumps(output), encoding="utf-8")


if __name__ == "__main__":
    main()
