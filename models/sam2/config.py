"""The sizes of a SAM 2 and of its image encoder, as two dataclasses and tables of small deltas over them."""

import dataclasses
import json
from dataclasses import dataclass

from models.efficientnet import LEVEL_WIDTHS, NUM_BLOCKS
from models.sizes import sizes_from_json

TRUNKS = ("hiera", "efficientnet_lite0")


@dataclass(frozen=True)
class HieraConfig:
    """Sizes of a Hiera trunk and its neck; the defaults are those of the published tiny (`sam2_hiera_t.yaml`).

    A patch is 4 x 4 pixels; every stage after the first halves the grid and doubles width and heads. `window_sizes`
    (one a stage) and `position_grid_size` are in patches of the stage. With the `trunk` efficientnet_lite0 only
    `image_size` and `neck_dim` count. Raises ValueError where sizes do not fit.
    """

    trunk: str = "hiera"
    image_size: int = 1024
    embed_dim: int = 96
    num_heads: int = 1
    stage_depths: tuple[int, ...] = (1, 2, 7, 2)
    global_attn_indexes: tuple[int, ...] = (5, 7, 9)
    window_sizes: tuple[int, ...] = (8, 4, 14, 7)
    position_grid_size: int = 7
    neck_dim: int = 256

    def __post_init__(self) -> None:
        if self.trunk not in TRUNKS:
            raise ValueError(f"trunk: {self.trunk!r} is not known; use one of {', '.join(TRUNKS)}")
        if self.neck_dim < 1 or self.neck_dim % 4:
            raise ValueError(f"neck_dim: {self.neck_dim} is not a positive multiple of 4, as sine positions need")
        if self.trunk == "hiera":
            self._check_hiera()
        elif self.image_size < 32 or self.image_size % 32:
            raise ValueError(f"image_size: {self.image_size} is not a positive multiple of 32 (the last stage's cells)")

    def _check_hiera(self) -> None:
        if len(self.window_sizes) != len(self.stage_depths):
            raise ValueError(f"window_sizes: {self.window_sizes} has not one size for each of stage_depths; give one")
        coarsest = 4 * 2 ** (len(self.stage_depths) - 1)
        for divisor, reason in ((coarsest, "the last stage's patch"), (4 * self.window_sizes[0], "the first window")):
            if self.image_size < 1 or self.image_size % divisor:
                raise ValueError(f"image_size: {self.image_size} is not a positive multiple of {divisor} ({reason})")
        for size in self.window_sizes[:-1]:
            if size < 2 or size % 2:
                raise ValueError(f"window_sizes: {size} is halved with its stage's grid; use an even size")
        if self.embed_dim < 1 or self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim: {self.embed_dim} is not a positive multiple of num_heads ({self.num_heads})")
        for index in self.global_attn_indexes:
            if not 0 <= index < sum(self.stage_depths):
                raise ValueError(
                    f"global_attn_indexes: {index} is not a block of stage_depths {self.stage_depths}; "
                    f"use 0 to {sum(self.stage_depths) - 1}"
                )

    @property
    def level_widths(self) -> tuple[int, ...]:
        """Channels of the trunk's levels, finest first."""
        if self.trunk == "hiera":
            return tuple(self.embed_dim << stage for stage in range(len(self.stage_depths)))
        return LEVEL_WIDTHS


_TINY = HieraConfig()

