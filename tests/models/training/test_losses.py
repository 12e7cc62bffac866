import math

import pytest
import torch

from models.training.losses import (
    LossWeights,
    balanced_cross_entropy,
    best_of,
    dice_loss,
    focal_loss,
    iou_error,
    mask_iou,
    mask_losses,
)

# one mask of 2 x 2 pixels: one pixel of foreground; probabilities 1/2, 1/2, 3/4, 1/4
LOGITS = torch.tensor([[0.0, 0.0], [math.log(3), -math.log(3)]])
TARGET = torch.tensor([[1.0, 0.0], [0.0, 0.0]])


def test_focal_loss_by_hand() -> None:
    foreground = 0.25 * 0.5**2 * math.log(2)
    background = 0.75 * (0.5**2 * math.log(2) + 0.75**2 * math.log(4) + 0.25**2 * math.log(4 / 3))
    assert focal_loss(LOGITS, TARGET).item() == pytest.approx((foreground + background) / 4, rel=1e-6)


def test_dice_loss_by_hand() -> None:
    assert dice_loss(LOGITS, TARGET).item() == pytest.approx(1 - (2 * 0.5 + 1) / (2 + 1 + 1), rel=1e-6)


def test_balanced_cross_entropy_weights_one_pixel_like_three() -> None:
    background = (math.log(2) + math.log(4) + math.log(4 / 3)) / 3
    assert balanced_cross_entropy(LOGITS, TARGET).item() == pytest.approx((math.log(2) + background) / 2, rel=1e-6)


@pytest.mark.parametrize("loss", [focal_loss, dice_loss, balanced_cross_entropy])
def test_each_mask_has_its_own_loss(loss: object) -> None:
    assert callable(loss)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((3, 2, 5, 4), generator=generator)
    targets = (torch.rand((3, 2, 5, 4), generator=generator) > 0.5).float()
    together = loss(logits, targets)
    assert together.shape == (3, 2)
    assert torch.allclose(together[2, 1], loss(logits[2, 1], targets[2, 1]))


@pytest.mark.parametrize("loss", [focal_loss, dice_loss, balanced_cross_entropy])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_empty_and_full_masks_are_finite_and_perfect_answers_cost_nothing(loss: object, value: float) -> None:
    assert callable(loss)
    target = torch.full((4, 4), value)
    logits = torch.full((4, 4), 50.0 if value else -50.0, requires_grad=True)
    cost = loss(logits, target)
    cost.backward()
    assert cost.item() == pytest.approx(0, abs=1e-6)
    assert logits.grad is not None and torch.isfinite(logits.grad).all()


def test_mask_iou_counts_pixels() -> None:
    logits = torch.tensor([[[1.0, 1.0], [-1.0, -1.0]], [[-1.0, -1.0], [-1.0, -1.0]]])
    targets = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    assert mask_iou(logits, targets).tolist() == pytest.approx([1 / 3, 0.0])


def test_mixture_goes_from_the_balanced_to_the_focal_loss() -> None:
    weights = LossWeights(focal=20, dice=1, balanced=2, balanced_steps=10)
    focal, dice = 20 * focal_loss(LOGITS, TARGET), dice_loss(LOGITS, TARGET)
    balanced = 2 * balanced_cross_entropy(LOGITS, TARGET)
    assert mask_losses(LOGITS, TARGET, weights, 0) == pytest.approx(dice + balanced)
    assert mask_losses(LOGITS, TARGET, weights, 5) == pytest.approx(dice + balanced / 2 + focal / 2)
    assert mask_losses(LOGITS, TARGET, weights, 10) == pytest.approx(dice + focal)
    assert mask_losses(LOGITS, TARGET, LossWeights(), 0) == pytest.approx(dice + focal)


def test_only_the_best_of_three_learns() -> None:
    losses = torch.tensor([[3.0, 1.0, 2.0], [0.5, 4.0, 4.0]], requires_grad=True)
    least, index = best_of(losses)
    assert least.tolist() == [1.0, 0.5] and index.tolist() == [1, 0]
    least.sum().backward()
    assert losses.grad is not None and losses.grad.tolist() == [[0, 1, 0], [1, 0, 0]]


def test_iou_error_is_the_square() -> None:
    assert iou_error(torch.tensor(0.7), torch.tensor(0.5)).item() == pytest.approx(0.04)
