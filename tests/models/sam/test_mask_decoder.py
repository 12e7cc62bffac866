import dataclasses
from collections.abc import Callable

import pytest
import torch

from models.sam.config import SAM_SIZES, SamConfig
from models.sam.mask_decoder import DecodedPrompts
from models.sam.model import Prompts, Sam
from models.sam.transformer import Attention

DEBUG = SAM_SIZES["debug"]


@pytest.fixture(params=[2, 3], ids=["two layers", "three layers"])
def sam(request: pytest.FixtureRequest, make_sam: Callable[[SamConfig], Sam]) -> Sam:
    return make_sam(dataclasses.replace(DEBUG, decoder_depth=request.param))


def decode(sam: Sam, num_prompts: int, repeat: bool = False) -> DecodedPrompts:
    torch.manual_seed(0)
    embedding = torch.randn(1, 32, 4, 4)
    points = torch.rand(num_prompts, 2, 2) * 64
    sparse, dense = sam.prompt_encoder(Prompts(points=points, labels=torch.ones(num_prompts, 2, dtype=torch.int64)))
    assert dense.shape == (1, 32, 4, 4)
    if repeat:
        embedding, dense = (x.repeat(num_prompts, 1, 1, 1) for x in (embedding, dense))
    return sam.mask_decoder.attend(embedding, sam.prompt_encoder.dense_pe(), sparse, dense)


@pytest.mark.parametrize("num_prompts", [1, 2, 7])
def test_prompts_that_share_an_image_decode_as_if_it_were_repeated(sam: Sam, num_prompts: int) -> None:
    shared, repeated = decode(sam, num_prompts), decode(sam, num_prompts, repeat=True)
    for field in dataclasses.fields(DecodedPrompts):
        one, other = getattr(shared, field.name), getattr(repeated, field.name)
        assert one.shape == other.shape
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_chosen_masks_equal_those_of_the_full_forward(sam: Sam) -> None:
    decoded = decode(sam, 5)
    everything = torch.cartesian_prod(torch.arange(5), torch.arange(4))
    full = sam.mask_decoder.masks(decoded, *everything.T).unflatten(0, (5, 4))
    prompt_index, mask_index = torch.tensor([3, 0, 3, 4]), torch.tensor([1, 3, 0, 1])
    chosen = sam.mask_decoder.masks(decoded, prompt_index, mask_index)
    assert chosen.shape == (4, 16, 16)
    torch.testing.assert_close(chosen, full[prompt_index, mask_index], rtol=0, atol=1e-6)


def test_forward_gives_slot_zero_or_the_others(sam: Sam) -> None:
    torch.manual_seed(0)
    embedding = torch.randn(1, 32, 4, 4)
    prompts = Prompts(boxes=torch.tensor([[1.0, 2.0, 30.0, 40.0], [5.0, 5.0, 6.0, 6.0]]))
    sparse, dense = sam.prompt_encoder(prompts)
    decoded = sam.mask_decoder.attend(embedding, sam.prompt_encoder.dense_pe(), sparse, dense)
    single, single_iou = sam.predict_masks(embedding, prompts, multimask_output=False)
    multiple, multiple_iou = sam.predict_masks(embedding, prompts, multimask_output=True)
    assert torch.equal(torch.cat([single_iou, multiple_iou], dim=1), decoded.predicted_iou)
    masks = sam.mask_decoder.masks(decoded, torch.tensor([1, 1]), torch.tensor([0, 3]))
    torch.testing.assert_close(masks[0], single[1, 0], rtol=0, atol=1e-6)
    torch.testing.assert_close(masks[1], multiple[1, 2], rtol=0, atol=1e-6)


def test_no_masks_chosen_is_an_empty_answer(sam: Sam) -> None:
    none = torch.zeros(0, dtype=torch.int64)
    assert sam.mask_decoder.masks(decode(sam, 3), none, none).shape == (0, 16, 16)


def test_prompts_that_are_not_chosen_are_not_upscaled(sam: Sam) -> None:
    sizes = []
    sam.mask_decoder.output_upscaling.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    sam.mask_decoder.masks(decode(sam, 6), torch.tensor([4, 4, 1]), torch.tensor([1, 2, 1]))
    assert sizes == [2]


@pytest.mark.parametrize(("num_queries", "num_keys"), [(1, 1), (3, 3), (1, 3), (3, 1)])
def test_attention_broadcasts_either_side(num_queries: int, num_keys: int) -> None:
    torch.manual_seed(0)
    attention = Attention(8, 4, 2)
    q, k, v = torch.randn(num_queries, 5, 8), torch.randn(num_keys, 6, 8), torch.randn(num_keys, 6, 8)
    batch = max(num_queries, num_keys)
    out = attention(q, k, v)
    assert out.shape == (batch, 5, 8)
    for i in range(batch):
        one = attention(q[i % num_queries][None], k[i % num_keys][None], v[i % num_keys][None])
        torch.testing.assert_close(out[i], one[0], rtol=0, atol=1e-6)
