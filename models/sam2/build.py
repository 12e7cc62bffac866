"""Builds a SAM 2 of the sizes that a config names."""

from models.layers import Mlp
from models.sam.mask_decoder import MaskDecoder
from models.sam.prompt_encoder import PromptEncoder
from models.sam.transformer import TwoWayTransformer
from models.sam2.config import Sam2Config
from models.sam2.image_encoder import ImageEncoder
from models.sam2.memory_attention import MemoryAttention
from models.sam2.memory_encoder import MemoryEncoder
from models.sam2.model import Sam2


def build_sam2(config: Sam2Config) -> Sam2:
    """A SAM 2 with fresh weights, in training mode."""
    width = config.neck_dim
    return Sam2(
        config,
        image_encoder=ImageEncoder(config),
        memory_attention=MemoryAttention(
            embed_dim=width,
            memory_dim=config.memory_dim,
            depth=config.memory_attention_depth,
            mlp_dim=config.memory_attention_mlp_dim,
        ),
        memory_encoder=MemoryEncoder(
            embed_dim=width, memory_dim=config.memory_dim, fuser_depth=config.memory_fuser_depth
        ),
        sam_prompt_encoder=PromptEncoder(
            embed_dim=width,
            image_size=config.image_size,
            embedding_size=config.embedding_size,
            corners_are_points=True,
        ),
        sam_mask_decoder=MaskDecoder(
            embed_dim=width,
            transformer=TwoWayTransformer(
                depth=config.decoder_depth,
                embed_dim=width,
                num_heads=config.decoder_num_heads,
                make_mlp=lambda: Mlp(width, config.decoder_mlp_dim, width, num_layers=2),
            ),
            num_multimask_outputs=config.num_multimask_outputs,
            iou_head_depth=config.iou_head_depth,
            iou_head_hidden_dim=config.iou_head_hidden_dim,
            second=True,
        ),
    )
