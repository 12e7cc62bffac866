"""The embedded SAM 2 follows what it was never trained on: plain shapes that move."""

import cv2
import numpy as np
import pytest
import torch

from models.evaluation.video import region_similarity
from models.sam2.model import Sam2
from models.sam2.tracker import VideoTracker
from models.sam2.weights import load_sam2
from models.tracking.follower import Follower

SIZE = 256


@pytest.fixture(scope="module")
def model() -> Sam2:
    return load_sam2("sam2_small")[0]


def disc(x: int) -> np.ndarray:
    mask = np.zeros((SIZE, SIZE), np.uint8)
    cv2.circle(mask, (x, 128), 36, 1, -1)
    return mask.astype(bool)


def frames(xs: list[int]) -> list[np.ndarray]:
    ground = np.random.default_rng(0).integers(60, 90, (SIZE, SIZE, 3)).astype(np.uint8)
    pictures = [ground.copy() for _ in xs]
    for picture, x in zip(pictures, xs, strict=True):
        picture[disc(x)] = (220, 60, 40)
    return pictures


class Pixels:
    def __init__(self, model: Sam2, pictures: list[np.ndarray]) -> None:
        self.pixels = model.preprocess(torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2))

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.pixels[index]


def test_a_disc_is_tracked_by_its_memory(model: Sam2) -> None:
    xs = [70, 82, 94, 106, 118]
    tracker = VideoTracker(model, Pixels(model, frames(xs)), SIZE, SIZE)
    tracker.add_mask(0, 1, torch.from_numpy(disc(70)))
    for found, x in zip(tracker.propagate(), xs, strict=True):
        assert region_similarity(found.to_masks(SIZE, SIZE)[0].numpy(), disc(x)) > 0.75
        assert float(found.object_scores[0]) > 0


def test_it_follows_boxes_too(model: Sam2) -> None:
    xs = [70, 76, 82]
    follower = Follower(model, frames(xs), SIZE, SIZE)
    follower.add_mask(0, 1, torch.from_numpy(disc(70)))
    for found, x in zip(follower.propagate(), xs, strict=True):
        assert region_similarity(found.to_masks(SIZE, SIZE)[0].numpy(), disc(x)) > 0.75
