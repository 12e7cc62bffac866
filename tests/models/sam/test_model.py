from collections.abc import Callable

import pytest
import torch

from models.sam.build import build_sam
from models.sam.config import SAM_SIZES, SamConfig
from models.sam.model import Prompts, Sam

DEBUG = SAM_SIZES["debug"]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_images_are_normalised_and_padded_with_zeros(dtype: torch.dtype) -> None:
    sam = build_sam(DEBUG)
    images = torch.randint(0, 256, (2, 3, 20, 64)).to(dtype)
    out = sam.preprocess(images)
    assert (out.shape, out.dtype) == ((2, 3, 64, 64), torch.float32)
    expected = (float(images[1, 2, 19, 63]) - 103.53) / 57.375
    assert out[1, 2, 19, 63].item() == pytest.approx(expected, abs=1e-5)
    assert out[:, :, 20:].abs().max() == 0


def test_one_pixel_is_an_image_and_half_precision_rounds_only_the_result() -> None:
    sam = build_sam(DEBUG)
    pixel = torch.full((1, 3, 1, 1), 124, dtype=torch.uint8)
    exact = sam.preprocess(pixel)
    assert exact.count_nonzero() == 3
    half = sam.to(torch.bfloat16)
    assert half.dtype == torch.bfloat16
    assert torch.equal(half.preprocess(pixel), exact.to(torch.bfloat16))


@pytest.mark.parametrize("shape", [(1, 3, 65, 10), (1, 3, 10, 65)])
def test_an_image_that_is_too_large_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"images: \d+ x \d+ pixels exceed the model's 64"):
        build_sam(DEBUG).preprocess(torch.zeros(shape))


def test_every_parameter_learns() -> None:
    """Between them, a point and a box with a mask prompt reach every parameter, through single and multiple masks."""
    torch.manual_seed(0)
    sam = build_sam(DEBUG).train()
    images = sam.encode_images(sam.preprocess(torch.rand(2, 3, 64, 64) * 255))
    points = Prompts(points=torch.rand(2, 3, 2) * 64, labels=torch.tensor([[1, 0, -1], [0, 1, 1]]))
    boxes = Prompts(
        boxes=torch.tensor([[1.0, 2.0, 30.0, 40.0], [9.0, 9.0, 60.0, 60.0]]), masks=torch.randn(2, 1, 16, 16)
    )
    outputs = [*sam.predict_masks(images, points, True), *sam.predict_masks(images, boxes, False)]
    torch.stack([output.square().sum() for output in outputs]).sum().backward()
    idle = [name for name, p in sam.named_parameters() if p.grad is None or p.grad.abs().max() == 0]
    # A constant added to all keys changes no attention, so their biases' gradients are rounding errors.
    assert [name for name in idle if not name.endswith("k_proj.bias")] == []


def test_half_precision_stays_close(make_sam: Callable[[SamConfig], Sam]) -> None:
    sam = make_sam(DEBUG)
    images = torch.rand(1, 3, 64, 48) * 255
    prompts = Prompts(points=torch.rand(4, 1, 2) * 48, labels=torch.ones(4, 1))
    exact, exact_iou = sam.predict_masks(sam.encode_images(sam.preprocess(images)), prompts, True)
    half = sam.to(torch.bfloat16)
    logits, iou = half.predict_masks(half.encode_images(half.preprocess(images)), prompts, True)
    assert logits.dtype == iou.dtype == torch.bfloat16
    assert (logits - exact).abs().mean() < 0.2 * exact.std()
    assert (iou - exact_iou).abs().max() < 0.2
