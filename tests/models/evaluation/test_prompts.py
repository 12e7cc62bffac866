import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from models.evaluation.prompts import PromptScores, center_point, score_prompts
from models.generator.generate import resize, resize_longest_side
from models.masks.rle import encode_masks
from models.sam.build import build_sam
from models.sam.config import SAM_SIZES
from models.sam.model import Sam
from models.sam.prompts import Prompts
from models.sam2.build import build_sam2
from models.sam2.config import SAM2_SIZES
from models.sam2.model import Sam2


@pytest.fixture(scope="module")
def sam() -> Sam:
    torch.manual_seed(0)
    return build_sam(SAM_SIZES["debug"]).eval()


@pytest.fixture(scope="module")
def sam2() -> Sam2:
    torch.manual_seed(0)
    return build_sam2(SAM2_SIZES["debug"]).eval()


def test_chosen_and_best_by_hand() -> None:
    scores = PromptScores(np.array([[0.3, 0.9, 0.9], [0.2, 0.1, 0.0]]), np.array([[0.8, 0.5, 0.6], [0.1, 0.4, 0.7]]))
    assert scores.chosen.tolist() == [0.5, 0.1]
    assert scores.best.tolist() == [0.8, 0.7]


def test_the_center_is_farthest_from_the_edge() -> None:
    mask = np.zeros((20, 30), bool)
    mask[2:9, 5:12] = True  # a square of 7 with a tail
    mask[5, 12:28] = True
    assert center_point(mask) == (8, 5)
    dot = np.zeros((4, 4), bool)
    dot[3, 2] = True
    assert center_point(dot) == (2, 3)
    assert center_point(np.ones((1, 1), bool)) == (0, 0)
    # the image's border is an edge: otherwise a full image would have no center
    assert center_point(np.ones((5, 9), bool)) == (2, 2)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 12))
def test_the_center_agrees_with_every_distance_computed(seed: int, height: int, width: int) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < 0.7
    mask[seed % height, seed % width] = True
    outside = np.argwhere(~np.pad(mask, 1)) - 1
    inside = np.argwhere(mask)
    distance = np.sqrt(((inside[:, None] - outside[None]) ** 2).sum(-1)).min(1)
    x, y = center_point(mask)
    own = distance[(inside == [y, x]).all(1)]
    assert own == pytest.approx(distance.max(), abs=1e-4)


def reference(sam: Sam | Sam2, image: np.ndarray, prompts: Prompts, multimask: bool) -> tuple[np.ndarray, np.ndarray]:
    """Binary masks at full resolution, by the published resizes, and predicted IoU."""
    if isinstance(sam, Sam2):
        squeezed = torch.from_numpy(resize(image, (64, 64))).permute(2, 0, 1)
        (embedded,) = sam.embed(sam.preprocess(squeezed[None]))
        logits, predicted = sam.predict_masks(embedded, prompts, multimask)
        full = F.interpolate(logits, image.shape[:2], mode="bilinear", align_corners=False)
        return (full > 0).numpy(), predicted.numpy()
    pixels = torch.from_numpy(resize_longest_side(image, sam.config.image_size)).permute(2, 0, 1)
    embedding = sam.encode_images(sam.preprocess(pixels[None]))
    logits, predicted = sam.predict_masks(embedding, prompts, multimask)
    full = F.interpolate(logits, (sam.config.image_size,) * 2, mode="bilinear", align_corners=False)
    full = full[..., : pixels.shape[1], : pixels.shape[2]]
    full = F.interpolate(full, image.shape[:2], mode="bilinear", align_corners=False)
    return (full > 0).numpy(), predicted.numpy()


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["sam", "sam2"])
def test_answers_are_those_of_one_prompt_at_a_time_in_full(kind: str, request: pytest.FixtureRequest) -> None:
    sam: Sam | Sam2 = request.getfixturevalue(kind)
    rng = np.random.default_rng(1)
    image = rng.integers(0, 255, (90, 130, 3), np.uint8)
    truths = np.zeros((5, 90, 130), bool)
    truths[0, 10:50, 20:80] = True
    truths[1, 89, 129] = True  # one pixel, in the corner
    truths[2, :, :] = True
    truths[3, 30:33, 0:130] = True
    truths[4, 60:80, 5:30] = True
    point, box = score_prompts(sam, image, encode_masks(truths), prompts_per_batch=2)
    assert point.predicted_iou.shape == point.true_iou.shape == (5, 3)
    assert box.predicted_iou.shape == box.true_iou.shape == (5, 1)
    # the sides of the resized picture: 64 x 44, or a square
    scale = 64 / 130, (44 if isinstance(sam, Sam) else 64) / 90
    for index, truth in enumerate(truths):
        x, y = center_point(truth)
        rows, columns = np.flatnonzero(truth.any(1)), np.flatnonzero(truth.any(0))
        corners = [columns[0] * scale[0], rows[0] * scale[1], columns[-1] * scale[0], rows[-1] * scale[1]]
        by_point = Prompts(points=torch.tensor([[[x * scale[0], y * scale[1]]]]), labels=torch.ones(1, 1))
        by_box = Prompts(boxes=torch.tensor([corners], dtype=torch.float32))
        for scores, prompts, multimask in ((point, by_point, True), (box, by_box, False)):
            masks, predicted = reference(sam, image, prompts, multimask)
            iou = [(mask & truth).sum() / (mask | truth).sum() for mask in masks[0]]
            assert scores.predicted_iou[index] == pytest.approx(predicted[0], abs=1e-5)
            assert scores.true_iou[index] == pytest.approx(np.array(iou), abs=0.005)


def test_no_prompts_and_masks_that_come_out_empty(sam: Sam) -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    point, box = score_prompts(sam, image, [], 4)
    assert point.true_iou.shape == (0, 3) and box.true_iou.shape == (0, 1)
    assert len(point.chosen) == len(point.best) == len(box.best) == 0
    dot = np.zeros((1, 1, 1), bool)
    dot[...] = True
    point, box = score_prompts(sam, np.zeros((1, 1, 3), np.uint8), encode_masks(dot), 4)
    assert set(np.concatenate([point.true_iou, box.true_iou], axis=1).ravel()) <= {0.0, 1.0}


def test_reduced_precision_scores_nearly_alike(sam: Sam) -> None:
    rng = np.random.default_rng(5)
    image = rng.integers(0, 255, (40, 50, 3), np.uint8)
    truths = np.zeros((2, 40, 50), np.uint8)
    truths[0, 5:20, 5:25] = truths[1, 22:38, 10:45] = 1
    exact, _ = score_prompts(sam, image, encode_masks(truths), 2)
    rough, _ = score_prompts(sam, image, encode_masks(truths), 2, precision="bf16")
    assert rough.predicted_iou.shape == exact.predicted_iou.shape == (2, 3)
    np.testing.assert_allclose(rough.predicted_iou, exact.predicted_iou, atol=0.05)
