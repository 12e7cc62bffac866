import numpy as np
import pytest
import torch

from models.sam.prompts import Prompts
from models.sam2.weights import load_sam2
from models.training.augment import Example
from models.training.iou_head import fit_iou_head
from models.weights import load_sam


def scene(number: int, num_masks: int = 12) -> Example:
    """Bright boxes on a dark ground."""
    rng = np.random.default_rng(number)
    image, masks = rng.integers(0, 60, (3, 256, 256), np.uint8), np.zeros((num_masks, 64, 64), bool)
    for mask in masks:
        y, x = rng.integers(0, 48, 2)
        height, width = rng.integers(4, 16, 2)
        mask[y : y + height, x : x + width] = True
        image[:, 4 * y : 4 * (y + height), 4 * x : 4 * (x + width)] = rng.integers(90, 255, (3, 1, 1))
    return Example(torch.from_numpy(image), torch.from_numpy(masks), torch.ones(num_masks), str(number))


@torch.no_grad()
def test_the_fit_lowers_the_error_and_leaves_the_masks() -> None:
    sam, _ = load_sam("sam_tiny")
    prompts = Prompts(points=torch.tensor([[[50.0, 90.0]]]), labels=torch.ones(1, 1, dtype=torch.int64))
    embedding = sam.encode_images(sam.preprocess(scene(99).image[None]))
    masks, _ = sam.predict_masks(embedding, prompts, multimask_output=True)
    with torch.enable_grad():
        fit = fit_iou_head(sam, [scene(number) for number in range(20)] + [scene(50, num_masks=0)])
    assert fit.num_masks == 2 * 20 * 12  # by point and by box
    assert fit.error_after < 0.8 * fit.error_before and fit.chosen_before <= fit.best and fit.chosen_after <= fit.best
    assert torch.equal(masks, sam.predict_masks(embedding, prompts, multimask_output=True)[0])


def test_too_few_labels_are_refused() -> None:
    sam, _ = load_sam("sam_tiny")
    with pytest.raises(ValueError, match="1 images with masks, and one must judge"):
        fit_iou_head(sam, [scene(1), scene(1), scene(2, num_masks=0)])


def test_a_fit_that_is_worse_is_not_taken() -> None:
    """Two images that have nothing in common, one of which judges, by a head that knows the answer there."""
    sam, _ = load_sam("sam_tiny")
    fit_iou_head(sam, [scene(number) for number in range(20)])
    before = {name: value.clone() for name, value in sam.mask_decoder.iou_prediction_head.state_dict().items()}
    one = Example(torch.zeros(3, 256, 256, dtype=torch.uint8), torch.ones(1, 64, 64) > 0, torch.ones(1), "x")
    with pytest.raises(ValueError, match="worse on held-out ones"):
        fit_iou_head(sam, [scene(1), one])
    assert all(
        torch.equal(before[name], value) for name, value in sam.mask_decoder.iou_prediction_head.state_dict().items()
    )


@torch.no_grad()
def test_a_sam_2_is_fitted_before_its_sigmoid() -> None:
    model, _ = load_sam2("sam2_small")
    assert model.config.image_size == 256
    with torch.enable_grad():
        fit = fit_iou_head(model, [scene(number) for number in range(12)])
    assert fit.error_after < fit.error_before and fit.chosen_after <= fit.best
