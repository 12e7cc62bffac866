from collections.abc import Callable

import pytest
import torch

from models.sam.build import build_sam
from models.sam.config import SAM_SIZES
from models.sam.mask_decoder import EmbeddedImage
from models.sam.model import Sam
from models.sam.prompts import Prompts
from models.training.interactive import PromptSettings, click_rounds, train_on_prompts
from models.training.losses import LossWeights

FIRST = PromptSettings(num_prompts=6, num_clicks=0, num_refinements=0)


@pytest.fixture
def sam() -> Sam:
    torch.manual_seed(0)
    return build_sam(SAM_SIZES["debug"])


def _masks() -> torch.Tensor:
    masks = torch.zeros(2, 16, 16, dtype=torch.bool)
    masks[0, 2:9, 3:12] = True
    masks[1, 12, 12] = True
    return masks


def _run(sam: Sam, settings: PromptSettings, seed: int = 0) -> tuple[torch.Tensor, object]:
    sam.zero_grad()
    leaf = torch.randn(1, 32, 4, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    generator = torch.Generator().manual_seed(seed)
    tally = train_on_prompts(
        sam, EmbeddedImage(leaf), [(_masks(), torch.ones(2))], settings, LossWeights(), 0, generator, 1.0, bf16=False
    )
    assert leaf.grad is not None
    return leaf.grad, tally


def test_rounds_have_a_refinement_at_the_end_and_the_others_anywhere() -> None:
    seen = set()
    for seed in range(60):
        rounds = click_rounds(PromptSettings(), torch.Generator().manual_seed(seed))
        assert len(rounds) == 10 and sum(rounds) == 8 and not rounds[-1]
        seen.add(rounds.index(False))
    assert seen == set(range(9))
    assert click_rounds(FIRST, torch.Generator()) == []


def test_gradients_of_all_rounds_gather_on_the_embedding(sam: Sam) -> None:
    settings = PromptSettings(num_prompts=6, num_clicks=2, num_refinements=1)
    grad, tally = _run(sam, settings)
    assert grad.abs().sum() > 0
    assert vars(tally)["num_points"] == vars(tally)["num_boxes"] == 3
    assert vars(tally)["num_masks"] == 6 * 4
    assert all(parameter.grad is None for parameter in sam.image_encoder.parameters())
    assert sam.prompt_encoder.mask_downscaling[0].weight.grad is not None, "previous logits come back as mask prompts"


def test_the_same_seed_gives_the_same_gradient(sam: Sam) -> None:
    settings = PromptSettings(num_prompts=6, num_clicks=1, num_refinements=1)
    assert torch.equal(_run(sam, settings, seed=3)[0], _run(sam, settings, seed=3)[0])


def test_points_alone_train_three_slots_and_boxes_slot_zero_too(sam: Sam) -> None:
    single = "mask_decoder.output_hypernetworks_mlps.0.layers.0.weight"
    for share, trained in ((0.0, False), (1.0, True)):
        _run(sam, FIRST.model_copy(update={"box_share": share}))
        assert (dict(sam.named_parameters())[single].grad is not None) == trained


@pytest.mark.parametrize("num_clicks", [0, 1])
def test_slot_zero_learns_once_there_are_several_prompts(sam: Sam, num_clicks: int) -> None:
    _run(sam, FIRST.model_copy(update={"box_share": 0.0, "num_clicks": num_clicks}))
    grad = sam.mask_decoder.output_hypernetworks_mlps[0].layers[0].weight.grad
    assert (grad is not None) == bool(num_clicks)


def test_masks_are_those_of_the_decoder(sam: Sam, monkeypatch: pytest.MonkeyPatch) -> None:
    """The training path makes its masks with a product of another layout: the logits must be the decoder's."""
    from models.training import interactive

    seen: list[torch.Tensor] = []
    original: Callable[..., torch.Tensor] = interactive.every_mask

    def spy(*args: object) -> torch.Tensor:
        seen.append(original(*args))
        return seen[-1]

    monkeypatch.setattr(interactive, "every_mask", spy)
    encoded: list[Prompts] = []
    hook = sam.prompt_encoder.register_forward_pre_hook(lambda _, given: encoded.append(given[0]))
    _run(sam, FIRST.model_copy(update={"box_share": 0.0}))
    hook.remove()
    embedding = torch.randn(1, 32, 4, 4, generator=torch.Generator().manual_seed(1))
    expected, _ = sam.predict_masks(embedding, encoded[0], multimask_output=True)
    assert torch.allclose(seen[0], expected, atol=1e-5)


def test_an_image_without_masks_is_passed_over(sam: Sam) -> None:
    leaf = torch.randn(3, 32, 4, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    empty = torch.zeros(0, 16, 16, dtype=torch.bool)

    def train(masks: list[torch.Tensor]) -> object:
        return train_on_prompts(
            sam,
            EmbeddedImage(leaf),
            [(one, torch.ones(len(one))) for one in masks],
            FIRST,
            LossWeights(),
            0,
            torch.Generator().manual_seed(0),
            1.0,
            bf16=False,
        )

    assert train([empty, empty, empty]) is None and leaf.grad is None
    tally = train([_masks(), empty, _masks()[:1]])
    assert leaf.grad is not None
    learned = leaf.grad.abs().sum(dim=(1, 2, 3))
    assert learned[0] > 0 and learned[1] == 0 and learned[2] > 0, "each prompt speaks to its own image"
    assert vars(tally)["num_masks"] == 2 * FIRST.num_prompts
