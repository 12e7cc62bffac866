import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from models.generator.generate import MaskGenerator
from models.generator.settings import GenerateSettings
from models.masks.rle import decode_masks
from models.sam.prompts import Prompts
from models.sam2.model import Sam2

HEIGHT, WIDTH, SIDE = 50, 90, 4


def test_the_generator_gives_what_prompts_one_by_one_give(sam2: Sam2) -> None:
    image = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    [found] = MaskGenerator(sam2, GenerateSettings(points_per_side=SIDE), 0.0, 0.0, points_per_batch=5).generate(
        [image]
    )
    squeezed = np.array(Image.fromarray(image).resize((64, 64), Image.Resampling.BILINEAR))
    (embedded,) = sam2.embed(sam2.preprocess(torch.from_numpy(squeezed).permute(2, 0, 1)[None]))
    masks = dict(zip(found.number.tolist(), decode_masks(found.rles, HEIGHT, WIDTH), strict=True))
    assert len(masks) > 20
    for point in range(SIDE * SIDE):
        where = torch.tensor([[[(point % SIDE + 0.5) / SIDE, (point // SIDE + 0.5) / SIDE]]]) * 64
        logits, iou = sam2.predict_masks(
            embedded, Prompts(points=where, labels=torch.ones(1, 1)), multimask_output=True
        )
        full = F.interpolate(logits, (HEIGHT, WIDTH), mode="bilinear", align_corners=False)[0] > 0
        for index in range(3):
            number = 3 * point + index
            if number not in masks:  # an empty mask is no candidate, and nor is one of stability 0
                continue
            assert (torch.from_numpy(masks[number]).bool() != full[index]).float().mean() < 1e-3
            assert abs(found.predicted_iou[found.number == number][0] - iou[0, index]) < 1e-4
