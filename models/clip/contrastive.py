"""CLIP's loss: the symmetric InfoNCE over a batch (arXiv:2103.00020, figure 3), with every worker's negatives."""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def contrastive_loss(image_features: Tensor, text_features: Tensor, logit_scale: Tensor) -> Tensor:
    """The loss of N pairs, features (N, D) each; `logit_scale` is the logarithm that `Clip` learns.

    Each image is told from all texts and each text from all images. Where `torch.distributed` runs, "all" are those of
    all workers, which must have equally many; each returns the loss of its own pairs. The mean over the workers, which
    is what data-parallel training takes of the gradients, is the loss of the joint batch and has its gradients.
    """
    image_features = F.normalize(image_features, dim=-1)
    text_features = F.normalize(text_features, dim=-1)
    all_images, all_texts, first = image_features, text_features, 0
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        all_images, all_texts = _Gather.apply(image_features), _Gather.apply(text_features)
        first = dist.get_rank() * len(image_features)
    targets = torch.arange(first, first + len(image_features), device=image_features.device)
    scale = logit_scale.exp()
    of_images = F.cross_entropy(scale * image_features @ all_texts.T, targets)
    of_texts = F.cross_entropy(scale * text_features @ all_images.T, targets)
    return (of_images + of_texts) / 2


class _Gather(torch.autograd.Function):
    """(N, D) of every worker, in the order of their ranks -> (workers * N, D); gradients flow back to their workers."""

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        gathered = [torch.empty_like(features) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, features.contiguous())
        return torch.cat(gathered)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # A sum over the workers of which each keeps its part: not every backend has reduce_scatter.
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient.chunk(dist.get_world_size())[dist.get_rank()]


def shared_text_loss(image_features: Tensor, text_features: Tensor, targets: Tensor, logit_scale: Tensor) -> Tensor:
    """The same loss where images share texts: features (N, D) and (M, D), `targets` (N,) each image's text.

    Texts are all different; every image of a text is right for it, and none counts as a negative (the targets of
    Yang et al. 2022, «UniCL», arXiv:2204.03610). A text without an image is a negative only. Where no two images share
    a text and each text has one, it is `contrastive_loss`.
    """
    scores = logit_scale.exp() * F.normalize(image_features, dim=-1) @ F.normalize(text_features, dim=-1).T  # (N, M)
    of_images = F.cross_entropy(scores, targets)
    right = F.one_hot(targets, len(text_features)).to(scores.dtype)
    num_right = right.sum(dim=0)
    shares = (scores.log_softmax(dim=0) * right).sum(dim=0) / num_right.clamp(min=1)
    of_texts = -shares.sum() / (num_right > 0).sum()
    return (of_images + of_texts) / 2
