import numpy as np
import pytest
import torch

from models.evaluation.overlap import pairwise_iou
from models.masks.rle import encode_masks
from models.sam.build import build_sam
from models.sam.config import SAM_SIZES
from models.sam.model import Sam
from models.training.oracle import OracleSettings, click_masks
from models.weights import load_sam

ANY = OracleSettings(max_clicks=3, enough_iou=1.0, least_iou=0.0)


@pytest.fixture(scope="module")
def sam() -> Sam:
    torch.manual_seed(0)
    return build_sam(SAM_SIZES["debug"]).eval().requires_grad_(False)


def _scene() -> tuple[np.ndarray, list[bytes]]:
    image = np.full((60, 90, 3), 30, np.uint8)
    masks = np.zeros((3, 60, 90), np.uint8)
    masks[0, 5:30, 5:40] = masks[1, 20:55, 50:85] = 1
    masks[2, 58, 88] = 1
    image[masks[0] > 0] = 200
    return image, encode_masks(masks)


def test_masks_come_back_at_full_size_with_their_clicks(sam: Sam) -> None:
    image, truths = _scene()
    found = click_masks(sam, image, truths, ANY, torch.Generator().manual_seed(1))
    assert [one.index for one in found] == [0, 1], "one pixel is no cell of the low-resolution mask"
    for one in found:
        assert one.iou == pytest.approx(pairwise_iou([truths[one.index]], [one.rle], 60, 90)[0, 0])
        assert 1 <= one.num_clicks <= 3
    assert 5 <= found[0].point[0] < 40 and 5 <= found[0].point[1] < 30
    again = click_masks(sam, image, truths, ANY, torch.Generator().manual_seed(1))
    assert again == found


def test_bad_masks_are_given_up_and_no_truth_is_no_mask(sam: Sam) -> None:
    image, truths = _scene()
    assert click_masks(sam, image, truths, OracleSettings(least_iou=1.0), torch.Generator().manual_seed(1)) == []
    assert click_masks(sam, image, [], ANY, torch.Generator()) == []
    assert click_masks(sam, image, truths[2:], ANY, torch.Generator()) == []


def test_what_clicks_do_not_get_right_is_drawn_the_largest_first(sam: Sam) -> None:
    image, truths = _scene()
    settings = OracleSettings(max_clicks=2, least_iou=1.0, draw=True, max_objects=1)
    (drawn,) = click_masks(sam, image, truths, settings, torch.Generator().manual_seed(1))
    assert (drawn.index, drawn.rle, drawn.drawn, drawn.num_clicks) == (1, truths[1], True, 2)


def test_a_trained_model_needs_few_clicks() -> None:
    image, truths = _scene()
    trained, _ = load_sam("sam_tiny")
    one, more = (
        click_masks(trained, image, truths, OracleSettings(max_clicks=count, least_iou=0), torch.Generator())
        for count in (1, 6)
    )
    assert sum(mask.iou for mask in more) >= sum(mask.iou for mask in one) - 0.02
    assert one[0].iou > 0.5 and one[0].num_clicks == 1