HIERA_SIZES: dict[str, HieraConfig] = {
    "hiera_tiny": _TINY,
    "hiera_small": dataclasses.replace(_TINY, stage_depths=(1, 2, 11, 2), global_attn_indexes=(7, 10, 13)),
    "hiera_base_plus": dataclasses.replace(
        _TINY,
        embed_dim=112,
        num_heads=2,
        stage_depths=(2, 3, 16, 3),
        global_attn_indexes=(12, 16, 20),
        position_grid_size=14,
    ),
    "hiera_large": dataclasses.replace(
        _TINY,
        embed_dim=144,
        num_heads=2,
        stage_depths=(2, 6, 36, 4),
        global_attn_indexes=(23, 33, 43),
        window_sizes=(8, 4, 16, 8),
    ),
    # Windows of 6 on a grid of 4, so that window padding, also at a pooling block, and global attention all run.
    "debug": dataclasses.replace(
        _TINY,
        image_size=64,
        embed_dim=16,
        stage_depths=(1, 2, 3, 2),
        global_attn_indexes=(4,),
        window_sizes=(8, 4, 6, 2),
        position_grid_size=3,
        neck_dim=32,
    ),
}


@dataclass(frozen=True)
class Sam2Config(HieraConfig):
    """Sizes of a SAM 2; the defaults are those of the published SAM 2.1 tiny (`sam2.1_hiera_t.yaml`).

    `num_maskmem` counts the memories of a frame: the prompted one and those of the frames just before. The two switches
    are what 2.1 added: `no_obj_embed_spatial` marks the memory of a frame where the object is hidden,
    `add_tpos_enc_to_obj_ptrs` tells how far away a pointer's frame is. Raises ValueError where sizes do not fit.
    """

    memory_dim: int = 64
    memory_attention_depth: int = 4
    memory_attention_mlp_dim: int = 2048
    memory_fuser_depth: int = 2
    num_maskmem: int = 7
    max_obj_ptrs_in_encoder: int = 16
    no_obj_embed_spatial: bool = True
    add_tpos_enc_to_obj_ptrs: bool = True
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
        super().__post_init__()
        for divisor, reason in ((2 * self.decoder_num_heads, "twice decoder_num_heads"), (8, "the mask features")):
            if self.neck_dim % divisor:
                raise ValueError(f"neck_dim: {self.neck_dim} is not a positive multiple of {divisor} ({reason})")
        if self.memory_dim < 1 or self.memory_dim % 4 or self.neck_dim % self.memory_dim:
            raise ValueError(
                f"memory_dim: {self.memory_dim} is not a multiple of 4 that divides neck_dim ({self.neck_dim}), "
                "as an object pointer is cut into tokens of memory_dim"
            )
        for name, least in (("num_maskmem", 1), ("max_obj_ptrs_in_encoder", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: {getattr(self, name)} is too few; use at least {least}")

    @property
    def encoder_depth(self) -> int:
        """Blocks of the image encoder."""
        return sum(self.stage_depths) if self.trunk == "hiera" else NUM_BLOCKS

    @property
    def embedding_size(self) -> int:
        """Side of the image embedding, in cells of 16 pixels."""
        return self.image_size // 16

    @property
    def prompt_embed_dim(self) -> int:
        """Width of the image embedding and of the prompts' tokens."""
        return self.neck_dim

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Sam2Config":
        """Reads what `to_json` writes; absent keys take their defaults.

        Raises ValueError for text that is not a JSON object, for an unknown key and for a value of the wrong type.
        """
        return sizes_from_json(cls, text, "SAM 2")


_SAM21 = {
    f"sam2.1_{name}": Sam2Config(**dataclasses.asdict(HIERA_SIZES[name]))
    for name in ("hiera_tiny", "hiera_small", "hiera_base_plus", "hiera_large")
}

SAM2_SIZES: dict[str, Sam2Config] = {
    **_SAM21,
    **{
        name.replace("sam2.1", "sam2"): dataclasses.replace(
            config, no_obj_embed_spatial=False, add_tpos_enc_to_obj_ptrs=False
        )
        for name, config in _SAM21.items()
    },
    "debug": Sam2Config(
        **dataclasses.asdict(HIERA_SIZES["debug"]),
        memory_dim=8,
        memory_attention_depth=2,
        memory_attention_mlp_dim=64,
        num_maskmem=4,
        max_obj_ptrs_in_encoder=6,
        decoder_mlp_dim=64,
        decoder_num_heads=2,
        iou_head_hidden_dim=32,
    ),
}
