"""State dicts of SAM 2 in their two published layouts. Pure functions on dicts of tensors.

"Official" is the layout of the `sam2` package's files, and of the modules here; "Hugging Face" is that of
`transformers.Sam2VideoModel` (facts: its `modeling_sam2_video.py`). No function changes the dict that it is given.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from models.sam2.config import SAM2_SIZES, Sam2Config

StateDict = dict[str, Tensor]

_GAUSSIAN = "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
# transformers keeps the Fourier frequencies twice, once for the prompts and once for the image.
_GAUSSIAN_TWINS = (
    "shared_image_embedding.positional_embedding",
    "prompt_encoder.shared_embedding.positional_embedding",
)
_POINTS = "prompt_encoder.point_embed.weight"  # of transformers: all four kinds of point as one table

# (Hugging Face, official), as regular expressions of parts of a key; all that fit are replaced, one after the other.
_RENAMED = (
    (r"^vision_encoder\.backbone\.patch_embed\.projection\.", "image_encoder.trunk.patch_embed.proj."),
    (r"^vision_encoder\.backbone\.", "image_encoder.trunk."),
    (r"^vision_encoder\.neck\.convs\.(\d+)\.", r"image_encoder.neck.convs.\1.conv."),
    (r"^prompt_encoder\.mask_embed\.conv1\.", "sam_prompt_encoder.mask_downscaling.0."),
    (r"^prompt_encoder\.mask_embed\.layer_norm1\.", "sam_prompt_encoder.mask_downscaling.1."),
    (r"^prompt_encoder\.mask_embed\.conv2\.", "sam_prompt_encoder.mask_downscaling.3."),
    (r"^prompt_encoder\.mask_embed\.layer_norm2\.", "sam_prompt_encoder.mask_downscaling.4."),
    (r"^prompt_encoder\.mask_embed\.conv3\.", "sam_prompt_encoder.mask_downscaling.6."),
    (r"^prompt_encoder\.", "sam_prompt_encoder."),
    (r"^mask_decoder\.upscale_conv1\.", "mask_decoder.output_upscaling.0."),
    (r"^mask_decoder\.upscale_layer_norm\.", "mask_decoder.output_upscaling.1."),
    (r"^mask_decoder\.upscale_conv2\.", "mask_decoder.output_upscaling.3."),
    (r"^mask_decoder\.", "sam_mask_decoder."),
    (r"^memory_encoder\.mask_downsampler\.final_conv\.", "memory_encoder.mask_downsampler.encoder.12."),
    (r"^memory_encoder\.feature_projection\.", "memory_encoder.pix_feat_proj."),
    (r"^memory_encoder\.projection\.", "memory_encoder.out_proj."),
    (r"^memory_encoder\.memory_fuser\.", "memory_encoder.fuser."),
    (r"\.depthwise_conv\.", ".dwconv."),
    (r"\.pointwise_conv(\d)\.", r".pwconv\1."),
    (r"^(memory_encoder\.fuser\.layers\.\d+)\.scale$", r"\1.gamma"),
    (r"^memory_temporal_positional_encoding$", "maskmem_tpos_enc"),
    (r"^no_memory_embedding$", "no_mem_embed"),
    (r"^no_memory_positional_encoding$", "no_mem_pos_enc"),
    (r"^no_object_pointer$", "no_obj_ptr"),
    (r"^occlusion_spatial_embedding_parameter$", "no_obj_embed_spatial"),
    (r"^object_pointer_proj\.", "obj_ptr_proj."),
    (r"^temporal_positional_encoding_projection_layer\.", "obj_ptr_tpos_proj."),
    (r"\.layer_norm(\d?)\.", r".norm\1."),
    (r"\.layer_norm_final_attn\.", ".norm_final_attn."),
    (r"\.o_proj\.", ".out_proj."),
)
_MASK_DOWNSAMPLER = re.compile(r"(memory_encoder\.mask_downsampler\.)layers\.(\d+)\.(conv|layer_norm)(\..+)")
_MLP_LAYER = re.compile(r"(.+\.)(?:(proj_in|proj_out)|layers\.(\d+))(\.(?:weight|bias))")


def is_sam2(state: Mapping[str, Any]) -> bool:
    """Whether the keys are those of a SAM 2, in either layout."""
    return any(key.startswith(("image_encoder.trunk.", "vision_encoder.backbone.")) for key in state)


def is_hugging_face(state: Mapping[str, Any]) -> bool:
    """Whether the keys are those of `transformers.Sam2VideoModel`."""
    return any(key.startswith(("vision_encoder.", *_GAUSSIAN_TWINS)) for key in state)


def from_hugging_face(state: Mapping[str, Tensor]) -> StateDict:
    """Renames the keys of a `transformers.Sam2VideoModel` to the official ones; keys it does not know stay as they are.

    Raises ValueError if the two copies of the Fourier frequencies differ.
    """
    frequencies = [state[key] for key in _GAUSSIAN_TWINS if key in state]
    if len(frequencies) == 2 and not torch.equal(*frequencies):
        raise ValueError(f"{' and '.join(_GAUSSIAN_TWINS)} differ; a SAM 2 has one set of frequencies")
    apart = {*_GAUSSIAN_TWINS, _POINTS}
    renamed = {_official_key(key, state): value for key, value in state.items() if key not in apart}
    for kind, value in enumerate(state[_POINTS].split(1) if _POINTS in state else ()):
        renamed[f"sam_prompt_encoder.point_embeddings.{kind}.weight"] = value
    return renamed | ({_GAUSSIAN: frequencies[0]} if frequencies else {})


def infer_config(state: Mapping[str, Tensor]) -> Sam2Config:
    """The published sizes that official weights have. Raises ValueError if they are no SAM 2's, or have other sizes:
    shapes do not tell windows and heads."""
    try:
        embed_dim = state["image_encoder.trunk.patch_embed.proj.weight"].shape[0]
        decoder_width = state["sam_mask_decoder.iou_token.weight"].shape[1]
    except KeyError as error:
        raise ValueError(f"these weights are not a SAM 2's: {error} is missing") from error
    depth = sum(re.fullmatch(r"image_encoder\.trunk\.blocks\.\d+\.norm1\.weight", key) is not None for key in state)
    newer = "no_obj_embed_spatial" in state
    for config in SAM2_SIZES.values():
        if (config.embed_dim, sum(config.stage_depths), config.neck_dim, config.no_obj_embed_spatial) == (
            embed_dim,
            depth,
            decoder_width,
            newer,
        ):
            return config
    raise ValueError(
        f"embed_dim: no published SAM 2 has {embed_dim} with {depth} blocks and a decoder of width {decoder_width}; "
        "give the sizes as JSON in a file of the same name that ends in .json"
    )


def _official_key(key: str, state: Mapping[str, Tensor]) -> str:
    if match := _MASK_DOWNSAMPLER.fullmatch(key):
        prefix, number, kind, suffix = match.groups()
        return f"{prefix}encoder.{3 * int(number) + (kind == 'layer_norm')}{suffix}"
    match = _MLP_LAYER.fullmatch(key)
    if match and f"{match[1]}proj_in.weight" in state:
        prefix, name, number, suffix = match.groups()
        inner = sum(re.fullmatch(re.escape(prefix) + r"layers\.\d+\.weight", other) is not None for other in state)
        key = f"{prefix}layers.{ {'proj_in': 0, 'proj_out': inner + 1}.get(name, int(number or 0) + 1) }{suffix}"
    for theirs, ours in _RENAMED:
        key = re.sub(theirs, ours, key)
    return key
