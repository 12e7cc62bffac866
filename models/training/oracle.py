"""An annotator played by the ground truth: clicks on each object until the model's mask is right.

Kirillov et al. 2023, arXiv:2304.02643, section 4, «Assisted-manual stage»: people click foreground and background
points, see the model's mask at once, and move on from an object that takes too long. Here the first click is the
object's center, each further one falls where the mask is still wrong (appendix A), and an object whose mask does not
become right is left out, or drawn with the brush that the annotators had too.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from models.evaluation.overlap import pairwise_iou
from models.evaluation.prompts import center_point
from models.generator.generate import resize_longest_side
from models.generator.upsample import Axis, Upsampler
from models.masks.rle import areas, compress_counts, counts_from_transitions, decode_masks
from models.sam.model import Sam
from models.sam.prompts import Prompts
from models.training.augment import fit_masks
from models.training.clicks import error_points
from models.training.losses import mask_iou


class OracleSettings(BaseModel):
    """At most `max_clicks` an object; clicking ends at an IoU of `enough_iou`. An object whose mask stays below
    `least_iou` is given up, or with `draw` drawn by hand: the truth itself. `max_objects` an image are annotated, the
    largest first."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_clicks: Annotated[int, Field(ge=1)] = 8
    enough_iou: Annotated[float, Field(gt=0, le=1)] = 0.9
    least_iou: Annotated[float, Field(ge=0, le=1)] = 0.75
    draw: bool = False
    max_objects: Annotated[int, Field(ge=1)] | None = None


@dataclass(frozen=True)
class ClickedMask:
    """`index` of the object among the truths, its mask as COCO compressed run lengths, the first click (x, y) in pixels
    of the image, how many clicks it took, and its IoU with the truth. `drawn` ones are the truth, after all clicks."""

    index: int
    rle: bytes
    point: tuple[float, float]
    num_clicks: int
    iou: float
    drawn: bool = False


@torch.inference_mode()
def click_masks(
    sam: Sam, image: np.ndarray, truths: list[bytes], settings: OracleSettings, generator: torch.Generator
) -> list[ClickedMask]:
    """Masks of the K `truths` (COCO compressed run lengths, none empty) of an image (H, W, 3) uint8 RGB, as a person
    would click them with this model. Objects too small for a cell of the low-resolution mask are left out.
    """
    if not truths:
        return []
    height, width = image.shape[:2]
    frame, size = sam.config.image_size, 4 * sam.config.embedding_size
    pixels = torch.from_numpy(resize_longest_side(image, frame)).permute(2, 0, 1)  # (3, h, w)
    chosen = np.argsort(-areas(truths), kind="stable")[: settings.max_objects]
    full = decode_masks([truths[index] for index in chosen], height, width)
    cells, kept = fit_masks(full, tuple(pixels.shape[1:]), frame, size, min_cells=1, max_share=1.0)
    if not len(kept):
        return []
    scale = torch.tensor([pixels.shape[2] / width, pixels.shape[1] / height])
    first = torch.tensor([center_point(full[index]) for index in kept.tolist()], dtype=torch.float32)  # (K, 2)
    embedding = sam.encode_images(sam.preprocess(pixels[None]))
    logits, clicks = _click(sam, embedding, torch.from_numpy(cells), first * scale, settings, generator)
    rles = _full_size(logits, pixels, frame, height, width)
    found = []
    for place, index in enumerate(chosen[kept].tolist()):
        iou = float(pairwise_iou([truths[index]], [rles[place]], height, width)[0, 0])
        x, y = first[place].tolist()
        if iou >= settings.least_iou:
            found.append(ClickedMask(index, rles[place], (x, y), int(clicks[place]), iou))
        elif settings.draw:
            found.append(ClickedMask(index, truths[index], (x, y), settings.max_clicks, 1.0, drawn=True))
    return sorted(found, key=lambda one: one.index)


def _click(
    sam: Sam, embedding: Tensor, targets: Tensor, first: Tensor, settings: OracleSettings, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The best logits (K, M, M) that each object's clicks gave, and after how many of them (K,)."""
    device, num_objects = sam.device, len(targets)
    targets, points = targets.to(device), first.to(device)[:, None]  # (K, M, M) bool and (K, 1, 2)
    labels = torch.ones(num_objects, 1, dtype=torch.int64, device=device)
    best = torch.zeros(targets.shape, device=device)
    best_iou, best_clicks = torch.full((num_objects,), -1.0, device=device), torch.zeros(num_objects, device=device)
    previous: Tensor | None = None
    active = torch.arange(num_objects, device=device)
    for click in range(1, settings.max_clicks + 1):
        masks = None if previous is None else previous[:, None]
        prompts = Prompts(points=points, labels=labels, masks=masks)
        several, _ = sam.predict_masks(embedding, prompts, multimask_output=previous is None)
        iou = mask_iou(several.float(), targets[active, None].float().expand_as(several))
        picked = iou.argmax(dim=1)  # a person sees which of the masks is right
        rows = torch.arange(len(active), device=device)
        previous, iou = several[rows, picked].float(), iou[rows, picked]
        better = iou > best_iou[active]
        where = active[better]
        best[where], best_iou[where], best_clicks[where] = previous[better], iou[better], float(click)
        going = iou < settings.enough_iou
        if not going.any():
            break
        active, previous, points, labels = active[going], previous[going], points[going], labels[going]
        point, label = error_points(previous, targets[active], sam.config.image_size, generator)
        points, labels = torch.cat([points, point[:, None]], dim=1), torch.cat([labels, label[:, None]], dim=1)
    return best, best_clicks


def _full_size(logits: Tensor, pixels: Tensor, frame: int, height: int, width: int) -> list[bytes]:
    size = logits.shape[-1]
    upsampler = Upsampler(
        rows=Axis.of(size, frame, pixels.shape[1], height),
        columns=Axis.of(size, frame, pixels.shape[2], width),
        x0=0,
        y0=0,
        height=height,
    )
    counts = []
    for one in logits.cpu():
        _, outline = upsampler.scan(one, 0.0, offset=0.0, min_stability=0.0)
        counts.append(counts_from_transitions(np.zeros(0, np.int64) if outline is None else outline, height * width))
    return compress_counts(np.concatenate(counts), np.array([len(one) for one in counts]))
