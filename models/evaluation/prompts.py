"""Labelled masks as prompts, and how well a SAM or a SAM 2 answers them."""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from models.evaluation.overlap import pairwise_iou
from models.generator.blocks import prompts_per_block
from models.generator.generate import resize
from models.generator.upsample import Axis, Upsampler
from models.masks.rle import bounding_boxes, compress_counts, counts_from_transitions, decode_patch
from models.precision import Precision, computing_in
from models.sam.model import Sam
from models.sam.prompts import Prompts
from models.sam2.model import Sam2
from models.sam2.segmenter import predict_masks


@dataclass(frozen=True)
class PromptScores:
    """The M masks that each of K prompts gave: what the model predicted of them and their IoU with the prompt's truth,
    at the image's full resolution; both (K, M)."""

    predicted_iou: np.ndarray
    true_iou: np.ndarray

    @property
    def chosen(self) -> np.ndarray:
        """True IoU of each prompt's mask of the highest predicted IoU (K,); of equal ones the first."""
        return self.true_iou[np.arange(len(self.true_iou)), self.predicted_iou.argmax(axis=1)]

    @property
    def best(self) -> np.ndarray:
        """The highest true IoU among each prompt's masks (K,)."""
        return self.true_iou.max(axis=1)


def center_point(mask: np.ndarray) -> tuple[int, int]:
    """The pixel x, y of a mask (H, W) that lies farthest from its edge; the first, row by row, of equally far ones.

    The «center» point of «Segment Anything» (Kirillov et al. 2023), section 7.1: a maximum of the Euclidean distance
    transform of the mask's inside. What lies beyond the array is outside, so the image's border is an edge too.
    """
    assert mask.any(), "an empty mask has no inside"
    padded = np.pad((mask != 0).astype(np.uint8), 1)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    y, x = np.unravel_index(int(distance.argmax()), distance.shape)
    return int(x), int(y)


@torch.inference_mode()
def score_prompts(
    sam: Sam | Sam2, image: np.ndarray, truths: list[bytes], prompts_per_batch: int, precision: Precision = "fp32"
) -> tuple[PromptScores, PromptScores]:
    """Answers to one point and to one box a labelled mask; one encoder pass, prompts in blocks.

    image: (H, W, 3) uint8 RGB; truths: COCO compressed run lengths of K masks, none empty. First the answers to
    `center_point`s, M = the model's multimask outputs, since a point is ambiguous. Then those to the masks' boxes,
    M = 1: the single-mask output, slot 0, as a box is not ambiguous and the published predictor recommends
    `multimask_output=False` for it. Boxes reach from the first to the last pixel of the mask (x0, y0, xmax, ymax), as
    in segment-anything's `batched_mask_to_box`. The model's products are in `precision`.
    """
    height, width = image.shape[:2]
    pixels = torch.from_numpy(resize(image, sam.input_shape(height, width))).permute(2, 0, 1)  # (3, h, w)
    low_size, (frame, valid) = 4 * sam.config.embedding_size, sam.mask_frame(*pixels.shape[1:])
    upsampler = Upsampler(
        rows=Axis.of(low_size, frame, valid[0], height),
        columns=Axis.of(low_size, frame, valid[1], width),
        x0=0,
        y0=0,
        height=height,
    )
    scale = torch.tensor([pixels.shape[2] / width, pixels.shape[1] / height], device=sam.device)
    points, boxes = _points_and_boxes(truths, height, width)
    points, boxes = points.to(sam.device) * scale, (boxes.to(sam.device).view(-1, 2, 2) * scale).flatten(1)
    found: tuple[list[PromptScores], list[PromptScores]] = ([], [])
    num_prompts = prompts_per_block(sam.config, sam.device, prompts_per_batch)
    with computing_in(precision, sam.device):
        (embedded,) = sam.embed(sam.preprocess(pixels[None]))
    for start in range(0, len(truths), num_prompts):
        block = slice(start, start + num_prompts)
        labels = torch.ones(len(points[block]), 1, dtype=torch.int64, device=sam.device)
        by_point = Prompts(points=points[block, None], labels=labels)
        for prompts, scores in zip((by_point, Prompts(boxes=boxes[block])), found, strict=True):
            with computing_in(precision, sam.device):
                logits, predicted_iou = predict_masks(sam, embedded, prompts, prompts.boxes is None)
            true_iou = _true_iou(logits.float().cpu(), truths[block], upsampler, width, sam.config.mask_threshold)
            scores.append(PromptScores(predicted_iou.float().cpu().numpy(), true_iou))
    num_outputs = sam.config.num_multimask_outputs
    return _join(found[0], num_outputs), _join(found[1], 1)


def _points_and_boxes(truths: list[bytes], height: int, width: int) -> tuple[Tensor, Tensor]:
    """Center points (K, 2) and boxes x0, y0, x1, y1 (K, 4) of masks, in pixels of the image."""
    bbox = bounding_boxes(truths, height)
    points = np.zeros((len(truths), 2), np.float32)
    for index, (rle, (x, y, w, h)) in enumerate(zip(truths, bbox.tolist(), strict=True)):
        points[index] = np.add(center_point(decode_patch(rle, height, width, (x, y, w, h))), (x, y))
    boxes = np.concatenate([bbox[:, :2], bbox[:, :2] + bbox[:, 2:] - 1], axis=1).astype(np.float32)
    return torch.from_numpy(points), torch.from_numpy(boxes)


def _true_iou(
    logits: Tensor, truths: list[bytes], upsampler: Upsampler, width: int, mask_threshold: float
) -> np.ndarray:
    """IoU of each of `logits` (B, M, low, low), at full resolution, with its prompt's truth: float64 (B, M)."""
    num_pixels = upsampler.height * width
    counts = []
    for one in logits.flatten(0, 1):
        _, outline = upsampler.scan(one, mask_threshold, offset=0.0, min_stability=0.0)
        counts.append(counts_from_transitions(np.zeros(0, np.int64) if outline is None else outline, num_pixels))
    rles = compress_counts(np.concatenate(counts), np.array([len(one) for one in counts]))
    num_outputs = logits.shape[1]
    rows = [
        pairwise_iou([truth], rles[index * num_outputs : (index + 1) * num_outputs], upsampler.height, width)
        for index, truth in enumerate(truths)
    ]
    return np.concatenate(rows)


def _join(parts: list[PromptScores], num_outputs: int) -> PromptScores:
    empty = np.zeros((0, num_outputs))
    return PromptScores(
        np.concatenate([empty, *(part.predicted_iou for part in parts)]),
        np.concatenate([empty, *(part.true_iou for part in parts)]),
    )
