"""The sizes of a SAM 2 image encoder, as one dataclass and a table of small deltas over it."""

import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True)
class HieraConfig:
    """Sizes of a Hiera trunk and its neck; the defaults are those of the published tiny (`sam2_hiera_t.yaml`).

    A patch is 4 x 4 pixels; every stage after the first halves the grid and doubles width and heads. `window_sizes`
    (one a stage) and `position_grid_size` are in patches of the stage. Raises ValueError where sizes do not fit.
    """

    image_size: int = 1024
    embed_dim: int = 96
    num_heads: int = 1
    stage_depths: tuple[int, ...] = (1, 2, 7, 2)
    global_attn_indexes: tuple[int, ...] = (5, 7, 9)
    window_sizes: tuple[int, ...] = (8, 4, 14, 7)
    position_grid_size: int = 7
    neck_dim: int = 256

    def __post_init__(self) -> None:
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
        if self.neck_dim < 1 or self.neck_dim % 4:
            raise ValueError(f"neck_dim: {self.neck_dim} is not a positive multiple of 4, as sine positions need")
        for index in self.global_attn_indexes:
            if not 0 <= index < sum(self.stage_depths):
                raise ValueError(
                    f"global_attn_indexes: {index} is not a block of stage_depths {self.stage_depths}; "
                    f"use 0 to {sum(self.stage_depths) - 1}"
                )


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
