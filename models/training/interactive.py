"""Prompts of several images: a first one, clicks on what is wrong, rounds without a new point; gradients as it goes.

Kirillov et al. 2023, arXiv:2304.02643, appendix A: eight clicks with the previous logits as mask prompt, one round
without a click at a random place among them and one at the end; three masks for the first prompt, of which the best
learns, and a fourth output («slot 0») once there are several prompts. A box is rarely ambiguous and inference asks slot
0 for it, so slot 0 learns from boxes alone too.

All images of a pass are decoded together: on a small model most of an image's own call would be overhead.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from models.sam.mask_decoder import DecodedPrompts, EmbeddedImage, MaskDecoder
from models.sam.model import Sam
from models.sam.prompts import Prompts
from models.sam.skips import Skips
from models.sam2.model import Sam2
from models.training.clicks import error_points, noisy_boxes, random_points, sample_masks
from models.training.losses import LossWeights, best_of, iou_error, mask_iou, mask_losses


class PromptSettings(BaseModel):
    """`num_prompts` masks an image, `box_share` of them first prompted by a box whose noise is `box_noise` of the side.
    Then `num_clicks` clicks and `num_refinements` rounds without one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_prompts: Annotated[int, Field(ge=1)] = 32
    box_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    box_noise: Annotated[float, Field(ge=0)] = 0.1
    num_clicks: Annotated[int, Field(ge=0)] = 8
    num_refinements: Annotated[int, Field(ge=0)] = 2


@dataclass(frozen=True)
class PromptTally:
    """Sums over prompts, so that tallies add up: losses of all rounds, and IoUs of the first round."""

    loss: Tensor
    point_best: Tensor
    point_chosen: Tensor
    box_single: Tensor
    text_chosen: Tensor
    num_points: int
    num_boxes: int
    num_texts: int
    num_masks: int  # prompts times rounds

    def __add__(self, other: "PromptTally") -> "PromptTally":
        return PromptTally(*(one + two for one, two in zip(vars(self).values(), vars(other).values(), strict=True)))


def click_rounds(settings: PromptSettings, generator: torch.Generator) -> list[bool]:
    """For each round after the first, whether it brings a click. The last refinement comes last, others anywhere."""
    rounds = [True] * settings.num_clicks
    for _ in range(settings.num_refinements - 1):
        place = int(torch.randint(len(rounds) + 1, (1,), generator=generator, device=generator.device))
        rounds.insert(place, False)
    return rounds + [False] * min(1, settings.num_refinements)


def train_on_prompts(
    sam: Sam | Sam2,
    images: EmbeddedImage,
    labels: Sequence[tuple[Tensor, Tensor]],
    settings: PromptSettings,
    weights: LossWeights,
    step: int,
    generator: torch.Generator,
    share: float,
    bf16: bool,
) -> PromptTally | None:
    """Prompts B images and adds `share` times the gradient of each one's mean loss, round by round.

    images: B embeddings (B, C, E, E), and a SAM 2's skips, leaves that collect their gradients, so that all rounds
    share one encoder pass;
    labels: for each image masks (N, 4E, 4E) bool and their weights (N,). An image without masks is passed over; None if
    none has any.
    Each round goes backward at once: memory holds one round.
    """
    drawn = {
        index: masks[sample_masks(masks, weight, settings.num_prompts, generator)]
        for index, (masks, weight) in enumerate(labels)
        if len(masks)
    }
    if not drawn:
        return None
    with_masks = torch.tensor(list(drawn), device=images.embedding.device)
    num_boxes = round(settings.num_prompts * settings.box_share)
    rounds = click_rounds(settings, generator)
    share = share / (settings.num_prompts * (1 + len(rounds)))
    tally: PromptTally | None = None
    with attention_of_few(with_masks.device):
        for part, by_box in ((slice(num_boxes, None), False), (slice(num_boxes), True)):
            targets = torch.stack([masks[part] for masks in drawn.values()])  # (images, prompts, 4E, 4E)
            if targets.shape[1]:
                targets, frame = targets.flatten(0, 1), sam.config.image_size
                boxes = noisy_boxes(targets, frame, settings.box_noise, generator) if by_box else None
                points = None if by_box else random_points(targets, frame, generator)[0]
                group = PromptGroup(sam, images, with_masks, targets, generator, points=points, boxes=boxes)
                one = group.run(rounds, weights, step, share, bf16)
                tally = one if tally is None else tally + one
    return tally


