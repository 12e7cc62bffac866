"""The modules of PyPI `segment-anything` at any sizes, in its own environment; imports nothing of MaskFoundry.

The constructors' arguments are those of segment-anything's `build_sam.py`, with the sizes from a job instead of its
constants.
"""

from functools import partial
from typing import Any

import torch
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
