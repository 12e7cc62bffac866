import numpy as np
import pytest
import torch

from models.evaluation.sharpness import SCALES, SharpnessTally, sharpen_masks
from models.masks.rle import encode_masks
from models.sam.build import build_sam
from models.sam.config import SAM_SIZES
from models.sam.model import Sam
from models.sam.prompts import Prompts
from models.weights import load_sam


@pytest.fixture
def sam() -> Sam:
    torch.manual_seed(0)
    return build_sam(SAM_SIZES["debug"]).eval()


def test_logits_are_multiplied_and_masks_stay(sam: Sam) -> None:
    prompts = Prompts(points=torch.tensor([[[5.0, 9.0]]]), labels=torch.ones(1, 1, dtype=torch.int64))
    embedding = torch.randn(1, 32, 4, 4)
    with torch.inference_mode():
        before = [sam.predict_masks(embedding, prompts, multimask_output=multi) for multi in (True, False)]
        sharpen_masks(sam, multimask=4.0, single=0.5)
        after = [sam.predict_masks(embedding, prompts, multimask_output=multi) for multi in (True, False)]
    for (old, old_iou), (new, new_iou), scale in zip(before, after, (4.0, 0.5), strict=True):
        assert torch.allclose(new, scale * old, rtol=1e-4, atol=1e-6) and torch.equal(new_iou, old_iou)


def test_the_scale_is_found_again_after_a_change() -> None:
    sam, _ = load_sam("sam_tiny")  # fresh weights are unsure of everything
    masks = np.zeros((3, 96, 128), np.uint8)
    masks[0, 8:60, 8:60] = masks[1, 40:88, 68:120] = masks[2, 70:, :40] = 1
    image = np.full((96, 128, 3), 40, np.uint8)
    for mask, colour in zip(masks, ((200, 40, 40), (40, 200, 40), (40, 40, 200)), strict=True):
        image[mask > 0] = colour

    def scales() -> tuple[float, float]:
        tally = SharpnessTally()
        tally.add(sam, image, encode_masks(masks), prompts_per_batch=2)
        return tally.scales()

    first = scales()
    step = SCALES[1] / SCALES[0]
    sharpen_masks(sam, multimask=step, single=1 / step)
    second = scales()
    for one, other, change in zip(first, second, (step, 1 / step), strict=True):
        assert SCALES[0] < one < SCALES[-1]
        assert other == pytest.approx(one / change)


def test_without_masks_there_is_nothing_to_fit() -> None:
    with pytest.raises(ValueError, match="no mask to fit"):
        SharpnessTally().scales()
