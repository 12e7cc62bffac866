import dataclasses

import cv2
import numpy as np
import pytest
import torch

from models.clip.config import CLIP_SIZES
from models.clip.contrastive import contrastive_loss, shared_text_loss
from models.clip.learn_bpe import learn_merges
from models.clip.regions import ViewSettings, blend_views, normalise_views, patch_view, region_view, whole_view
from models.clip.tokenizer import ClipTokenizer
from models.masks.rle import decode_patches, encode_masks

CONFIG = dataclasses.replace(CLIP_SIZES["debug"], image_size=32)


def view(image: np.ndarray, mask: np.ndarray, bbox: tuple[int, int, int, int], scale: float = 1.0, **settings: float):
    return region_view(image, encode_masks(mask[None])[0], bbox, scale, ViewSettings(**settings), CONFIG)


def test_the_mask_stays_sharp_and_the_rest_is_blurred_not_black() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)
    mask = np.zeros((64, 64), np.uint8)
    mask[16:48, 16:32] = 1
    seen = view(image, mask, (16, 16, 32, 32))
    np.testing.assert_array_equal(seen[:, :16], image[16:48, 16:32])
    background = seen[:, 17:].astype(float)
    assert background.std() < 40 < image[16:48, 33:48].std() and abs(background.mean() - 128) < 20
    np.testing.assert_array_equal(view(image, mask, (16, 16, 32, 32), blur=0.0), image[16:48, 16:48])


def test_a_faded_background_is_the_mean_colour() -> None:
    image = np.full((40, 40, 3), 250, np.uint8)
    mask = np.zeros((40, 40), np.uint8)
    mask[:, :20] = 1
    seen = view(image, mask, (0, 0, 40, 40), fade=1.0)
    assert (seen[:, :15] == 250).all() and np.abs(seen[:, 18:] - 255 * np.array(CONFIG.pixel_mean)).max() < 1


@pytest.mark.parametrize("bbox", [(0, 0, 1, 1), (59, 39, 1, 1), (0, 0, 60, 40), (55, 0, 5, 40)])
def test_any_mask_of_any_image_has_a_view(bbox: tuple[int, int, int, int]) -> None:
    image = np.full((40, 60, 3), 200, np.uint8)
    mask = np.zeros((40, 60), np.uint8)
    x, y, w, h = bbox
    mask[y : y + h, x : x + w] = 1
    for scale in (1.0, 1.5, 8.0):
        seen = view(image, mask, bbox, scale)
        assert seen.shape == (32, 32, 3) and seen.max() > 150
    assert view(np.full((1, 1, 3), 7, np.uint8), np.ones((1, 1), np.uint8), (0, 0, 1, 1)).shape == (32, 32, 3)


def test_the_whole_image_is_there_and_views_are_normalised() -> None:
    image = np.zeros((10, 40, 3), np.uint8)
    image[:, 0] = image[:, -1] = 255
    seen = whole_view(image, CONFIG)
    assert seen[16, 0].min() > 150 and seen[16, -1].min() > 150 and seen[0, 0, 0] == round(255 * CONFIG.pixel_mean[0])
    pixels = normalise_views([seen, seen], CONFIG)
    assert pixels.shape == (2, 3, 32, 32)
    back = pixels[0] * torch.tensor(CONFIG.pixel_std).view(3, 1, 1) + torch.tensor(CONFIG.pixel_mean).view(3, 1, 1)
    np.testing.assert_allclose(back.permute(1, 2, 0).numpy() * 255, seen, atol=1e-3)


def test_a_background_is_blurred_as_opencv_blurs_it() -> None:
    rng = np.random.default_rng(2)
    views, shares = rng.integers(0, 256, (3, 32, 32, 3), np.uint8), rng.random((3, 32, 32), np.float32)
    settings = ViewSettings(blur=0.1, fade=0.25)
    found = blend_views(torch.from_numpy(views), torch.from_numpy(shares), settings, CONFIG)
    assert found.shape == (3, 3, 32, 32)
    mean = np.array([round(255 * value) for value in CONFIG.pixel_mean], np.float32)
    for pixels, view, share in zip(found.permute(0, 2, 3, 1).numpy(), views.astype(np.float32), shares, strict=True):
        background = cv2.GaussianBlur(view, (0, 0), 3.2)
        background += 0.25 * (mean - background)
        expected = background + share[..., None] * (view - background)
        assert np.abs(pixels - expected).max() < 0.501 and (pixels == pixels.round()).all()


def test_shared_texts_where_none_is_shared_are_the_published_loss() -> None:
    torch.manual_seed(0)
    images, texts, scale = torch.randn(6, 8), torch.randn(6, 8), torch.tensor(2.0)
    order = torch.randperm(6)
    shared = shared_text_loss(images, texts, order, scale)
    torch.testing.assert_close(shared, contrastive_loss(images, texts[order], scale))


def test_every_image_of_a_text_is_right_for_it() -> None:
    features = torch.eye(3)
    targets = torch.tensor([0, 0, 1])
    images = features[targets]
    loss = shared_text_loss(images, features, targets, torch.tensor(100.0).log())
    # text 0 shares its probability between its two images; the third text has none and only competes
    assert loss.item() == pytest.approx((0 + (np.log(2) + 0) / 2) / 2, abs=1e-5)


def test_learned_tokens_are_those_of_the_texts() -> None:
    merges = learn_merges(["a striped ball", "the striped car"] * 5, 530)
    tokenizer = ClipTokenizer.from_merges(merges)
    assert tokenizer.vocab_size <= 530 and len(tokenizer.encode(["striped"])[0]) < len("striped")
    assert tokenizer.decode(tokenizer.encode(["мяч striped"])[0]) == "мяч striped"
    with pytest.raises(ValueError, match="max_tokens: 514 leaves no room"):
        learn_merges(["a"], 514)


def test_tokens_do_not_depend_on_the_order_of_the_texts() -> None:
    random = np.random.default_rng(0)
    letters = list("abcdefgh")  # many pairs as frequent as each other
    texts = [" ".join("".join(random.choice(letters, 5)) for _ in range(4)) for _ in range(40)]
    first = learn_merges(texts, 700)
    assert len(first.splitlines()) > 50
    assert all(learn_merges(random.permutation(texts), 700) == first for _ in range(5))


def test_a_patch_shows_what_the_run_lengths_show() -> None:
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (50, 70, 3)).astype(np.uint8)
    masks = np.zeros((3, 50, 70), np.uint8)
    masks[0, 0, 69], masks[1, 3:40, 5:9], masks[2] = 1, rng.integers(0, 2, (37, 4)), 1
    masks[1, 3, 5] = masks[1, 39, 8] = 1
    rles, boxes = encode_masks(masks), np.array([[69, 0, 1, 1], [5, 3, 4, 37], [0, 0, 70, 50]])
    for mask, rle, patch, (x, y, w, h) in zip(
        masks, rles, decode_patches(rles, 50, 70, boxes), boxes.tolist(), strict=True
    ):
        np.testing.assert_array_equal(patch, mask[y : y + h, x : x + w])
        one = patch_view(image, patch, (x, y, w, h), 1.5, ViewSettings(), CONFIG)
        np.testing.assert_array_equal(one, region_view(image, rle, (x, y, w, h), 1.5, ViewSettings(), CONFIG))
    assert decode_patches([], 50, 70, boxes[:0]) == []
