from dataclasses import replace

import pytest
import torch

from models.clip.build import build_clip
from models.clip.config import CLIP_SIZES
from models.clip.regions import ViewSettings
from models.sam.build import build_sam
from models.sam.clip_prompt import ClipPrompt
from models.sam.config import SAM_SIZES
from models.sam.mask_decoder import EmbeddedImage
from models.sam.model import Sam
from models.training.augment import Example
from models.training.interactive import PromptSettings
from models.training.losses import LossWeights
from models.training.optim import OptimSettings
from models.training.text_prompt import TextPrompter, TextPromptSettings, train_on_text_prompts
from models.training.trainer import Trainer, TrainerSettings

FRAME = SAM_SIZES["debug"].image_size  # 64 pixels, masks of 16 x 16 cells
PROMPTS = PromptSettings(num_prompts=4, num_clicks=1, num_refinements=0)
SETTINGS = TrainerSettings(num_steps=6, prompts=PROMPTS, optim=OptimSettings(warmup_steps=1, ema_decay=0.9))


def _sam() -> Sam:
    torch.manual_seed(0)
    return build_sam(SAM_SIZES["debug"])


def _prompter(**settings: float) -> TextPrompter:
    torch.manual_seed(1)
    clip = build_clip(CLIP_SIZES["debug"])
    projection = ClipPrompt(clip.config.embed_dim, SAM_SIZES["debug"].prompt_embed_dim)
    how = TextPromptSettings.model_validate({"num_prompts": 3, "min_side": 16} | settings)
    return TextPrompter(clip, ViewSettings(), projection, how)


def _example() -> Example:
    """A red and a green square of 24 pixels, and one of 8, on a picture of 64 x 48."""
    image = torch.full((3, 48, 64), 40, dtype=torch.uint8)
    masks = torch.zeros(3, 16, 16, dtype=torch.bool)
    masks[0, 1:7, 1:7] = masks[1, 5:11, 9:15] = masks[2, 9:11, 1:3] = True
    image[0, 4:28, 4:28] = image[1, 20:44, 36:60] = 250
    return Example(image, masks, torch.ones(3), "squares")


def _train(sam: Sam, prompter: TextPrompter, examples: list[Example]) -> tuple[torch.Tensor, object]:
    leaf = torch.randn(len(examples), 32, 4, 4, generator=torch.Generator().manual_seed(2)).requires_grad_()
    generator = torch.Generator().manual_seed(3)
    images = EmbeddedImage(leaf)
    tally = train_on_text_prompts(
        sam, prompter, images, examples, PROMPTS, LossWeights(), 0, generator, 1.0, bf16=False
    )
    return leaf, tally


def test_an_embedding_is_that_of_the_masks_own_crop() -> None:
    prompter, example = _prompter(max_expand=1.0), _example()
    pairs = example.masks[[0, 1, 0]]
    red, green, again = prompter.embed(example.image, pairs, FRAME, torch.Generator().manual_seed(0))
    assert torch.equal(red, again) and not torch.allclose(red, green, atol=1e-3)
    beside = torch.zeros(1, 16, 16, dtype=torch.bool)
    beside[0, 13:, :4] = True  # the frame's padding
    assert torch.isfinite(prompter.embed(example.image, beside, FRAME, torch.Generator())).all()


def test_large_masks_alone_are_prompted_and_clicks_follow() -> None:
    sam, prompter = _sam(), _prompter()
    small = replace(_example(), masks=_example().masks[2:], weights=torch.ones(1))
    leaf, tally = _train(sam, prompter, [small, _example()])
    counted = vars(tally)
    assert (counted["num_texts"], counted["num_points"], counted["num_boxes"], counted["num_masks"]) == (3, 0, 0, 6)
    assert 0 <= float(counted["text_chosen"]) <= 3
    assert leaf.grad is not None and leaf.grad[0].abs().sum() == 0 and leaf.grad[1].abs().sum() > 0
    learnt = prompter.projection.projection.weight.grad
    assert learnt is not None and learnt.abs().sum() > 0
    assert all(parameter.grad is None for parameter in prompter.clip.parameters())
    assert _train(sam, prompter, [small])[1] is None


def test_the_trainer_learns_both_kinds_and_goes_on_as_if_unbroken() -> None:
    unbroken = Trainer(_sam(), SETTINGS, _prompter())
    rows = [unbroken.step([_example()]) for _ in range(4)]
    assert rows[0].text_iou is not None and rows[0].point_iou_best is not None

    first = Trainer(_sam(), SETTINGS, _prompter())
    first.step([_example()])
    first.step([_example()])
    second = Trainer(_sam(), SETTINGS, _prompter())
    second.load_state_dict(first.state_dict())
    again = [second.step([_example()]) for _ in range(2)]
    assert [row.loss for row in again] == pytest.approx([row.loss for row in rows[2:]], abs=1e-5)
    for name, value in unbroken.text_weights().items():
        torch.testing.assert_close(second.text_weights()[name], value, rtol=0, atol=1e-4)


def test_alone_only_the_projection_learns() -> None:
    sam, prompter = _sam(), _prompter(alone=True)
    before = {name: value.clone() for name, value in sam.state_dict().items()}
    start = prompter.projection.projection.weight.detach().clone()
    trainer = Trainer(sam, SETTINGS, prompter)
    rows = [trainer.step([_example()]) for _ in range(3)]
    assert all(row.point_iou_best is None and row.text_iou is not None for row in rows)
    assert all(torch.equal(value, before[name]) for name, value in trainer.weights().items())
    assert not torch.equal(trainer.text_weights()["projection.weight"], start)
