"""The prompts that a person would give: a first point or box, then clicks where the mask is still wrong.

Kirillov et al. 2023, arXiv:2304.02643, appendix A, «Training algorithm»: points uniform in their region; boxes with
normal noise of 10 % of the side on each coordinate, at most 20 pixels. Everything works on a batch at once, on
low-resolution masks (B, M, M); coordinates are pixels of the model's frame, `frame` a side.
"""

import torch
from torch import Tensor

MAX_NOISE = 20.0  # pixels of the frame


def random_points(regions: Tensor, frame: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """One point a region (B, M, M) bool, uniform over its cells and within the cell: pixels (B, 2) as x, y.

    Also the flat index of each point's cell, (B,). An empty region gives a point anywhere in the frame.
    """
    size = regions.shape[-1]
    noise = torch.rand(regions.shape, generator=generator, device=regions.device)
    # Cells outside a region come after all that are inside, so that an empty one needs no case of its own.
    cell = (noise + regions).flatten(1).argmax(dim=1)
    offset = torch.rand((len(regions), 2), generator=generator, device=regions.device)
    corner = torch.stack([cell % size, cell // size], dim=1)
    return (corner + offset) * (frame / size) - 0.5, cell


def mask_boxes(masks: Tensor, frame: int) -> Tensor:
    """The boxes x0, y0, x1, y1 (B, 4) of masks (B, M, M) bool, first to last pixel; an empty mask has an empty box."""
    size = masks.shape[-1]
    place = torch.arange(size, device=masks.device)
    sides = []
    for axis in (1, 2):  # columns, then rows
        used = masks.any(dim=axis)  # (B, M)
        first = torch.where(used, place, size).amin(dim=1)
        last = torch.where(used, place, -1).amax(dim=1)
        sides.append((first, last))
    (x0, x1), (y0, y1) = sides
    scale = frame / size
    box = torch.stack([x0 * scale, y0 * scale, (x1 + 1) * scale - 1, (y1 + 1) * scale - 1], dim=1)
    return torch.where(masks.flatten(1).any(dim=1)[:, None], box, 0.0)


def noisy_boxes(masks: Tensor, frame: int, noise: float, generator: torch.Generator) -> Tensor:
    """`mask_boxes` (B, 4) with normal noise on each coordinate: sigma `noise` of the side, at most 20 pixels off."""
    boxes = mask_boxes(masks, frame)
    sides = (boxes[:, 2:] - boxes[:, :2] + 1).repeat(1, 2)  # (B, 4): width, height, width, height
    shift = torch.randn(boxes.shape, generator=generator, device=boxes.device) * sides * noise
    return (boxes + shift.clamp(-MAX_NOISE, MAX_NOISE)).clamp(0, frame - 1)


def error_points(logits: Tensor, targets: Tensor, frame: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The next click on each of B masks: a point (B, 2) where mask and truth differ, and its true label (B,) int.

    logits and targets (bool) are (B, M, M). Where nothing is wrong the click confirms the foreground.
    """
    wrong = (logits > 0) != targets
    right = ~wrong.flatten(1).any(dim=1)
    wrong = wrong | (right[:, None, None] & targets)
    points, cell = random_points(wrong, frame, generator)
    labels = targets.flatten(1).gather(1, cell[:, None])[:, 0]
    return points, labels.long()


def sample_masks(masks: Tensor, weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Indexes (count,) of masks (N, M, M), drawn in proportion to weight (N,) times the root of the area."""
    chance = weights * masks.flatten(1).sum(dim=1).float().sqrt()
    return torch.multinomial(chance, count, replacement=True, generator=generator)
