"""transformers' SAM 2 of our sizes, with random weights, and ours with the same."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import Sam2HieraDetConfig, Sam2VideoConfig, Sam2VideoModel, Sam2VisionConfig
from transformers.models.sam2_video.configuration_sam2_video import (
    Sam2VideoMaskDecoderConfig,
    Sam2VideoPromptEncoderConfig,
)

from models.sam2.build import build_sam2
from models.sam2.checkpoints import from_hugging_face
from models.sam2.config import SAM2_SIZES, Sam2Config
from models.sam2.model import Sam2


def vision_config(config: Sam2Config) -> Sam2VisionConfig:
    dims = [config.embed_dim << stage for stage in range(4)]
    trunk = Sam2HieraDetConfig(
        hidden_size=config.embed_dim,
        num_attention_heads=config.num_heads,
        image_size=[config.image_size] * 2,
        blocks_per_stage=list(config.stage_depths),
        embed_dim_per_stage=dims,
        num_attention_heads_per_stage=[config.num_heads << stage for stage in range(4)],
        window_size_per_stage=list(config.window_sizes),
        global_attention_blocks=list(config.global_attn_indexes),
        window_positional_embedding_background_size=[config.position_grid_size] * 2,
    )
    return Sam2VisionConfig(
        backbone_config=trunk,
        backbone_channel_list=dims[::-1],
        fpn_hidden_size=config.neck_dim,
        backbone_feature_sizes=[[config.image_size // stride] * 2 for stride in (4, 8, 16)],
    )


def video_config(config: Sam2Config) -> Sam2VideoConfig:
    width = config.neck_dim
    return Sam2VideoConfig(
        vision_config=vision_config(config),
        prompt_encoder_config=Sam2VideoPromptEncoderConfig(hidden_size=width, image_size=config.image_size),
        mask_decoder_config=Sam2VideoMaskDecoderConfig(
            hidden_size=width,
            mlp_dim=config.decoder_mlp_dim,
            num_hidden_layers=config.decoder_depth,
            num_attention_heads=config.decoder_num_heads,
            num_multimask_outputs=config.num_multimask_outputs,
            iou_head_depth=config.iou_head_depth,
            iou_head_hidden_dim=config.iou_head_hidden_dim,
        ),
        image_size=config.image_size,
        num_maskmem=config.num_maskmem,
        max_object_pointers_in_encoder=config.max_obj_ptrs_in_encoder,
        enable_occlusion_spatial_embedding=config.no_obj_embed_spatial,
        enable_temporal_pos_encoding_for_object_pointers=config.add_tpos_enc_to_obj_ptrs,
        memory_attention_hidden_size=width,
        memory_attention_num_layers=config.memory_attention_depth,
        memory_attention_feed_forward_hidden_size=config.memory_attention_mlp_dim,
        memory_attention_rope_feat_sizes=[config.embedding_size] * 2,
        memory_encoder_hidden_size=width,
        memory_encoder_output_channels=config.memory_dim,
        mask_downsampler_embed_dim=width,
        memory_fuser_num_layers=config.memory_fuser_depth,
        memory_fuser_embed_dim=width,
        memory_fuser_intermediate_dim=4 * width,
    )


def random_state(model: torch.nn.Module) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    state = {
        name: torch.randn(value.shape, generator=generator) * (0.3 if value.ndim == 1 else value[0].numel() ** -0.5)
        for name, value in model.state_dict().items()
    }
    if "shared_image_embedding.positional_embedding" in state:
        state["prompt_encoder.shared_embedding.positional_embedding"] = state[
            "shared_image_embedding.positional_embedding"
        ]
    return state


# transformers has 64 channels of memory, whatever its config says.
CONFIG = dataclasses.replace(SAM2_SIZES["debug"], neck_dim=128, memory_dim=64)
IN_SIGHT = 1.5  # a bias of the object score under which every object is in sight; random weights have none


def with_theirs(config: Sam2Config) -> tuple[Sam2VideoModel, Sam2]:
    theirs = Sam2VideoModel(video_config(config)).eval().requires_grad_(False)
    state = random_state(theirs)
    state["mask_decoder.pred_obj_score_head.proj_out.bias"].fill_(IN_SIGHT)
    theirs.load_state_dict(state)
    ours = build_sam2(config).eval().requires_grad_(False)
    ours.load_state_dict(from_hugging_face(state), strict=True)
    return theirs, ours


@pytest.fixture(scope="session")
def same_models() -> tuple[Sam2VideoModel, Sam2]:
    return with_theirs(CONFIG)


@pytest.fixture(scope="session")
def same_models_2_0() -> tuple[Sam2VideoModel, Sam2]:
    return with_theirs(dataclasses.replace(CONFIG, no_obj_embed_spatial=False, add_tpos_enc_to_obj_ptrs=False))


@pytest.fixture
def theirs_on_meta() -> Callable[[str], dict[str, torch.Size]]:
    """The names and shapes of a published size in transformers."""

    def shapes(size: str) -> dict[str, torch.Size]:
        with torch.device("meta"):
            return {
                name: value.shape for name, value in Sam2VideoModel(video_config(SAM2_SIZES[size])).state_dict().items()
            }

    return shapes


@pytest.fixture
def sam2() -> Sam2:
    """A debug SAM 2 with random weights and its objects in sight."""
    model = build_sam2(SAM2_SIZES["debug"]).eval().requires_grad_(False)
    state = random_state(model)
    state["sam_mask_decoder.pred_obj_score_head.layers.2.bias"].fill_(IN_SIGHT)
    model.load_state_dict(state)
    return model


@pytest.fixture
def clip() -> Tensor:
    """Ten frames of noise."""
    return torch.randn(10, 3, 64, 64, generator=torch.Generator().manual_seed(1))
