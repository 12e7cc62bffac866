"""The official generator, PyPI `segment-anything`, in its own environment; imports nothing of MaskFoundry.

The constructors' arguments are those of segment-anything's `build_sam.py`, with the sizes from the job instead of its
constants.
"""

from functools import partial
from typing import Any

import numpy as np
import torch
from segment_anything import SamAutomaticMaskGenerator
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

from benchmarks.worker import Generate, Masks, serve


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


def load(job: dict[str, Any]) -> Generate:
    sam = build_official_sam(job["sizes"])
    sam.load_state_dict(torch.load(job["weights"], map_location="cpu", weights_only=True), strict=True)
    generator = SamAutomaticMaskGenerator(
        sam.eval(),
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
