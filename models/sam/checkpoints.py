"""State dicts of SAM in their two published layouts, and at other input sizes. Pure functions on dicts of tensors.

"Official" is the layout of segment-anything's own files, and of the modules here; "Hugging Face" is that of
`transformers.SamModel` (facts: its `modeling_sam.py`). No function changes the dict that it is given.
"""

import functools
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from models.sam.config import SAM_SIZES, SamConfig

StateDict = dict[str, Tensor]

_GAUSSIAN = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
# transformers keeps the Fourier frequencies twice, once for the prompts and once for the image.
_GAUSSIAN_TWINS = (
    "shared_image_embedding.positional_embedding",
    "prompt_encoder.shared_embedding.positional_embedding",
)

# (official, Hugging Face) beginnings of keys; the first that fits is replaced. # stands for a number.
_PREFIXES = (
    ("image_encoder.patch_embed.proj.", "vision_encoder.patch_embed.projection."),
    ("image_encoder.blocks.#.norm#.", "vision_encoder.layers.#.layer_norm#."),
    ("image_encoder.blocks.#.", "vision_encoder.layers.#."),
    ("image_encoder.neck.0.", "vision_encoder.neck.conv1."),
    ("image_encoder.neck.1.", "vision_encoder.neck.layer_norm1."),
    ("image_encoder.neck.2.", "vision_encoder.neck.conv2."),
    ("image_encoder.neck.3.", "vision_encoder.neck.layer_norm2."),
    ("image_encoder.", "vision_encoder."),
    ("prompt_encoder.point_embeddings.", "prompt_encoder.point_embed."),
    ("prompt_encoder.mask_downscaling.0.", "prompt_encoder.mask_embed.conv1."),
    ("prompt_encoder.mask_downscaling.1.", "prompt_encoder.mask_embed.layer_norm1."),
    ("prompt_encoder.mask_downscaling.3.", "prompt_encoder.mask_embed.conv2."),
    ("prompt_encoder.mask_downscaling.4.", "prompt_encoder.mask_embed.layer_norm2."),
    ("prompt_encoder.mask_downscaling.6.", "prompt_encoder.mask_embed.conv3."),
    ("mask_decoder.transformer.layers.#.norm#.", "mask_decoder.transformer.layers.#.layer_norm#."),
    ("mask_decoder.transformer.norm_final_attn.", "mask_decoder.transformer.layer_norm_final_attn."),
    ("mask_decoder.output_upscaling.0.", "mask_decoder.upscale_conv1."),
    ("mask_decoder.output_upscaling.1.", "mask_decoder.upscale_layer_norm."),
    ("mask_decoder.output_upscaling.3.", "mask_decoder.upscale_conv2."),
)
_MLP_LAYER = re.compile(
    r"(mask_decoder\.(?:output_hypernetworks_mlps\.\d+|iou_prediction_head)\.)(proj_in|proj_out|layers\.(\d+))(\..+)"
)


def is_hugging_face(state: Mapping[str, Any]) -> bool:
    """Whether the keys are those of `transformers.SamModel`."""
    return any(key.startswith(("vision_encoder.", *_GAUSSIAN_TWINS)) for key in state)


def from_hugging_face(state: Mapping[str, Tensor]) -> StateDict:
    """Renames the keys of a `transformers.SamModel` to the official ones; keys it does not know stay as they are.

    Raises ValueError if the two copies of the Fourier frequencies differ.
    """
    frequencies = [state[key] for key in _GAUSSIAN_TWINS if key in state]
    if len(frequencies) == 2 and not torch.equal(*frequencies):
        raise ValueError(f"{' and '.join(_GAUSSIAN_TWINS)} differ; a SAM has one set of frequencies")
    renamed = {_official_key(key, state): value for key, value in state.items() if key not in _GAUSSIAN_TWINS}
    return renamed | ({_GAUSSIAN: frequencies[0]} if frequencies else {})


def to_hugging_face(state: Mapping[str, Tensor]) -> StateDict:
    """Renames official keys to those of `transformers.SamModel`, both copies of the Fourier frequencies included."""
    renamed = {_hugging_face_key(key, state): value for key, value in state.items() if key != _GAUSSIAN}
    return renamed | {key: state[_GAUSSIAN].clone() for key in _GAUSSIAN_TWINS if _GAUSSIAN in state}


def hugging_face_config(config: SamConfig) -> dict[str, Any]:
    """The `config.json` with which `transformers.SamModel` builds a model of these sizes."""
    image = {"image_size": config.image_size, "patch_size": config.patch_size}
    return {
        "architectures": ["SamModel"],
        "model_type": "sam",
        "vision_config": image
        | {
            "hidden_size": config.encoder_embed_dim,
            "output_channels": config.prompt_embed_dim,
            "num_hidden_layers": config.encoder_depth,
            "num_attention_heads": config.encoder_num_heads,
            "window_size": config.window_size,
            "global_attn_indexes": list(config.encoder_global_attn_indexes),
            "num_pos_feats": config.prompt_embed_dim // 2,
        },
        "prompt_encoder_config": image | {"hidden_size": config.prompt_embed_dim},
        "mask_decoder_config": {
            "hidden_size": config.prompt_embed_dim,
            "mlp_dim": config.decoder_mlp_dim,
            "num_hidden_layers": config.decoder_depth,
            "num_attention_heads": config.decoder_num_heads,
            "num_multimask_outputs": config.num_multimask_outputs,
            "iou_head_depth": config.iou_head_depth,
            "iou_head_hidden_dim": config.iou_head_hidden_dim,
            "layer_norm_eps": 1e-5,
        },
    }


