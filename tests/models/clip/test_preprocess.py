"""Against `transformers`' processor that works with Pillow."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from models.clip.config import CLIP_SIZES, ClipConfig
from models.clip.preprocess import preprocess_image

TOLERANCE = 1e-5
DEBUG = CLIP_SIZES["debug"]


def expected_of(image: np.ndarray, config: ClipConfig) -> torch.Tensor:
    size = config.image_size
    processor = CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    return processor(image, return_tensors="pt", input_data_format="channels_last").pixel_values[0]


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize(
    ("height", "width"), [(224, 224), (300, 500), (501, 333), (17, 23), (224, 225), (227, 224), (1, 1), (5, 40)]
)
def test_the_published_size(height: int, width: int) -> None:
    image = noise(height, width)
    found = preprocess_image(image, CLIP_SIZES["vit_b32"])
    assert found.shape == (3, 224, 224)
    assert found.dtype == torch.float32
    assert (found - expected_of(image, CLIP_SIZES["vit_b32"])).abs().max() <= TOLERANCE


@settings(max_examples=40, deadline=None)
@given(height=st.integers(12, 90), width=st.integers(12, 90), size=st.integers(1, 5))
def test_any_size(height: int, width: int, size: int) -> None:
    config = dataclasses.replace(DEBUG, image_size=16 * size)
    image = noise(height, width)
    found, expected = preprocess_image(image, config), expected_of(image, config)
    assert (found - expected).abs().max() <= TOLERANCE


def test_values() -> None:
    """One colour stays what it is: (value / 255 - mean) / std."""
    image = np.full((40, 70, 3), (255, 0, 51), np.uint8)
    found = preprocess_image(image, DEBUG)
    expected = [(1 - 0.48145466) / 0.26862954, -0.4578275 / 0.26130258, (0.2 - 0.40821073) / 0.27577711]
    assert found.amin(dim=(1, 2)).tolist() == pytest.approx(expected, abs=1e-6)
    assert found.amax(dim=(1, 2)).tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("length", [9, 10, 33, 100_000, 100_001])
def test_of_a_strip_the_middle_is_seen(length: int) -> None:
    """All of it at 64 x 6,400,000 pixels would be gigabytes."""
    strip = np.zeros((1, length, 3), np.uint8)
    strip[:, (length + 1) // 2 :] = 255
    for image in (strip, strip.transpose(1, 0, 2)):
        found = preprocess_image(image, DEBUG)
        assert found.shape == (3, 64, 64)
        line = found[0, 32] if image is strip else found[0, :, 32]
        assert line[0] == found.min()
        assert line[0] < line[40] and (line.diff() >= 0).sum() > 55


def test_a_view_of_an_image_is_an_image() -> None:
    image = noise(60, 80)
    view = image[10:50, 5:70]
    assert torch.equal(preprocess_image(view, DEBUG), preprocess_image(view.copy(), DEBUG))


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8), np.zeros((4, 4, 3))],
)
def test_what_is_no_rgb_image_is_refused(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"give uint8 of shape \(height, width, 3\)"):
        preprocess_image(image, DEBUG)
