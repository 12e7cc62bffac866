"""Prompt SAM with a grid of points: pixels to candidate masks with their scores."""

import time
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from models.generator.candidates import Candidates
from models.generator.generate import MaskGenerator
from models.generator.image_prompts import ImagePrompts
from models.generator.settings import GenerateSettings
from models.pinned_weights import PinnedWeights
from models.sam2.weights import load_segmenter
from stages.attempts import Attempts, time_limit
from stages.decode_image import describe
from stages.lost_gpu import leave_if_gpu_is_lost
from stages.mask_columns import MaskColumns
from stages.record import fixed_rows, mask_structs, set_columns

# An actor may die for reasons of its own, so the second attempt is like the first; the third spends less memory, the
# fourth leaves the crops out, and then the image has failed.
MAX_LIKE_FIRST = 2
SMALLER_POINTS_PER_BATCH = 8


class GenerateMasks:
    """Stage, one instance an actor: rows with `pixels` gain `masks` and `rles`, and lose their pixels unless
    `keep_pixels`.

    An image that killed its actor is tried again alone and then smaller; one that was done without its crops, which
    changes the result, stays `ok` and says so in `error`. `image_timeout` (seconds) ends an actor that hangs.
    `text_token` (C,) is the generator's.
    """

    def __init__(
        self,
        weights: PinnedWeights,
        image_size: int | None,
        settings: GenerateSettings,
        min_predicted_iou: float,
        min_stability: float,
        points_per_batch: int,
        crops_per_batch: int,
        device: str,
        num_threads: int,
        round_number: int,
        attempts: Attempts,
        image_timeout: float | None,
        compiled: bool = False,
        keep_pixels: bool = False,
        text_token: np.ndarray | None = None,
    ) -> None:
        torch.set_num_threads(num_threads)
        sam = weights.checked(*load_segmenter(weights.checkpoint, image_size))
        token = None if text_token is None else torch.from_numpy(text_token)
        thresholds = min_predicted_iou, min_stability
        self.generator = MaskGenerator(sam.to(device), settings, *thresholds, points_per_batch, crops_per_batch, token)
        if compiled:
            self.generator.compile()
        self.round_number = round_number
        self.attempts = attempts
        self.image_timeout = image_timeout
        self.keep_pixels = keep_pixels

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = batch.select(["image_id", "width", "height", "status", "error", "boxes", "points"]).to_pylist()
        pixels = batch["pixels"]
        images = {
            index: np.frombuffer(pixels[index].as_buffer(), np.uint8).reshape(row["height"], row["width"], 3)
            for index, row in enumerate(rows)
            if row["status"] == "ok"
        }
        started = time.perf_counter()
        found = self._generate(rows, images)
        seconds = (time.perf_counter() - started) / max(1, len(images))
        masks = [self._structs(row["image_id"], found.get(index)) for index, row in enumerate(rows)]
        rles = [rle for index in range(len(rows)) if index in found for rle in found[index].rles]
        structs = pa.concat_arrays([mask_structs({}, 0), *masks])
        return set_columns(
            batch if self.keep_pixels else batch.drop_columns(["pixels"]),
            {
                "status": pa.array([row["status"] for row in rows], pa.string()),
                "error": pa.array([row["error"] for row in rows], pa.string()),
                **MaskColumns.made(structs, rles, [len(one) for one in masks]).columns(),
                "generate_seconds": pa.array([seconds * (index in images) for index in range(len(rows))], pa.float64()),
            },
        )

    def _generate(self, rows: list[dict[str, Any]], images: dict[int, np.ndarray]) -> dict[int, Candidates]:
        """Candidates by row; a row that has none is marked as failed. The whole batch at once, and when that fails
        or has killed an actor before, image by image, so that one does not take the others along."""
        ids = [rows[index]["image_id"] for index in images]
        if ids and not any(self.attempts.counts(ids)):
            self.attempts.begin(ids)
            try:
                with time_limit(self.image_timeout and self.image_timeout * len(ids)):
                    prompts = [_prompts(rows[index]) for index in images]
                    return dict(zip(images, self.generator.generate(list(images.values()), prompts), strict=True))
            except Exception:  # found out below, image by image
                leave_if_gpu_is_lost(self.generator.sam.device)
            finally:
                self.attempts.done(ids)
        found: dict[int, Candidates] = {}
        for index, image in images.items():
            row = rows[index]
            attempt = self.attempts.begin([row["image_id"]])[0]
            try:
                found[index], row["error"] = self._generate_one(image, _prompts(row), attempt)
            except Exception as error:  # any failure of one image is its row's: the reason is kept there
                leave_if_gpu_is_lost(self.generator.sam.device)
                row |= {"status": "failed", "error": f"generate: {describe(error)}"}
            self.attempts.done([row["image_id"]])
        return found

    def _generate_one(
        self, image: np.ndarray, prompts: ImagePrompts | None, attempt: int
    ) -> tuple[Candidates, str | None]:
        """One image at its `attempt`-th try; the note says how the result differs from a first try's."""
        generator, note = self.generator, None
        if attempt > MAX_LIKE_FIRST:
            generator = generator.smaller(SMALLER_POINTS_PER_BATCH)
        if attempt > MAX_LIKE_FIRST + 1:
            if attempt > MAX_LIKE_FIRST + 2 or generator.settings.layers == (0,):
                raise RuntimeError(f"the worker died or hung at each of {attempt - 1} attempts")
            generator, note = generator.without_crops(), f"generate: without crops, after {attempt - 1} attempts"
        with time_limit(self.image_timeout):
            return generate_within_memory(generator, image, prompts), note

    def _structs(self, image_id: str, found: Candidates | None) -> pa.StructArray:
        if found is None:
            return mask_structs({}, 0)
        columns: dict[str, Any] = {
            "mask_id": [f"{image_id}/{self.round_number}/{number}" for number in found.number],
            "bbox": fixed_rows(found.bbox, pa.int32()),
            "area": found.area,
            "predicted_iou": found.predicted_iou,
            "stability_score": found.stability_score,
            "agreement": found.agreement,
            "point": fixed_rows(found.point, pa.float32()),
            "crop_box": fixed_rows(found.crop_box, pa.int32()),
            "crop_layer": found.crop_layer,
            "mask_index": found.mask_index,
            "source": ["auto"] * len(found),
            "stage": ["automatic"] * len(found),
        }
        return mask_structs(columns, len(found))


def generate_within_memory(
    generator: MaskGenerator, image: np.ndarray, prompts: ImagePrompts | None = None
) -> Candidates:
    """One image, with less in memory at a time where that runs out."""
    try:
        return generator.generate([image], [prompts])[0]
    except torch.OutOfMemoryError:
        pass  # as long as the error is there it holds on to what had been computed
    return generator.smaller(SMALLER_POINTS_PER_BATCH).generate([image], [prompts])[0]


def _prompts(row: dict[str, Any]) -> ImagePrompts | None:
    """The prompts of an image that brings some; None, and so the grid, where it has neither list."""
    if row["boxes"] is None and row["points"] is None:
        return None
    return ImagePrompts.of(row["boxes"] or [], row["points"] or [], row["height"], row["width"])
