"""Candidate masks of whole images: crops, a grid of points in each, SAM, and scores at full resolution.

The procedure of segment-anything's `SamAutomaticMaskGenerator` up to its filters (Kirillov et al., «Segment Anything»,
2023, appendix B), on any number of images at a time.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import islice

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from models.generator.blocks import prompts_per_block
from models.generator.bounds import StabilityBound
from models.generator.candidates import Candidates
from models.generator.dense_scan import DenseScan
from models.generator.grid import Crop, crop_boxes, point_grid
from models.generator.image_prompts import ImagePrompts
from models.generator.settings import GenerateSettings
from models.generator.strip_scan import StripScan
from models.generator.upsample import Axis, Upsampler
from models.masks.agreement import agreement
from models.masks.rle import (
    areas_of_counts,
    boxes_of_counts,
    compress_counts,
    counts_from_transitions,
    join_transitions,
)
from models.precision import computing_in
from models.sam.mask_decoder import DecodedPrompts, EmbeddedImage
from models.sam.model import Sam
from models.sam.prompts import Prompts
from models.sam2.model import Sam2
from models.sam2.segmenter import attend_prompts

MASKS_PER_BLOCK = 64  # encoded at once: many times the memory of their outlines


@dataclass(frozen=True)
class _CropJob:
    """One crop of one image on its way through the encoder."""

    image_index: int
    crop_index: int
    crop: Crop
    pixels: Tensor  # (3, h, w) uint8, resized for the model


@dataclass(frozen=True)
class _Questions:
    """Prompts of one kind on a crop, and which decoder outputs answer them."""

    where: np.ndarray  # (N, 2) points or (N, 4) boxes, in the crop's pixels
    slots: range  # 0 is the single mask
    first_number: int
    by_text: bool = False  # then `where` only says what `point` is to be


@dataclass
class _Found:
    """What the decoder outputs of one image have given so far; lists run in parallel."""

    number: list[int] = field(default_factory=list)
    predicted_iou: list[float] = field(default_factory=list)
    stability_score: list[float] = field(default_factory=list)
    point: list[tuple[float, float]] = field(default_factory=list)
    crop: list[Crop] = field(default_factory=list)
    mask_index: list[int] = field(default_factory=list)
    outlines: list[np.ndarray] = field(default_factory=list)
    cells: list[np.ndarray] = field(default_factory=list)  # of the crop at hand, packed; for the agreement alone
    agreement: list[int] | None = None


class MaskGenerator:
    """Candidates by a grid of points. `min_predicted_iou` and `min_stability` are what a candidate must reach to be
    returned at all; the filters decide later which of them are kept. A `text_token` (C,), a text as `ClipPrompt`
    projects it, is one prompt more for every crop."""

    def __init__(
        self,
        sam: Sam | Sam2,
        settings: GenerateSettings,
        min_predicted_iou: float,
        min_stability: float,
        points_per_batch: int = 64,
        crops_per_batch: int = 1,
        text_token: Tensor | None = None,
    ) -> None:
        self.sam = sam
        self.settings = settings
        self.min_predicted_iou = min_predicted_iou
        self.min_stability = min_stability
        self.points_per_batch = points_per_batch
        self.crops_per_batch = crops_per_batch
        self.text_token = text_token
        self.full_blocks = False  # whether too few prompts or crops are filled up to as many as ever

    def compile(self) -> None:
        """Compiles the encoder and the decoder's transformer for the very shapes that they meet here; each shape's
        first time then takes a minute or more. Does not change the masks beyond rounding."""
        self.sam.image_encoder.compile(dynamic=False)
        self.sam.mask_decoder.transformer.compile(dynamic=False)
        self.full_blocks = True

    def smaller(self, points_per_batch: int) -> "MaskGenerator":
        """The same generator with less in memory at a time."""
        return self._like(self.settings, points_per_batch, crops_per_batch=1)

    def without_crops(self) -> "MaskGenerator":
        """The same generator on the whole image only."""
        settings = self.settings.model_copy(update={"layers": (0,)})
        return self._like(settings, self.points_per_batch, self.crops_per_batch)

    def _like(self, settings: GenerateSettings, points_per_batch: int, crops_per_batch: int) -> "MaskGenerator":
        thresholds = self.min_predicted_iou, self.min_stability
        like = MaskGenerator(self.sam, settings, *thresholds, points_per_batch, crops_per_batch, self.text_token)
        like.full_blocks = self.full_blocks
        return like

    @torch.inference_mode()
    def generate(
        self, images: Sequence[np.ndarray], prompts: Sequence[ImagePrompts | None] | None = None
    ) -> list[Candidates]:
        """`images`: (H, W, 3) uint8 RGB arrays, any sizes. One `Candidates` an image; one batch of crops is held.

        An image with `prompts` of its own is asked those on the whole image and no grid: a point for its multimask
        outputs, as in the grid; a box, which is hardly ambiguous, for the single mask (segment-anything's advice for
        `multimask_output`), with `mask_index` -1 and the box's centre as `point`. Scores and thresholds are the same.
        The text stands alone, as in training, where no point is beside it and the multimask outputs answer it
        (`models.training.text_prompt`); its `point` is the crop's centre.
        """
        prompts = prompts or [None] * len(images)
        found = [_Found() for _ in images]
        jobs = self._crop_jobs(images, prompts)
        while batch := list(islice(jobs, self.crops_per_batch)):
            with self._precision():
                pixels = torch.cat([self.sam.preprocess(self._upload(job.pixels)[None]) for job in batch])
                if self.full_blocks:
                    pixels = torch.cat([pixels, pixels[-1:].expand(self.crops_per_batch - len(batch), -1, -1, -1)])
                embeddings = self.sam.embed(pixels)[: len(batch)]
            for job, embedding in zip(batch, embeddings, strict=True):
                index = job.image_index
                questions = self._questions(job, prompts[index])
                self._prompt_crop(job, embedding, images[index].shape[0], questions, found[index])
        if self.sam.device.type == "cuda":
            torch.cuda.synchronize(self.sam.device)  # outlines are copied without waiting
        return [_assemble(one, *image.shape[:2]) for one, image in zip(found, images, strict=True)]

    @cached_property
    def _num_prompts(self) -> int:
        """Of a block; settled once, as a GPU's free memory is another after each."""
        return prompts_per_block(self.sam.config, self.sam.device, self.points_per_batch)

    def _upload(self, pixels: Tensor) -> Tensor:
        if self.sam.device.type == "cuda":
            return pixels.contiguous().pin_memory().to(self.sam.device, non_blocking=True)
        return pixels

    def _precision(self) -> AbstractContextManager[None]:
        return computing_in(self.settings.precision, self.sam.device)

    def _crop_jobs(self, images: Sequence[np.ndarray], prompts: Sequence[ImagePrompts | None]) -> Iterator[_CropJob]:
        settings = self.settings
        for image_index, (image, own) in enumerate(zip(images, prompts, strict=True)):
            height, width = image.shape[:2]
            layers = settings.layers if own is None else (0,)
            for crop_index, crop in enumerate(crop_boxes(height, width, layers, settings.crop_overlap_ratio)):
                x0, y0, x1, y1 = crop.box
                pixels = resize(image[y0:y1, x0:x1], self.sam.input_shape(y1 - y0, x1 - x0))
                yield _CropJob(image_index, crop_index, crop, torch.from_numpy(pixels).permute(2, 0, 1))

    def _questions(self, job: _CropJob, prompts: ImagePrompts | None) -> list[_Questions]:
        num_outputs = self.sam.config.num_multimask_outputs
        multimask = range(1, num_outputs + 1)
        x0, y0, x1, y1 = job.crop.box
        size = np.array([x1 - x0, y1 - y0])
        if prompts is not None:
            num_boxes, most = len(prompts.boxes), len(prompts.boxes) + num_outputs * len(prompts.points)
            asked = [_Questions(prompts.boxes, range(1), 0), _Questions(prompts.points, multimask, num_boxes)]
        else:
            settings = self.settings
            # crops of an image differ in their number of points: their numbers start apart at the largest grid's size
            most = num_outputs * max(settings.points_per_side, *map(settings.points_in, settings.layers)) ** 2
            asked = [_Questions(point_grid(settings.points_in(job.crop.layer)) * size, multimask, 0)]
        if self.text_token is not None:
            asked.append(_Questions(size[None] / 2, multimask, most, by_text=True))
            most += num_outputs
        return [replace(one, first_number=one.first_number + job.crop_index * most) for one in asked]

    def _prompt_crop(
        self, job: _CropJob, embedding: EmbeddedImage, image_height: int, questions: list[_Questions], found: _Found
    ) -> None:
        x0, y0, x1, y1 = job.crop.box
        height, width = job.pixels.shape[1:]
        scale = np.array([width / (x1 - x0), height / (y1 - y0)])
        scanner = self._scanner(job, image_height)
        num_prompts = self._num_prompts
        for asked in questions:
            for start in range(0, len(asked.where), num_prompts):
                where = asked.where[start : start + num_prompts]
                block = replace(asked, where=where, first_number=asked.first_number + start * len(asked.slots))
                self._ask(block, job, scale, embedding, scanner, found)
        if self.settings.agreement_iou is not None:
            found.agreement = (found.agreement or []) + agreement(found.cells, self.settings.agreement_iou).tolist()
            found.cells.clear()

    def _scanner(self, job: _CropJob, image_height: int) -> StripScan | DenseScan:
        x0, y0, x1, y1 = job.crop.box
        low_size = self.sam.config.embedding_size * 4
        input_size, (height, width) = self.sam.mask_frame(*job.pixels.shape[1:])
        rows = _axis(low_size, input_size, height, y1 - y0)
        columns = _axis(low_size, input_size, width, x1 - x0)
        upsampler = Upsampler(rows, columns, x0, y0, image_height)
        if self.sam.device.type == "cpu":
            return StripScan(upsampler, StabilityBound.of(rows, columns, input_size, (height, width)))
        return DenseScan(upsampler, self.sam.device)

    def _ask(
        self,
        asked: _Questions,
        job: _CropJob,
        scale: np.ndarray,
        embedding: EmbeddedImage,
        scanner: StripScan | DenseScan,
        found: _Found,
    ) -> None:
        """One block of prompts; `scale` (2,) takes the crop's pixels to those of the model's input."""
        corners = asked.where.reshape(len(asked.where), -1, 2)  # (B, 1 or 2, 2)
        slots = asked.slots
        with self._precision():
            decoded = self._decode(corners * scale, embedding, asked.by_text)
            predicted_iou = decoded.predicted_iou[: len(corners), slots.start : slots.stop].float()
            prompt_index, output = torch.nonzero(predicted_iou >= self.min_predicted_iou, as_tuple=True)
            if len(prompt_index) == 0:
                return
            logits = self.sam.mask_decoder.masks(decoded, prompt_index, output + slots.start).float()
        scores = predicted_iou[prompt_index, output].tolist()
        points = corners.mean(1) + job.crop.box[:2]
        where, outputs = prompt_index.tolist(), output.tolist()
        thresholds = self.sam.config.mask_threshold, self.settings.stability_score_offset, self.min_stability
        cells = None if self.settings.agreement_iou is None else self._cells(logits, job)
        for one, stability, outline in scanner.scan(logits, *thresholds):
            prompt, index = where[one], outputs[one]
            found.number.append(asked.first_number + prompt * len(slots) + index)
            found.predicted_iou.append(scores[one])
            found.stability_score.append(stability)
            found.point.append((float(points[prompt, 0]), float(points[prompt, 1])))
            found.crop.append(job.crop)
            found.mask_index.append(slots[index] - 1)
            found.outlines.append(outline)
            if cells is not None:
                found.cells.append(cells[one])

    def _cells(self, logits: Tensor, job: _CropJob) -> np.ndarray:
        """Low-resolution masks (K, low, low) without their padding, as packed bits (K, bytes)."""
        input_size, frame = self.sam.mask_frame(*job.pixels.shape[1:])
        rows, columns = (-(-logits.shape[-1] * length // input_size) for length in frame)
        masks = logits[:, :rows, :columns] > self.sam.config.mask_threshold
        return np.packbits(masks.flatten(1).cpu().numpy(), axis=1)

    def _decode(self, where: np.ndarray, embedding: EmbeddedImage, by_text: bool) -> DecodedPrompts:
        """One prompt a row: `where` (B, 1, 2) foreground points or (B, 2, 2) boxes, in pixels of the model's input; or
        the text instead."""
        if self.full_blocks:
            missing = self._num_prompts - len(where)
            where = np.concatenate([where, where[-1:].repeat(missing, axis=0)])
        coordinates = torch.as_tensor(where, dtype=torch.float32, device=self.sam.device)
        if by_text:
            assert self.text_token is not None
            token = self.text_token.to(self.sam.device)
            prompts = Prompts(embeddings=token.expand(len(where), 1, -1))  # (B, 1, C)
        elif where.shape[1] == 2:
            prompts = Prompts(boxes=coordinates.flatten(1))  # (B, 4)
        else:
            labels = torch.ones(len(where), 1, dtype=torch.int64, device=self.sam.device)
            prompts = Prompts(points=coordinates, labels=labels)
        return attend_prompts(self.sam, embedding, prompts)


@lru_cache(maxsize=64)
def _axis(low_size: int, image_size: int, valid: int, length: int) -> Axis:
    return Axis.of(low_size, image_size, valid, length)


def resize_longest_side(image: np.ndarray, size: int) -> np.ndarray:
    """(H, W, 3) uint8 to longest side `size`, as segment-anything's `ResizeLongestSide`: Pillow's bilinear filter,
    sides rounded half up, at least one pixel each."""
    height, width = image.shape[:2]
    scale = size / max(height, width)
    return resize(image, (max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))))


