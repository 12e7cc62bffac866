"""A clip's frames as SAM 2 takes them."""

from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from models.sam2.model import Sam2


class Frames(Protocol):
    """(H, W, 3) uint8 RGB each, all of one size."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> np.ndarray: ...


class SqueezedFrames:
    """Preprocessed (3, S, S) each, squeezed to the model's square input by Pillow's bicubic filter, as `sam2` has it.
    None is made before it is asked for, and none is kept."""

    def __init__(self, frames: Frames, model: Sam2) -> None:
        self.frames = frames
        self.model = model

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Tensor:
        size = self.model.config.image_size
        squeezed = Image.fromarray(self.frames[index]).resize((size, size))
        return self.model.preprocess(torch.from_numpy(np.array(squeezed)).permute(2, 0, 1)[None])[0]
