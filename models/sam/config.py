"""The sizes of a SAM, as one dataclass and a table of small deltas over it."""

import dataclasses
import json
from dataclasses import dataclass

from models.sizes import sizes_from_json


@dataclass(frozen=True)
class SamConfig:
    """Sizes of a SAM; the defaults are those of the published ViT-H (segment-anything `build_sam.py`).

    `image_size` and `patch_size` are in pixels; `window_size` is in patches, 0 for global attention in every block.
    Raises ValueError where sizes do not fit together.
    """

    image_size: int = 1024
    patch_size: int = 16
    encoder_embed_dim: int = 1280
    encoder_depth: int = 32
    encoder_num_heads: int = 16
    encoder_global_attn_indexes: tuple[int, ...] = (7, 15, 23, 31)
    window_size: int = 14
    prompt_embed_dim: int = 256
    decoder_depth: int = 2
    decoder_mlp_dim: int = 2048
    decoder_num_heads: int = 8
    num_multimask_outputs: int = 3
    iou_head_depth: int = 3
    iou_head_hidden_dim: int = 256
    mask_threshold: float = 0.0
    pixel_mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    pixel_std: tuple[float, float, float] = (58.395, 57.12, 57.375)

    def __post_init__(self) -> None:
        _require_multiple(self, "image_size", self.patch_size, "patch_size")
        _require_multiple(self, "encoder_embed_dim", self.encoder_num_heads, "encoder_num_heads")
        # The decoder's cross-attention works at half its width; the mask features at an eighth.
        _require_multiple(self, "prompt_embed_dim", 2 * self.decoder_num_heads, "twice decoder_num_heads")
        _require_multiple(self, "prompt_embed_dim", 8, "8")
        for index in self.encoder_global_attn_indexes:
            if not 0 <= index < self.encoder_depth:
                raise ValueError(
                    f"encoder_global_attn_indexes: {index} is not a block of an encoder with "
                    f"encoder_depth {self.encoder_depth}; use 0 to {self.encoder_depth - 1}"
                )

    @property
    def embedding_size(self) -> int:
        """Side of the image embedding, in patches."""
        return self.image_size // self.patch_size

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "SamConfig":
        """Reads what `to_json` writes; absent keys take their defaults.

        Raises ValueError for text that is not a JSON object, for an unknown key and for a value of the wrong type.
        """
        return sizes_from_json(cls, text, "SAM")


def _require_multiple(config: SamConfig, name: str, divisor: int, divisor_name: str) -> None:
    value = getattr(config, name)
    if divisor < 1 or value < 1 or value % divisor:
        raise ValueError(f"{name}: {value} is not a positive multiple of {divisor_name} ({divisor})")


_VIT_H = SamConfig()
_VIT_B = dataclasses.replace(
    _VIT_H,
    encoder_embed_dim=768,
    encoder_depth=12,
    encoder_num_heads=12,
    encoder_global_attn_indexes=(2, 5, 8, 11),
)

SAM_SIZES: dict[str, SamConfig] = {
    "vit_h": _VIT_H,
    "vit_l": dataclasses.replace(
        _VIT_H, encoder_embed_dim=1024, encoder_depth=24, encoder_global_attn_indexes=(5, 11, 17, 23)
    ),
    "vit_b": _VIT_B,
    "vit_s": dataclasses.replace(_VIT_B, encoder_embed_dim=384, encoder_num_heads=6),
    "vit_t": dataclasses.replace(_VIT_B, encoder_embed_dim=192, encoder_num_heads=3),
    # A 4 x 4 grid in windows of 3, so that window padding, windowed and global attention all run.
    "debug": dataclasses.replace(
        _VIT_B,
        image_size=64,
        encoder_embed_dim=32,
        encoder_depth=2,
        encoder_num_heads=2,
        encoder_global_attn_indexes=(1,),
        window_size=3,
        prompt_embed_dim=32,
        decoder_mlp_dim=64,
        decoder_num_heads=2,
        iou_head_hidden_dim=32,
    ),
}
