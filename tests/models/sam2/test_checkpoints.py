import dataclasses
from collections.abc import Callable

import pytest
import torch
from transformers import Sam2VideoModel

from models.sam2.build import build_sam2
from models.sam2.checkpoints import from_hugging_face, infer_config, is_hugging_face, is_sam2
from models.sam2.config import SAM2_SIZES, Sam2Config
from models.sam2.model import Sam2

PUBLISHED = [name for name in SAM2_SIZES if name != "debug"]


@pytest.mark.parametrize("size", PUBLISHED)
def test_published_sizes_have_the_names_and_shapes_of_transformers(
    size: str, theirs_on_meta: Callable[[str], dict[str, torch.Size]]
) -> None:
    with torch.device("meta"):
        ours = build_sam2(SAM2_SIZES[size])
    stored = {name: torch.zeros(1).expand(shape) for name, shape in theirs_on_meta(size).items()}
    renamed = from_hugging_face(stored)
    assert {name: value.shape for name, value in renamed.items()} == {
        name: value.shape for name, value in ours.state_dict().items()
    }
    assert is_sam2(stored) and is_hugging_face(stored) and is_sam2(renamed) and not is_hugging_face(renamed)
    assert infer_config(renamed) == SAM2_SIZES[size]


def test_official_names(sam2: Sam2) -> None:
    # A few of each part, as they stand in sam2.1_hiera_tiny.pt.
    assert {
        "maskmem_tpos_enc",
        "no_mem_pos_enc",
        "no_obj_embed_spatial",
        "mask_downsample.weight",
        "obj_ptr_proj.layers.2.bias",
        "obj_ptr_tpos_proj.weight",
        "image_encoder.trunk.pos_embed_window",
        "image_encoder.neck.convs.3.conv.weight",
        "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
        "sam_prompt_encoder.point_embeddings.3.weight",
        "sam_mask_decoder.transformer.layers.1.mlp.layers.1.weight",
        "sam_mask_decoder.pred_obj_score_head.layers.0.weight",
        "sam_mask_decoder.conv_s0.weight",
        "memory_attention.layers.1.cross_attn_image.out_proj.bias",
        "memory_encoder.mask_downsampler.encoder.12.weight",
        "memory_encoder.fuser.layers.1.gamma",
    } <= set(sam2.state_dict())


def test_copies_of_the_frequencies_that_differ(same_models: tuple[Sam2VideoModel, Sam2]) -> None:
    state = same_models[0].state_dict()
    state["shared_image_embedding.positional_embedding"] = torch.zeros(2, 64)
    with pytest.raises(ValueError, match="frequencies"):
        from_hugging_face(state)


def test_unknown_sizes_are_named(sam2: Sam2) -> None:
    state = {**sam2.state_dict(), "image_encoder.trunk.patch_embed.proj.weight": torch.zeros(48, 3, 7, 7)}
    with pytest.raises(ValueError, match="embed_dim: no published SAM 2 has 48 with 8 blocks"):
        infer_config(state)
    with pytest.raises(ValueError, match="not a SAM 2's"):
        infer_config({})


def test_sizes_go_through_json() -> None:
    config = SAM2_SIZES["sam2_hiera_large"]
    assert Sam2Config.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"memory_dim": 12}, "memory_dim: 12"),
        ({"memory_dim": 6}, "memory_dim: 6"),
        ({"decoder_num_heads": 5}, "neck_dim: 32 is not a positive multiple of 10"),
        ({"num_maskmem": 0}, "num_maskmem: 0"),
        ({"max_obj_ptrs_in_encoder": 1}, "max_obj_ptrs_in_encoder: 1"),
    ],
)
def test_sizes_that_do_not_fit_are_named(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SAM2_SIZES["debug"], **changes)
