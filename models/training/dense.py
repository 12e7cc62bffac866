"""Encoder pre-training on a dense signal: which pixels belong to the segment of a given one, and where segments end.

Prompts tell an encoder little: one mask each. Here every pixel can be asked, and an answer costs one dot product: the
segment of pixel p is where b - |W (f_p - f_q)|^2 > 0, for features f at the resolution of the masks; a distance says
something from the first step, as pixels of a segment look alike. A pixel has more than one segment, so there is one W
for its smallest and one for its largest. The head is thrown away afterwards.
Asking for the same segment or not follows the pixel affinities of Maire et al. 2016, arXiv:1512.02767.
"""

import torch
from torch import Tensor, nn

from models.layers import LayerNorm2d
from models.training.losses import balanced_cross_entropy, dice_loss

NUM_LEVELS = 2


class DenseHead(nn.Module):
    """Image embeddings (B, C, E, E) -> pixel features (B, D, 4E, 4E), with a metric a level."""

    def __init__(self, embed_dim: int, num_features: int = 32) -> None:
        super().__init__()
        self.upscaling = nn.Sequential(
            nn.ConvTranspose2d(embed_dim, 2 * num_features, kernel_size=2, stride=2),
            LayerNorm2d(2 * num_features),
            nn.GELU(),
            nn.ConvTranspose2d(2 * num_features, num_features, kernel_size=2, stride=2),
            LayerNorm2d(num_features),
        )
        # Unrelated pixels then start at a squared distance of 4, on the far side of the radius.
        metric = torch.eye(num_features) * (2 / num_features) ** 0.5
        self.metrics = nn.Parameter(metric.repeat(NUM_LEVELS, 1, 1))
        self.radius = nn.Parameter(torch.full((NUM_LEVELS,), 2.0))
        self.boundary = nn.Conv2d(num_features, 1, kernel_size=1)

    def forward(self, embeddings: Tensor) -> Tensor:
        return self.upscaling(embeddings)


def segment_levels(masks: Tensor) -> Tensor:
    """Masks (N, H, W) bool -> for each pixel the index of its smallest and of its largest mask, int64 (2, H, W).

    -1 where there is none. Of equally large masks the later one counts.
    """
    levels = torch.full((NUM_LEVELS, *masks.shape[1:]), -1, dtype=torch.int64, device=masks.device)
    order = masks.sum(dim=(1, 2)).argsort(stable=True).tolist()
    for level, indexes in zip(levels, (order[::-1], order), strict=True):
        for index in indexes:
            level[masks[index]] = index
    return levels


def boundaries(level: Tensor) -> Tensor:
    """Pixels (H, W) whose right or lower neighbour belongs to another segment, bool (H, W)."""
    edge = torch.zeros_like(level, dtype=torch.bool)
    edge[:, :-1] |= level[:, :-1] != level[:, 1:]
    edge[:-1] |= level[:-1] != level[1:]
    return edge


def sample_queries(level: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` pixels of a label map (H, W), as flat indexes: every segment's chance grows with the root of its area.

    Unlabelled pixels are never drawn; without any labelled pixel the answer is empty.
    """
    flat = level.flatten()
    areas = torch.bincount(flat[flat >= 0], minlength=1).float()
    if areas.sum() == 0:
        return flat.new_empty(0)
    weight = torch.where(flat >= 0, areas.clamp(min=1).rsqrt()[flat.clamp(min=0)], 0)
    return torch.multinomial(weight, count, replacement=True, generator=generator)


def dense_loss(
    head: DenseHead, embeddings: Tensor, levels: Tensor, num_queries: int, generator: torch.Generator
) -> Tensor:
    """Affinity (class-balanced cross-entropy plus dice) and boundary loss, averaged over images and levels.

    embeddings: (B, C, E, E); levels: (B, 2, 4E, 4E) from `segment_levels`. `num_queries` pixels an image and level.
    """
    features = head(embeddings)  # (B, D, 4E, 4E)
    boundary = head.boundary(features)[:, 0].float()  # (B, 4E, 4E)
    edges = torch.stack([boundaries(one[0]) for one in levels]).float()
    losses = [balanced_cross_entropy(boundary, edges).mean()]
    for pixels, maps in zip(features.flatten(2), levels.flatten(2), strict=True):  # (D, 16*E*E) and (2, 16*E*E)
        for metric, radius, level in zip(head.metrics, head.radius, maps, strict=True):
            asked = sample_queries(level, num_queries, generator)
            if len(asked) == 0:
                continue
            with torch.autocast(pixels.device.type, enabled=False):  # a difference of large numbers
                placed = metric @ pixels.float()  # (D, 16*E*E)
                logits = radius - squared_distances(placed[:, asked], placed)  # (Q, 16*E*E)
            truth = (level[asked, None] == level).float()
            loss = balanced_cross_entropy(logits[:, None], truth[:, None]) + dice_loss(logits[:, None], truth[:, None])
            losses.append(loss.mean() / (NUM_LEVELS * len(features)))
    return torch.stack(losses).sum()


def squared_distances(one: Tensor, other: Tensor) -> Tensor:
    """Between the columns of (D, N) and (D, M): (N, M)."""
    return one.square().sum(dim=0)[:, None] + other.square().sum(dim=0) - 2 * one.T @ other
