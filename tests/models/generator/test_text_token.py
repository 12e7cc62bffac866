"""A text's token as one prompt more: what it adds is what the prompt encoder, called directly, leads to."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from models.generator.generate import MaskGenerator, resize_longest_side
from models.generator.image_prompts import ImagePrompts
from models.generator.settings import GenerateSettings
from models.masks.rle import decode_masks
from models.sam.clip_prompt import ClipPrompt
from models.sam.model import Prompts, Sam
from models.sam2.model import Sam2
from tests.models.generator.test_generate import assert_same, picture, sam  # noqa: F401 (a fixture)
from tests.models.sam2.conftest import sam2  # noqa: F401

HEIGHT, WIDTH = 60, 45


def token(seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    found: torch.Tensor = ClipPrompt(24, 32)(torch.randn(1, 24))[0, 0].detach()
    return found


def test_the_text_alone_prompts_each_crop(sam: Sam) -> None:  # noqa: F811
    settings = GenerateSettings(points_per_side=2, layers=(0, 1))
    image = picture(HEIGHT, WIDTH)
    plain = MaskGenerator(sam, settings, -1e9, 0.0, points_per_batch=3)
    [without] = plain.generate([image])
    [found] = MaskGenerator(sam, settings, -1e9, 0.0, 3, 1, token()).generate([image])
    assert np.all(np.diff(found.number) > 0)
    first_of_text, per_crop = 3 * 4, 3 * 4 + 3
    by_text = found.number % per_crop >= first_of_text
    assert by_text.sum() == 3 * 5 and len(found) - by_text.sum() == len(without)
    assert np.array_equal(found.predicted_iou[~by_text], without.predicted_iou), "the grid's own answers stay"

    for crop_index in range(5):
        places = np.flatnonzero(found.number // per_crop == crop_index)[-3:]
        x, y, w, h = found.crop_box[places[0]]
        assert np.all(found.point[places] == [x + w / 2, y + h / 2]) and found.mask_index[places].tolist() == [0, 1, 2]
        resized = torch.from_numpy(resize_longest_side(image[y : y + h, x : x + w], sam.config.image_size))
        embedding = sam.encode_images(sam.preprocess(resized.permute(2, 0, 1)[None]))
        sparse, _ = sam.prompt_encoder(Prompts(embeddings=token()[None, None]))
        assert torch.equal(sparse, token()[None, None]), "no point and no padding beside it, as in training"
        low, iou = sam.predict_masks(embedding, Prompts(embeddings=token()[None, None]), multimask_output=True)
        np.testing.assert_allclose(found.predicted_iou[places], iou[0], atol=1e-4)
        side = sam.config.image_size
        full = F.interpolate(low, (side, side), mode="bilinear", align_corners=False)
        full = full[..., : resized.shape[0], : resized.shape[1]]
        full = F.interpolate(full, (int(h), int(w)), mode="bilinear", align_corners=False)[0] > 0
        masks = decode_masks([found.rles[place] for place in places], HEIGHT, WIDTH)[:, y : y + h, x : x + w]
        assert (torch.from_numpy(masks).bool() != full).float().mean() < 1e-3

    [other] = MaskGenerator(sam, settings, -1e9, 0.0, 3, 1, token(1)).generate([image])
    assert not np.allclose(other.predicted_iou[by_text], found.predicted_iou[by_text], atol=1e-4)
    smaller = MaskGenerator(sam, settings, -1e9, 0.0, 3, 1, token()).smaller(1)
    assert_same(smaller.generate([image])[0], found)
    assert len(smaller.without_crops().generate([image])[0]) == 3 * 4 + 3


def test_it_comes_after_an_images_own_prompts(sam: Sam) -> None:  # noqa: F811
    own = ImagePrompts.of([[3, 4, 30, 40]], [[10, 20], [30, 30]], HEIGHT, WIDTH)
    generator = MaskGenerator(sam, GenerateSettings(points_per_side=2), -1e9, 0.0, text_token=token())
    [found] = generator.generate([picture(HEIGHT, WIDTH)], [own])
    assert found.number.tolist() == list(range(1 + 2 * 3 + 3))
    assert found.mask_index.tolist() == [-1, *[0, 1, 2] * 3]


def test_a_sam2_takes_it_too(sam2: Sam2) -> None:  # noqa: F811
    generator = MaskGenerator(sam2, GenerateSettings(points_per_side=2), -1e9, 0.0, text_token=token())
    [found] = generator.generate([picture(64, 64)])
    (embedded,) = sam2.embed(sam2.preprocess(torch.from_numpy(picture(64, 64)).permute(2, 0, 1)[None]))
    _, iou = sam2.predict_masks(embedded, Prompts(embeddings=token()[None, None]), multimask_output=True)
    by_text = found.number >= 3 * 4
    assert found.predicted_iou[by_text].tolist() == pytest.approx(iou[0].tolist(), abs=1e-4)
