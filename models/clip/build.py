"""Builds a CLIP of the sizes that a config names."""

from models.clip.config import ClipConfig
from models.clip.efficientnet_tower import EfficientNetTower
from models.clip.model import Clip
from models.clip.resnet import ModifiedResNet
from models.clip.vision_transformer import VisionTransformer


def build_clip(config: ClipConfig) -> Clip:
    """A CLIP with fresh weights, in training mode."""
    if config.is_efficientnet:
        tower = EfficientNetTower(
            kinds_dim=config.kinds_dim, looks_width=config.looks_width, embed_dim=config.embed_dim
        )
        return Clip(config, tower)
    if config.is_resnet:
        return Clip(
            config,
            ModifiedResNet(
                grid_size=config.grid_size,
                width=config.vision_width,
                layers=config.vision_layers,
                num_heads=config.vision_heads,
                embed_dim=config.embed_dim,
            ),
        )
    return Clip(
        config,
        VisionTransformer(
            grid_size=config.grid_size,
            patch_size=config.patch_size,
            width=config.vision_width,
            num_layers=config.vision_layers[0],
            num_heads=config.vision_heads,
            embed_dim=config.embed_dim,
            activation=config.activation,
        ),
    )
