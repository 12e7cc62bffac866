"""State dicts of CLIP in their two published layouts, and at other input sizes. Pure functions on dicts of tensors.

"Official" is the layout of OpenAI's files, and of the modules here; "Hugging Face" is that of `transformers.CLIPModel`
(facts: its `modeling_clip.py`), which has no ResNets. No function changes the dict that it is given.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from models.clip.config import RESNET_STRIDE, ClipConfig
from models.clip.positions import interpolate_positions

StateDict = dict[str, Tensor]

PUBLISHED_HEAD_WIDTH = 64

# What OpenAI's archives and old files of transformers hold beside weights: sizes, and indices of positions.
_NOT_WEIGHTS = {
    "input_resolution",
    "context_length",
    "vocab_size",
    "text_model.embeddings.position_ids",
    "vision_model.embeddings.position_ids",
}
# (Hugging Face, official) beginnings of keys.
_TOWERS = (
    ("text_model.encoder.layers.", "transformer.resblocks."),
    ("vision_model.encoder.layers.", "visual.transformer.resblocks."),
)
_NAMES = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",  # misspelt there
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
}
_TRANSPOSED = {"text_projection.weight": "text_projection", "visual_projection.weight": "visual.proj"}
_BLOCK_NAMES = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_BLOCK_KEY = re.compile(r"(\d+)\.(.+)\.(weight|bias)")


def is_hugging_face(state: Mapping[str, Any]) -> bool:
    """Whether the keys are those of `transformers.CLIPModel`."""
    return any(key.startswith(("text_model.", "vision_model.")) for key in state)


def official_layout(state: Mapping[str, Tensor]) -> StateDict:
    """The weights under their official names, whichever layout they are in, without what is no weight.

    Keys that neither layout knows stay as they are. Raises ValueError if a Hugging Face layer lacks one of its
    query, key and value projections, which are one tensor officially.
    """
    weights = {key: value for key, value in state.items() if key not in _NOT_WEIGHTS}
    return _from_hugging_face(weights) if is_hugging_face(weights) else weights


def _from_hugging_face(state: StateDict) -> StateDict:
    renamed: StateDict = {}
    for key, value in state.items():
        theirs, ours = next(((theirs, ours) for theirs, ours in _TOWERS if key.startswith(theirs)), ("", ""))
        block = _BLOCK_KEY.fullmatch(key.removeprefix(theirs)) if theirs else None
        if key in _TRANSPOSED:
            renamed[_TRANSPOSED[key]] = value.T.contiguous()
        elif block is None:
            renamed[_NAMES.get(key, key)] = value
        elif (name := block[2]) in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"):
            parts = [f"{theirs}{block[1]}.self_attn.{part}_proj.{block[3]}" for part in "qkv"]
            if missing := [part for part in parts if part not in state]:
                raise ValueError(f"the weights do not fit a CLIP: {missing[0]} is missing")
            renamed[f"{ours}{block[1]}.attn.in_proj_{block[3]}"] = torch.cat([state[part] for part in parts])
        else:
            renamed[f"{ours}{block[1]}.{_BLOCK_NAMES[name]}.{block[3]}" if name in _BLOCK_NAMES else key] = value
    return renamed


def infer_config(state: Mapping[str, Tensor], hugging_face_config: str | None = None) -> ClipConfig:
    """The sizes of official weights, read off their shapes.

    Shapes do not tell the activation and the numbers of heads. They come from the config.json of `transformers` if its
    text is given, and else are taken to be as OpenAI published: QuickGELU, and heads of width 64. Raises ValueError if
    there cannot be such heads, or if the weights are no CLIP's.
    """
    try:
        vision_layers, vision_width, patch_size = _vision_sizes(state)
        is_resnet = len(vision_layers) == 4
        table = state["visual.attnpool.positional_embedding" if is_resnet else "visual.positional_embedding"]
        feature_width = table.shape[1]
        context_length, text_width = state["positional_embedding"].shape
        sizes: dict[str, Any] = {
            "embed_dim": state["text_projection"].shape[1],
            "image_size": patch_size * round((len(table) - 1) ** 0.5),
            "patch_size": patch_size,
            "vision_layers": vision_layers,
            "vision_width": vision_width,
            "context_length": context_length,
            "vocab_size": len(state["token_embedding.weight"]),
            "text_width": text_width,
            "text_layers": _count(state, r"transformer\.resblocks\.(\d+)\..*"),
        }
    except KeyError as error:
        raise ValueError(f"these weights are not a CLIP's with both of its towers: {error} is missing") from error
    except (IndexError, TypeError, ValueError) as error:  # of too few or too many dimensions
        raise ValueError(f"these weights are not a CLIP's: one has an impossible shape ({error})") from error
    if hugging_face_config is not None:
        return ClipConfig(**sizes, **_what_shapes_do_not_tell(hugging_face_config))
    return ClipConfig(
        **sizes,
        vision_heads=_published_heads("vision_heads", feature_width),
        text_heads=_published_heads("text_heads", text_width),
    )


def _vision_sizes(state: Mapping[str, Tensor]) -> tuple[tuple[int, ...], int, int]:
    """`vision_layers`, `vision_width` and `patch_size`."""
    if "visual.layer1.0.conv1.weight" in state:
        blocks = tuple(_count(state, rf"visual\.layer{stage}\.(\d+)\..*") for stage in (1, 2, 3, 4))
        return blocks, len(state["visual.layer1.0.conv1.weight"]), RESNET_STRIDE
    width, _, _, patch_size = state["visual.conv1.weight"].shape
    return (_count(state, r"visual\.transformer\.resblocks\.(\d+)\..*"),), width, patch_size


def _published_heads(name: str, width: int) -> int:
    if width % PUBLISHED_HEAD_WIDTH:
        raise ValueError(
            f"{name}: shapes do not tell it for a width of {width}, which is no multiple of {PUBLISHED_HEAD_WIDTH}; "
            "give the sizes as JSON in a file of the same name that ends in .json, or transformers' config.json"
        )
    return width // PUBLISHED_HEAD_WIDTH


def _what_shapes_do_not_tell(hugging_face_config: str) -> dict[str, Any]:
    """Heads and activation from a config.json of `transformers`; a key that it leaves out has the default there."""
    try:
        values = json.loads(hugging_face_config)
        # Some published files have each tower's sizes twice; transformers goes by the second.
        text, vision = (values.get(f"{tower}_config") or {} for tower in ("text", "vision"))
        text, vision = text | (values.get("text_config_dict") or {}), vision | (values.get("vision_config_dict") or {})
        activations = {tower.get("hidden_act", "quick_gelu") for tower in (text, vision)}
        heads = {
            "text_heads": int(text.get("num_attention_heads", 8)),
            "vision_heads": int(vision.get("num_attention_heads", 12)),
        }
    except (json.JSONDecodeError, AttributeError, TypeError) as error:
        raise ValueError(f"config.json: not that of a transformers.CLIPModel ({error})") from error
    if len(activations) != 1:
        raise ValueError(f"config.json: hidden_act is {' and '.join(sorted(activations))}; both towers must have one")
    return {**heads, "activation": activations.pop()}


def resize_positions(state: Mapping[str, Tensor], config: ClipConfig) -> StateDict:
    """Official weights with the image tower's positions, where it has any, interpolated to the grid of `config`."""
    if config.is_efficientnet:
        return dict(state)
    key = "visual.attnpool.positional_embedding" if config.is_resnet else "visual.positional_embedding"
    return {**state, key: interpolate_positions(state[key], config.grid_size, config.grid_size)}


def _count(state: Mapping[str, Any], pattern: str) -> int:
    """How many different numbers the group of `pattern` has among the keys that fit it."""
    return len({match[1] for key in state if (match := re.fullmatch(pattern, key))})
