"""A plain training loop around the modules of PyPI `segment-anything`: `training_throughput`'s half in its environment.

    python official_train.py JOB.json

Prints masks per second of processor time. The loop is what one writes first: each image's prompts go through the
decoder by themselves, and one backward pass ends the step. Imports nothing of MaskFoundry.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from official_sam import build_official_sam
from segment_anything.modeling import Sam
from torch import Tensor


def mask_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Focal and dice loss, 20:1, of (B, M, H, W) -> (B, M)."""
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    probability = logits.sigmoid()
    right = probability * targets + (1 - probability) * (1 - targets)
    focal = ((0.25 * targets + 0.75 * (1 - targets)) * (1 - right) ** 2 * cross_entropy).mean((-2, -1))
    shared, total = (probability * targets).sum((-2, -1)), probability.sum((-2, -1)) + targets.sum((-2, -1))
    return 20 * focal + 1 - (2 * shared + 1) / (total + 1)


def train_step(sam: Sam, optimizer: torch.optim.Optimizer, pixels: Tensor, masks: Tensor, num_rounds: int) -> None:
    """pixels: (B, 3, S, S) normalised; masks: (B, P, 4E, 4E) of 0 and 1, a first point and further clicks each."""
    optimizer.zero_grad()
    num_prompts, frame = masks.shape[1], pixels.shape[-1]
    losses = []
    for embedding, targets in zip(sam.image_encoder(pixels), masks, strict=True):
        points, previous = torch.rand(num_prompts, 1, 2) * frame, None
        for index in range(num_rounds):
            labels = torch.ones(points.shape[:2])
            sparse, dense = sam.prompt_encoder((points, labels), None, previous)
            logits, predicted_iou = sam.mask_decoder(
                image_embeddings=embedding[None],
                image_pe=sam.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=index == 0,
            )
            truth = targets[:, None].expand_as(logits)
            shared = ((logits > 0) & (truth > 0)).sum((-2, -1))
            iou = shared / ((logits > 0) | (truth > 0)).sum((-2, -1)).clamp(min=1)
            losses.append(mask_loss(logits, truth).amin(1).mean() + (predicted_iou - iou).square().mean())
            previous = logits.detach()[:, :1]
            points = torch.cat([points, torch.rand(num_prompts, 1, 2) * frame], 1)
    torch.stack(losses).sum().backward()
    torch.nn.utils.clip_grad_norm_(sam.parameters(), 1.0)
    optimizer.step()


def main() -> None:
    job: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.set_num_threads(job["threads"])
    torch.manual_seed(0)
    sam = build_official_sam(job["sizes"]).train()
    optimizer = torch.optim.AdamW(sam.parameters(), lr=1e-4)
    frame, side = sam.image_encoder.img_size, 4 * sam.prompt_encoder.image_embedding_size[0]
    pixels = torch.randn(job["images"], 3, frame, frame)
    masks = (torch.rand(job["images"], job["prompts"], side, side) > 0.8).float()
    train_step(sam, optimizer, pixels, masks, job["rounds"])
    started = time.process_time()
    for _ in range(job["steps"]):
        train_step(sam, optimizer, pixels, masks, job["rounds"])
    print(job["images"] * job["prompts"] * job["rounds"] * job["steps"] / (time.process_time() - started))


if __name__ == "__main__":
    main()
