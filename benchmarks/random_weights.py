"""A SAM of a published size with random weights that find masks of natural shapes.

Plain random weights give noise, whose outlines would cost more than everything else. Here an image's position encodings
are a smooth random field with the image only a part of it, upscaling does not tell the pixels of a cell apart, and what
prompts say weighs much; so masks are blobs that differ from prompt to prompt, and scores spread.
"""

import torch
import torch.nn.functional as F
from torch import nn

from models.sam.build import build_sam
from models.sam.config import SAM_SIZES
from models.sam.model import Sam

FIELD_SIDE = 6  # blobs are about a sixth of the image wide


@torch.no_grad()
def random_sam(size: str, seed: int = 0) -> Sam:
    """`size`: a key of `SAM_SIZES`."""
    torch.manual_seed(seed)
    sam = build_sam(SAM_SIZES[size]).eval().requires_grad_(False)
    positions = sam.image_encoder.pos_embed
    field = torch.randn(1, positions.shape[-1], FIELD_SIDE, FIELD_SIDE)
    field = F.interpolate(field, positions.shape[1:3], mode="bicubic", align_corners=False)
    positions.copy_(2 * field.permute(0, 2, 3, 1))
    decoder = sam.mask_decoder
    for layer in decoder.output_upscaling:
        if isinstance(layer, nn.ConvTranspose2d):
            layer.weight.copy_(layer.weight[..., :1, :1].expand_as(layer.weight) * 2)
    for mlp in decoder.output_hypernetworks_mlps:
        mlp.layers[-1].weight.mul_(20)
    decoder.iou_prediction_head.layers[-1].weight.mul_(10)
    for layer in decoder.transformer.layers:
        layer.cross_attn_image_to_token.out_proj.weight.mul_(3)
    return sam
