"""What a predicted mask costs: one value a mask, so that the caller chooses among masks.

Focal loss: Lin et al. 2017, arXiv:1708.02002. Dice loss: Milletari et al. 2016, arXiv:1606.04797. Their 20:1 mix, the
squared error of the predicted IoU and the best of three: Kirillov et al. 2023, arXiv:2304.02643, appendix A.
"""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

Weight = Annotated[float, Field(ge=0)]


class LossWeights(BaseModel):
    """Weights of the terms. `balanced` is the cross-entropy with positives and negatives weighted equally; it stands in
    for the focal loss at the start, which makes fresh weights collapse to empty masks. Over `balanced_steps` steps it
    fades out linearly and the focal loss in."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    focal: Weight = 20.0
    dice: Weight = 1.0
    iou: Weight = 1.0
    balanced: Weight = 0.0
    balanced_steps: Annotated[int, Field(ge=0)] = 0

    def start_share(self, step: int) -> float:
        """How much of the start is left at `step`: 1 at step 0, 0 from `balanced_steps` on."""
        return max(0.0, 1.0 - step / self.balanced_steps) if self.balanced_steps else 0.0


def focal_loss(logits: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Mean over the pixels, (..., H, W) -> (...). `alpha` weights the foreground, 1 - alpha the background."""
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    wrong = (logits.sigmoid() - targets).abs()  # one minus the probability of the truth, for targets of 0 and 1
    weight = alpha * targets + (1 - alpha) * (1 - targets)
    return (weight * wrong**gamma * cross_entropy).mean(dim=(-2, -1))


def dice_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """One minus the soft Dice coefficient, smoothed by one pixel; (..., H, W) -> (...)."""
    probability = logits.sigmoid()
    shared = (probability * targets).sum(dim=(-2, -1))
    total = probability.sum(dim=(-2, -1)) + targets.sum(dim=(-2, -1))
    return 1 - (2 * shared + 1) / (total + 1)


def balanced_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Half the mean over the foreground plus half the mean over the background; (..., H, W) -> (...)."""
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    inside, outside = targets, 1 - targets
    foreground = (cross_entropy * inside).sum(dim=(-2, -1)) / inside.sum(dim=(-2, -1)).clamp(min=1)
    background = (cross_entropy * outside).sum(dim=(-2, -1)) / outside.sum(dim=(-2, -1)).clamp(min=1)
    return (foreground + background) / 2


def mask_iou(logits: Tensor, targets: Tensor) -> Tensor:
    """IoU of the masks (logits above 0) with the truth, (..., H, W) -> (...); 0 where both are empty. No gradient."""
    predicted, truth = logits.detach() > 0, targets > 0.5
    shared = (predicted & truth).sum(dim=(-2, -1))
    union = (predicted | truth).sum(dim=(-2, -1))
    return shared / union.clamp(min=1)


def mask_losses(logits: Tensor, targets: Tensor, weights: LossWeights, step: int) -> Tensor:
    """The weighted mask terms (IoU prediction excluded) of each mask, (..., H, W) -> (...)."""
    start = weights.start_share(step)
    loss = weights.dice * dice_loss(logits, targets)
    if start < 1:
        loss = loss + (1 - start) * weights.focal * focal_loss(logits, targets)
    if start > 0:
        loss = loss + start * weights.balanced * balanced_cross_entropy(logits, targets)
    return loss


def best_of(losses: Tensor) -> tuple[Tensor, Tensor]:
    """The least of each row's losses and where it stands: (B, M) -> (B,) and (B,)."""
    least, index = losses.min(dim=1)
    return least, index


def iou_error(predicted_iou: Tensor, actual_iou: Tensor) -> Tensor:
    """Squared error, elementwise."""
    return torch.square(predicted_iou - actual_iou)