def resize(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8 to `shape`, height and width, by Pillow's bilinear filter."""
    resized = Image.fromarray(np.ascontiguousarray(image)).resize(shape[::-1], Image.Resampling.BILINEAR)
    return np.array(resized)


def _assemble(found: _Found, height: int, width: int) -> Candidates:
    bbox, area, rles = [np.zeros((0, 4), np.int32)], [np.zeros(0, np.int64)], []
    for start in range(0, len(found.outlines), MASKS_PER_BLOCK):
        outlines = (join_transitions([one]) for one in found.outlines[start : start + MASKS_PER_BLOCK])
        counts = [counts_from_transitions(outline, height * width) for outline in outlines]
        lengths, runs = np.array([len(one) for one in counts], np.int64), np.concatenate(counts)
        bbox.append(boxes_of_counts(runs, lengths, height))
        area.append(areas_of_counts(runs, lengths))
        rles += compress_counts(runs, lengths)
    boxes = [(x0, y0, x1 - x0, y1 - y0) for x0, y0, x1, y1 in (crop.box for crop in found.crop)]
    return Candidates(
        height=height,
        width=width,
        number=np.array(found.number, np.int64),
        bbox=np.concatenate(bbox),
        area=np.concatenate(area),
        predicted_iou=np.array(found.predicted_iou, np.float32),
        stability_score=np.array(found.stability_score, np.float32),
        agreement=None if found.agreement is None else np.array(found.agreement, np.int32),
        point=np.array(found.point, np.float32).reshape(-1, 2),
        crop_box=np.array(boxes, np.int32).reshape(-1, 4),
        crop_layer=np.array([crop.layer for crop in found.crop], np.int8),
        mask_index=np.array(found.mask_index, np.int8),
        rles=rles,
    )