def infer_config(state: Mapping[str, Tensor]) -> SamConfig:
    """The sizes of official weights, read off their shapes.

    What shapes do not tell (the decoder's heads) is taken to be as published, which needs a decoder of the published
    widths. Raises ValueError if it has others, or if the weights are no SAM's.
    """
    try:
        pos_embed = state["image_encoder.pos_embed"]
        patch_size = state["image_encoder.patch_embed.proj.weight"].shape[-1]
        depth = _count(state, "image_encoder.blocks.#.attn.rel_pos_h")
        tables = [state[f"image_encoder.blocks.{index}.attn.rel_pos_h"] for index in range(depth)]
        embedding_size, embed_dim = pos_embed.shape[2:]
        global_indexes = tuple(index for index, table in enumerate(tables) if len(table) == 2 * embedding_size - 1)
        windows = {(len(table) + 1) // 2 for index, table in enumerate(tables) if index not in global_indexes}
        decoder_mlp_dim, prompt_embed_dim = state["mask_decoder.transformer.layers.0.mlp.lin1.weight"].shape
        sizes: dict[str, Any] = {
            "image_size": embedding_size * patch_size,
            "patch_size": patch_size,
            "encoder_embed_dim": embed_dim,
            "encoder_depth": depth,
            "encoder_num_heads": embed_dim // tables[0].shape[1],
            "encoder_global_attn_indexes": global_indexes,
            "window_size": windows.pop() if windows else 0,
            "prompt_embed_dim": prompt_embed_dim,
            "decoder_depth": _count(state, "mask_decoder.transformer.layers.#.norm1.weight"),
            "decoder_mlp_dim": decoder_mlp_dim,
            "num_multimask_outputs": len(state["mask_decoder.mask_tokens.weight"]) - 1,
            "iou_head_depth": _count(state, "mask_decoder.iou_prediction_head.layers.#.weight"),
            "iou_head_hidden_dim": len(state["mask_decoder.iou_prediction_head.layers.0.weight"]),
        }
    except (KeyError, IndexError) as error:
        raise ValueError(f"these weights are not a SAM's with a ViT image encoder: {error} is missing") from error
    published = SAM_SIZES["vit_h"]
    if (prompt_embed_dim, decoder_mlp_dim) != (published.prompt_embed_dim, published.decoder_mlp_dim):
        raise ValueError(
            f"decoder_num_heads: shapes do not tell it for a decoder of width {prompt_embed_dim} and MLP width "
            f"{decoder_mlp_dim} (published: {published.prompt_embed_dim} and {published.decoder_mlp_dim}); "
            "give the sizes as JSON in a file of the same name that ends in .json"
        )
    return SamConfig(**sizes)


def resize_positions(state: Mapping[str, Tensor], config: SamConfig) -> StateDict:
    """Official weights with their position tables interpolated to the patch grid of `config`.

    The absolute position embedding bicubically, the relative-position tables of global blocks linearly (as ViTDet's
    published code does when it is given another input size); the tables of windowed blocks do not depend on it.
    """
    resized = dict(state)
    size = config.embedding_size
    key = "image_encoder.pos_embed"
    if key in resized and resized[key].shape[1:3] != (size, size):
        grid = resized[key].float().permute(0, 3, 1, 2)  # (1, D, E, E)
        grid = F.interpolate(grid, size=(size, size), mode="bicubic", align_corners=False)
        resized[key] = grid.permute(0, 2, 3, 1).to(resized[key].dtype)  # (1, E, E, D)
    windowless = config.window_size == 0
    for index in range(config.encoder_depth) if windowless else config.encoder_global_attn_indexes:
        for key in (f"image_encoder.blocks.{index}.attn.rel_pos_{axis}" for axis in "hw"):
            if key in resized and len(resized[key]) != 2 * size - 1:
                table = resized[key].float().T[None]  # (1, d, L)
                table = F.interpolate(table, size=2 * size - 1, mode="linear", align_corners=False)
                resized[key] = table[0].T.to(resized[key].dtype)  # (2*size - 1, d)
    return resized


def _official_key(key: str, state: Mapping[str, Tensor]) -> str:
    mlp = _MLP_LAYER.fullmatch(key)
    if mlp is None:
        return _replace_prefix(key, ((theirs, ours) for ours, theirs in _PREFIXES))
    prefix, name, number, suffix = mlp.groups()
    inner = _count(state, f"{prefix}layers.#.weight")
    layer = {"proj_in": 0, "proj_out": inner + 1}.get(name, int(number or 0) + 1)
    return f"{prefix}layers.{layer}{suffix}"


def _hugging_face_key(key: str, state: Mapping[str, Tensor]) -> str:
    mlp = _MLP_LAYER.fullmatch(key)
    if mlp is None:
        return _replace_prefix(key, _PREFIXES)
    prefix, _, number, suffix = mlp.groups()
    last = _count(state, f"{prefix}layers.#.weight") - 1
    name = {0: "proj_in", last: "proj_out"}.get(int(number), f"layers.{int(number) - 1}")
    return f"{prefix}{name}{suffix}"


def _replace_prefix(key: str, pairs: Iterable[tuple[str, str]]) -> str:
    for old, new in pairs:
        if match := _pattern(old).match(key):
            numbers = iter(match.groups())
            return "".join(next(numbers) if c == "#" else c for c in new) + key[match.end() :]
    return key


def _count(state: Mapping[str, Tensor], name: str) -> int:
    """How many keys are `name` with some number for #."""
    return sum(_pattern(name).fullmatch(key) is not None for key in state)


@functools.cache
def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(r"(\d+)".join(re.escape(part) for part in name.split("#")))
