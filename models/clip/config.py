"""The sizes of a CLIP, as one dataclass and a table of small deltas over it."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Literal, get_args

from models.sizes import sizes_from_json

Activation = Literal["quick_gelu", "gelu"]

RESNET_STRIDE = 32  # of a ModifiedResNet as a whole, and of EfficientNet-Lite0
EFFICIENTNET_LAYERS = (1, 2, 2, 3, 3, 4, 1)  # the blocks of EfficientNet-Lite0's stages
RESNET_EXPANSION = 32  # channels of its last feature map for each channel of its stem


@dataclass(frozen=True)
class ClipConfig:
    """Sizes of a CLIP; the defaults are those of the published ViT-B/32 (arXiv:2103.00020, tables 19 and 20).

    `vision_layers` tells the kind of image tower: one number is the depth of a ViT, four are the bottlenecks in the
    stages of a ModifiedResNet, whose stem then has `vision_width` channels, and EFFICIENTNET_LAYERS are those of
    EfficientNet-Lite0, of whose features `kinds_dim` components tell kinds and the others, by a layer of `looks_width`,
    looks. `image_size` and `patch_size` are in pixels. `embed_dim` is the width of the space that images and texts
    share.
    Raises ValueError where sizes do not fit together.
    """

    embed_dim: int = 512
    image_size: int = 224
    patch_size: int = 32
    vision_layers: tuple[int, ...] = (12,)
    vision_width: int = 768
    vision_heads: int = 12
    kinds_dim: int = 0
    looks_width: int = 0
    context_length: int = 77
    vocab_size: int = 49408
    text_width: int = 512
    text_heads: int = 8
    text_layers: int = 12
    activation: Activation = "quick_gelu"
    pixel_mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    pixel_std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)

    def __post_init__(self) -> None:
        if len(self.vision_layers) not in (1, 4) and not self.is_efficientnet:
            raise ValueError(
                f"vision_layers: {self.vision_layers} has {len(self.vision_layers)} numbers; use one for a ViT, "
                f"four for a ModifiedResNet, or {EFFICIENTNET_LAYERS} for EfficientNet-Lite0"
            )
        if (self.is_resnet or self.is_efficientnet) and self.patch_size != RESNET_STRIDE:
            name = "a ModifiedResNet" if self.is_resnet else "EfficientNet-Lite0"
            raise ValueError(f"patch_size: {self.patch_size} for {name}; its stride is always {RESNET_STRIDE}")
        if self.is_efficientnet and not (0 < self.kinds_dim < self.embed_dim and self.looks_width > 0):
            raise ValueError(
                f"kinds_dim: {self.kinds_dim} of {self.embed_dim} (embed_dim) with looks_width {self.looks_width}; "
                "EfficientNet-Lite0 needs some of embed_dim for kinds, some for looks, and a looks_width"
            )
        if self.activation not in get_args(Activation):
            raise ValueError(
                f"activation: {self.activation!r} is unknown; use one of {', '.join(get_args(Activation))}"
            )
        self._require_multiple("image_size", "patch_size")
        if not self.is_efficientnet:  # which has no heads
            self._require_multiple("feature_width", "vision_heads")
        self._require_multiple("text_width", "text_heads")

    def _require_multiple(self, name: str, divisor_name: str) -> None:
        value, divisor = getattr(self, name), getattr(self, divisor_name)
        if divisor < 1 or value < 1 or value % divisor:
            raise ValueError(f"{name}: {value} is not a positive multiple of {divisor_name} ({divisor})")

    @property
    def is_resnet(self) -> bool:
        return len(self.vision_layers) == 4

    @property
    def is_efficientnet(self) -> bool:
        return self.vision_layers == EFFICIENTNET_LAYERS

    @property
    def grid_size(self) -> int:
        """Side of the image tower's last feature map."""
        return self.image_size // self.patch_size

    @property
    def feature_width(self) -> int:
        """Channels of the image tower's last feature map."""
        return self.vision_width * (RESNET_EXPANSION if self.is_resnet else 1)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "ClipConfig":
        """Reads what `to_json` writes; absent keys take their defaults.

        Raises ValueError for text that is not a JSON object, for an unknown key and for a value of the wrong type.
        """
        return sizes_from_json(cls, text, "CLIP")


_VIT_B_32 = ClipConfig()
_VIT_L_14 = dataclasses.replace(
    _VIT_B_32,
    embed_dim=768,
    patch_size=14,
    vision_layers=(24,),
    vision_width=1024,
    vision_heads=16,
    text_width=768,
    text_heads=12,
)
_RN50 = dataclasses.replace(_VIT_B_32, embed_dim=1024, vision_layers=(3, 4, 6, 3), vision_width=64, vision_heads=32)
_DEBUG = dataclasses.replace(
    _VIT_B_32,
    embed_dim=24,
    image_size=64,
    patch_size=16,
    vision_layers=(2,),
    vision_width=32,
    vision_heads=2,
    context_length=16,
    vocab_size=520,
    text_width=32,
    text_heads=2,
    text_layers=2,
)

CLIP_SIZES: dict[str, ClipConfig] = {
    "rn50": _RN50,
    "rn101": dataclasses.replace(_RN50, embed_dim=512, vision_layers=(3, 4, 23, 3)),
    "rn50x4": dataclasses.replace(
        _RN50,
        embed_dim=640,
        image_size=288,
        vision_layers=(4, 6, 10, 6),
        vision_width=80,
        vision_heads=40,
        text_width=640,
        text_heads=10,
    ),
    "rn50x16": dataclasses.replace(
        _RN50,
        embed_dim=768,
        image_size=384,
        vision_layers=(6, 8, 18, 8),
        vision_width=96,
        vision_heads=48,
        text_width=768,
        text_heads=12,
    ),
    "rn50x64": dataclasses.replace(
        _RN50,
        image_size=448,
        vision_layers=(3, 15, 36, 10),
        vision_width=128,
        vision_heads=64,
        text_width=1024,
        text_heads=16,
    ),
    "vit_b32": _VIT_B_32,
    "vit_b16": dataclasses.replace(_VIT_B_32, patch_size=16),
    "vit_l14": _VIT_L_14,
    "vit_l14_336": dataclasses.replace(_VIT_L_14, image_size=336),
    "debug": _DEBUG,
    # Its first stage has two bottlenecks, so that one with and one without a projected shortcut run.
    "debug_resnet": dataclasses.replace(
        _DEBUG, image_size=96, patch_size=32, vision_layers=(2, 1, 1, 1), vision_width=8, vision_heads=4
    ),
    "debug_efficientnet": dataclasses.replace(
        _DEBUG, patch_size=32, vision_layers=EFFICIENTNET_LAYERS, kinds_dim=16, looks_width=8
    ),
}
