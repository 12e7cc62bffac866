"""Images for CLIP: shorter side resized, centre cropped, normalised (facts: CLIP's published `clip.py`)."""

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from models.clip.config import ClipConfig

MAX_ASPECT = 8  # of what is resized before it is cropped to a square


def preprocess_image(image: NDArray[np.uint8], config: ClipConfig) -> Tensor:
    """RGB (H, W, 3), 0..255 -> normalised (3, S, S) float32, S being `config.image_size`.

    The shorter side is resized to S with Pillow's bicubic filter, the longer one in proportion, rounded down; where
    the longer one cannot be cropped evenly, the odd pixel falls off at the right or bottom, as in `transformers`.
    Of a strip, whose ends are cropped anyway, only the middle is resized; that may move it by less than a pixel.
    Raises ValueError for another shape or type.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise ValueError(f"image: {image.dtype} of shape {image.shape}; give uint8 of shape (height, width, 3)")
    image = _middle(image)
    size = config.image_size
    shorter = min(image.shape[:2])
    height, width = (int(size * length / shorter) for length in image.shape[:2])
    top, left = (height - size) // 2, (width - size) // 2
    resized = np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
    cropped = torch.from_numpy(resized[top : top + size, left : left + size])
    pixels = cropped.permute(2, 0, 1) / 255  # (3, S, S)
    mean, std = torch.tensor([config.pixel_mean, config.pixel_std]).view(2, 3, 1, 1)
    return (pixels - mean) / std


def _middle(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image, or its middle if one side is more than MAX_ASPECT times the other."""
    height, width = image.shape[:2]
    longest = MAX_ASPECT * min(height, width)
    rows, columns = (max(length - longest, 0) // 2 for length in (height, width))
    return image[rows : height - rows, columns : width - columns]