def attention_of_few(device: torch.device) -> AbstractContextManager[None]:
    """On a CPU attention by plain products, as the fused kernels take several times as long backwards for few tokens.
    On a GPU torch may choose: all pairs of a frame's cells and their memories would fill it."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


class PromptGroup:
    """B prompts that began alike, on their way through the rounds: with one point each (B, 2), a box each (B, 4), or
    the sparse tokens (B, K, C) that `tokens` makes, anew in every round as each goes backward by itself."""

    def __init__(
        self,
        sam: Sam | Sam2,
        images: EmbeddedImage,
        places: Tensor,
        targets: Tensor,
        generator: torch.Generator,
        *,
        points: Tensor | None = None,
        boxes: Tensor | None = None,
        tokens: Callable[[], Tensor] | None = None,
    ) -> None:
        self.sam = sam
        self.images = images
        self.places = places  # (G,): of images, each of B/G prompts that follow one another
        self.targets = targets  # (B, 4E, 4E) bool
        self.frame = sam.config.image_size
        self.generator = generator
        self.previous: Tensor | None = None  # (B, 4E, 4E) logits
        self.boxes = boxes
        self.tokens = tokens
        first = targets.new_empty(len(targets), 0, 2, dtype=torch.float32) if points is None else points[:, None]
        self.points = first  # (B, N, 2)
        self.labels = targets.new_ones(first.shape[:2], dtype=torch.int64)

    def run(self, rounds: list[bool], weights: LossWeights, step: int, share: float, bf16: bool) -> PromptTally:
        logits, predicted_iou = self._decode(first=True, bf16=bf16)
        single = self.boxes is not None  # slot 0 is the first of the outputs then
        truth = self.targets[:, None].float().expand_as(logits)
        actual = mask_iou(logits, truth)
        losses = mask_losses(logits, truth, weights, step)
        best, place = best_of(losses[:, int(single) :])
        loss = best + weights.iou * iou_error(predicted_iou, actual).mean(dim=1)
        if single:
            loss = loss + losses[:, 0]
        (loss.sum() * share).backward()
        total = loss.detach().sum()
        place = place + int(single)
        nothing = total.new_zeros(())
        by_text = self.tokens is not None
        by_point = not single and not by_text
        chosen = actual.gather(1, predicted_iou.argmax(dim=1)[:, None]).sum()
        tally = PromptTally(
            loss=total,
            point_best=actual.amax(dim=1).sum() if by_point else nothing,
            point_chosen=chosen if by_point else nothing,
            box_single=actual[:, 0].sum() if single else nothing,
            text_chosen=chosen if by_text else nothing,
            num_points=by_point * len(actual),
            num_boxes=single * len(actual),
            num_texts=by_text * len(actual),
            num_masks=len(actual),
        )
        # The mask of the highest predicted IoU is fed back, as a user would pick it.
        picked = predicted_iou[:, int(single) :].argmax(dim=1) + int(single)
        self.previous = logits.detach()[torch.arange(len(picked), device=picked.device), picked]
        for click in rounds:
            tally = tally + self._next(click, weights, step, share, bf16)
        return tally

    def _next(self, click: bool, weights: LossWeights, step: int, share: float, bf16: bool) -> PromptTally:
        assert self.previous is not None
        if click:
            point, label = error_points(self.previous, self.targets, self.frame, self.generator)
            self.points = torch.cat([self.points, point[:, None]], dim=1)
            self.labels = torch.cat([self.labels, label[:, None]], dim=1)
        logits, predicted_iou = self._decode(first=False, bf16=bf16)
        truth = self.targets[:, None].float()
        actual = mask_iou(logits, truth)
        loss = mask_losses(logits, truth, weights, step) + weights.iou * iou_error(predicted_iou, actual)
        (loss.sum() * share).backward()
        self.previous = logits.detach()[:, 0]
        nothing = loss.new_zeros(())
        return PromptTally(loss.detach().sum(), nothing, nothing, nothing, nothing, 0, 0, 0, len(loss))

    def _decode(self, first: bool, bf16: bool) -> tuple[Tensor, Tensor]:
        """Logits (B, M, 4E, 4E) and predicted IoU (B, M), fp32. First a box: slots 0 to 3; else 1 to 3; then 0."""
        sam, images, device = self.sam, self.images, self.places.device
        some = self.points.shape[1] > 0
        prompts = Prompts(
            points=self.points if some else None,
            labels=self.labels if some else None,
            boxes=self.boxes,
            masks=None if self.previous is None else self.previous[:, None],
            embeddings=None if self.tokens is None else self.tokens(),
        )
        last = sam.mask_decoder.num_mask_tokens if first else 1
        slots = slice(1 if first and self.boxes is None else 0, last)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
            sparse, dense = sam.prompt_encoder(prompts)
            image, skips = images.embedding[self.places], None  # (G, C, E, E)
            if images.skips is not None:
                skips = Skips(images.skips.fine[self.places], images.skips.middle[self.places])
            decoded = sam.mask_decoder.attend(image, sam.prompt_encoder.dense_pe(), sparse, dense, skips)
            logits = every_mask(sam.mask_decoder, decoded, slots)
        return logits.float().contiguous(), decoded.predicted_iou[:, slots].float()


def every_mask(decoder: MaskDecoder, decoded: DecodedPrompts, slots: slice) -> Tensor:
    """Logits (B, slots, 4E, 4E) of every prompt: `MaskDecoder.masks` without the choice.

    Channels stay last until the logits, which are fewer than the features: the backward pass is much faster so.
    """
    size = decoded.image_features.shape[2]
    num_prompts, skips = len(decoded.image_features), decoded.skips
    if skips is not None:
        skips = skips.of_prompts(torch.arange(num_prompts, device=skips.fine.device), num_prompts)
    features = decoder.upscale_cells(decoded.image_features.flatten(2).transpose(1, 2), skips)  # (B, E*E*16, C/8)
    tokens = decoded.mask_tokens[:, slots].unbind(1)
    heads = decoder.output_hypernetworks_mlps[slots]
    weights = torch.stack([head(token) for head, token in zip(heads, tokens, strict=True)], dim=2)  # (B, C/8, slots)
    logits = (features @ weights).transpose(1, 2)  # (B, slots, E*E*16)
    # y, x of the cell, then of the first doubling, then of the second
    logits = logits.unflatten(2, (size, size, 2, 2, 2, 2)).permute(0, 1, 2, 4, 6, 3, 5, 7)
    return logits.reshape(*logits.shape[:2], 4 * size, 4 * size)
