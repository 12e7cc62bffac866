"""CLIP's features of images and of their masks, in batches that cross the borders between images."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from models.clip.model import Clip
from models.clip.regions import (
    Box,
    ViewSettings,
    blend_views,
    cut_view,
    normalise_pixels,
    normalise_views,
    whole_view,
)
from models.masks.rle import decode_masks, decode_patches
from models.precision import computes_in_bf16

Features = NDArray[np.float32]
View = TypeVar("View")


@dataclass(frozen=True)
class Regions:
    """An image, RGB (H, W, 3), and masks on it as COCO counts with their boxes (N, 4) as x, y, w, h."""

    image: NDArray[np.uint8]
    rles: Sequence[bytes]
    boxes: NDArray[np.int32]


class MaskEncoder:
    """Features of unit length; those of a mask without a pixel are zeros."""

    def __init__(self, clip: Clip, views: ViewSettings, views_per_batch: int, dense_size: int | None = None) -> None:
        """With `dense_size` one pass over the image, whose longer side has so many pixels, serves all of its masks.

        Raises ValueError if the model has no such features."""
        if dense_size is not None and not clip.config.is_resnet:
            raise ValueError(
                "tag.dense: only a ModifiedResNet has dense features, which this CLIP is not; set tag.dense false"
            )
        self.clip = clip
        self.views = views
        self.views_per_batch = views_per_batch
        self.dense_size = dense_size

    def encode(self, regions: Sequence[Regions]) -> list[tuple[Features, Features]]:
        """For each image its own feature (D,) and those of its masks (N, D)."""
        size = self.views.whole_size
        wholes = self._encode((whole_view(one.image, self.clip.config, size) for one in regions), self._normalised)
        if self.dense_size is not None:
            return [(whole, self._dense(one)) for whole, one in zip(wholes, regions, strict=True)]
        seen = [one.boxes[:, 2:].min(axis=1, initial=1) > 0 for one in regions]
        scales = self.views.scales
        cuts = (
            cut_view(one.image, patch, box, scale, self.views, self.clip.config)
            for one, visible in zip(regions, seen, strict=True)
            for patch, box in _patches(one, np.flatnonzero(visible))
            for scale in scales
        )
        parts = self._encode(cuts, self._blended)
        means = _unit(parts.reshape(-1, len(scales), parts.shape[-1]).mean(axis=1))
        ends = np.cumsum([visible.sum() for visible in seen])
        found = []
        for whole, visible, own in zip(wholes, seen, np.split(means, ends[:-1]), strict=True):
            features = np.zeros((len(visible), means.shape[-1]), np.float32)
            features[visible] = own
            found.append((whole, features))
        return found

    def _encode(self, views: Iterator[View], prepare: Callable[[Sequence[View]], Tensor]) -> Features:
        """(N, D), a batch of views at a time; `prepare` makes CLIP's input of one."""
        found = [np.zeros((0, self.clip.config.embed_dim), np.float32)]
        while batch := list(islice(views, self.views_per_batch)):
            found.append(self._features(batch, prepare))
        return np.concatenate(found)

    def _normalised(self, views: Sequence[NDArray[np.uint8]]) -> Tensor:
        return normalise_views(views, self.clip.config, self.clip.device)

    def _blended(self, cuts: Sequence[tuple[NDArray[np.uint8], NDArray[np.float32]]]) -> Tensor:
        views, shares = (torch.from_numpy(np.stack(one)).to(self.clip.device) for one in zip(*cuts, strict=True))
        return normalise_pixels(blend_views(views, shares, self.views, self.clip.config), self.clip.config)

    def _features(self, views: Sequence[View], prepare: Callable[[Sequence[View]], Tensor]) -> Features:
        """(N, D), at once, or half by half where the device has no memory for that."""
        try:
            return self._at_once(views, prepare)
        except torch.OutOfMemoryError:
            if len(views) == 1:
                raise
        half = len(views) // 2
        return np.concatenate([self._features(views[:half], prepare), self._features(views[half:], prepare)])

    @torch.inference_mode()
    def _at_once(self, views: Sequence[View], prepare: Callable[[Sequence[View]], Tensor]) -> Features:
        device = self.clip.device
        images = prepare(views).contiguous(memory_format=torch.channels_last)
        fast = device.type == "cuda" and computes_in_bf16(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=fast):
            features = self.clip.encode_image(images)
        return _numpy(features)

    @torch.inference_mode()
    def _dense(self, regions: Regions) -> Features:
        """Mask-pooled features (N, D) from one pass over the image."""
        assert self.dense_size is not None
        visible = regions.boxes[:, 2:].min(axis=1, initial=1) > 0
        features = np.zeros((len(visible), self.clip.config.embed_dim), np.float32)
        if not visible.any():
            return features
        height, width = regions.image.shape[:2]
        factor, patch = self.dense_size / max(height, width), self.clip.config.patch_size
        rows, columns = (max(patch, round(side * factor / patch) * patch) for side in (height, width))
        how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
        resized = cv2.resize(regions.image, (columns, rows), interpolation=how)
        masks = decode_masks([regions.rles[index] for index in np.flatnonzero(visible).tolist()], height, width)
        shares = np.stack(
            [cv2.resize(mask * np.float32(1), (columns, rows), interpolation=cv2.INTER_AREA) for mask in masks]
        )
        device = self.clip.device
        image = normalise_views([resized], self.clip.config, device)
        pooled = self.clip.encode_regions(image, torch.from_numpy(shares)[None].to(device))
        features[visible] = _numpy(pooled[0])
        return features


def _patches(regions: Regions, visible: NDArray[np.intp]) -> Iterator[tuple[NDArray[np.uint8], Box]]:
    """The pixels of each visible mask within its box, and the box."""
    boxes = regions.boxes[visible]
    rles = [regions.rles[index] for index in visible.tolist()]
    patches = decode_patches(rles, regions.image.shape[0], regions.image.shape[1], boxes) if rles else []
    return zip(patches, map(tuple, boxes.tolist()), strict=True)


def _numpy(features: Tensor) -> Features:
    found: Features = F.normalize(features.float(), dim=-1).cpu().numpy()
    return found


def _unit(features: Features) -> Features:
    norms = np.linalg.norm(features, axis=-1, keepdims=True)
    return (features / np.maximum(norms, np.finfo(np.float32).tiny)).astype(np.float32)
