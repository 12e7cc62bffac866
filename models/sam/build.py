"""Builds a SAM of the sizes that a config names."""

from torch import nn

from models.layers import MlpBlock
from models.sam.config import SamConfig
from models.sam.image_encoder import ImageEncoderViT
from models.sam.mask_decoder import MaskDecoder
from models.sam.model import Sam
from models.sam.prompt_encoder import PromptEncoder
from models.sam.transformer import TwoWayTransformer


def build_sam(config: SamConfig) -> Sam:
    """A SAM with fresh weights, in training mode."""
    return Sam(
        config,
        image_encoder=ImageEncoderViT(
            embedding_size=config.embedding_size,
            patch_size=config.patch_size,
            embed_dim=config.encoder_embed_dim,
            depth=config.encoder_depth,
            num_heads=config.encoder_num_heads,
            global_attn_indexes=config.encoder_global_attn_indexes,
            window_size=config.window_size,
            out_channels=config.prompt_embed_dim,
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=config.prompt_embed_dim,
            image_size=config.image_size,
            embedding_size=config.embedding_size,
        ),
        mask_decoder=MaskDecoder(
            embed_dim=config.prompt_embed_dim,
            transformer=TwoWayTransformer(
                depth=config.decoder_depth,
                embed_dim=config.prompt_embed_dim,
                num_heads=config.decoder_num_heads,
                make_mlp=lambda: MlpBlock(config.prompt_embed_dim, config.decoder_mlp_dim, nn.ReLU()),
            ),
            num_multimask_outputs=config.num_multimask_outputs,
            iou_head_depth=config.iou_head_depth,
            iou_head_hidden_dim=config.iou_head_hidden_dim,
        ),
    )
