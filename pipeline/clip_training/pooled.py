"""What a trunk that does not learn pools of the labelled views: computed once, so that a step costs little."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.clip.efficientnet_tower import POOLED_WIDTH
from models.clip.model import Clip
from models.clip.regions import ViewSettings, blend_views, cut_view, normalise_pixels, normalise_views
from models.masks.rle import decode_patches
from pipeline.clip_training.batches import blank_view
from pipeline.clip_training.packed import digest, stored_rows
from pipeline.clip_training.views import LabelledPicture, LabelledView
from pipeline.progress import progress_bar

NUM_BLANKS = 128  # views of nothing to draw from
VIEWS_PER_BATCH = 32
_NAME = "pooled.npy"


@dataclass(frozen=True)
class PooledViews:
    """`of_masks` (N, K, F) float32, one row a scale for each of `masks`; `blanks` (B, F), of views of nothing."""

    masks: Sequence[LabelledView]
    of_masks: Tensor
    blanks: Tensor

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation of each component (F,) over the views of masks; the deviation is never 0."""
        rows = self.of_masks.flatten(0, 1)
        return rows.mean(dim=0), rows.std(dim=0) + 1e-4


def pool_views(
    pictures: Sequence[LabelledPicture], views: ViewSettings, clip: Clip, seed: int, folder: Path, quiet: bool
) -> PooledViews:
    """Pools the views, or reads what an earlier sitting left in `folder` from the same data and settings."""
    masks = [view for picture in pictures for view in picture.masks]
    num_views = len(masks) * len(views.scales)
    shape = (num_views + NUM_BLANKS, POOLED_WIDTH)
    key = json.dumps([views.model_dump(mode="json"), clip.config.to_json(), seed, digest(pictures)])

    def fill(rows: NDArray[Any]) -> None:
        _fill(rows, pictures, views, clip, quiet)
        rng = np.random.default_rng([seed, 3])
        blanks = [np.ascontiguousarray(blank_view(rng, clip.config.image_size)) for _ in range(NUM_BLANKS)]
        rows[-NUM_BLANKS:] = _pool(clip, normalise_views(blanks, clip.config))

    stored = stored_rows(folder, _NAME, key, shape, np.float16, fill)
    pooled = torch.from_numpy(stored.astype(np.float32))
    of_masks = pooled[:num_views].reshape(len(masks), len(views.scales), POOLED_WIDTH)
    return PooledViews(masks, of_masks, pooled[num_views:])


def _fill(
    rows: NDArray[np.float16], pictures: Sequence[LabelledPicture], views: ViewSettings, clip: Clip, quiet: bool
) -> None:
    row = 0
    with progress_bar("pooling views", len(pictures), "images", quiet) as update:
        for done, picture in enumerate(pictures, start=1):
            pixels = picture.pixels()
            boxes = np.array([view.bbox for view in picture.masks], np.int32).reshape(-1, 4)
            height, width = pixels.shape[:2]
            patches = decode_patches([view.rle or b"" for view in picture.masks], height, width, boxes)
            cuts = [
                cut_view(pixels, patch, view.bbox, scale, views, clip.config)
                for view, patch in zip(picture.masks, patches, strict=True)
                for scale in views.scales
            ]
            for start in range(0, len(cuts), VIEWS_PER_BATCH):
                batch = zip(*cuts[start : start + VIEWS_PER_BATCH], strict=True)
                shown, shares = (torch.from_numpy(np.stack(part)) for part in batch)
                pooled = _pool(clip, normalise_pixels(blend_views(shown, shares, views, clip.config), clip.config))
                rows[row : row + len(pooled)] = pooled
                row += len(pooled)
            update(done, "")


@torch.inference_mode()
def _pool(clip: Clip, images: Tensor) -> NDArray[np.float16]:
    rows: NDArray[np.float16] = clip.pool_image(images.to(clip.device)).half().cpu().numpy()
    return rows
