import dataclasses
from collections.abc import Callable

import pytest
import torch

from models.sam import mask_decoder
from models.sam.config import SAM_SIZES, SamConfig
from models.sam.mask_decoder import DecodedPrompts
from models.sam.model import Prompts, Sam
from models.sam.transformer import Attention, ImageToTokenAttention, TokenToImageAttention

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
    for name in ("mask_tokens", "image_features", "predicted_iou"):
        one, other = getattr(shared, name), getattr(repeated, name)
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
    decoded = decode(sam, 6)
    prompts, slots = torch.tensor([4, 4, 1]), torch.tensor([1, 2, 1])
    expected = sam.mask_decoder.masks(decoded, prompts, slots)
    decoded.image_features[[0, 2, 3, 5]] = torch.nan
    rows = []
    norm = sam.mask_decoder.output_upscaling[2]
    norm.register_forward_hook(lambda _, inputs, __: rows.append(inputs[0].shape[0] * inputs[0].shape[1]))
    assert torch.equal(sam.mask_decoder.masks(decoded, prompts, slots), expected)
    assert sum(rows) == 2 * (4 * 16 + 16 * 16)  # cells twice as fine, then four times


@pytest.mark.parametrize("limit", [1, 5 * 32, 16 * 32, 40 * 32, 1 << 20])
def test_upscaling_in_blocks_equals_the_transposed_convolutions(
    sam: Sam, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = decode(sam, 3)
    features = sam.mask_decoder.output_upscaling(decoded.image_features)  # (3, 4, 16, 16)
    heads = sam.mask_decoder.output_hypernetworks_mlps
    weights = torch.stack([head(decoded.mask_tokens[:, slot]) for slot, head in enumerate(heads)], dim=1)
    expected = torch.einsum("bsc,bchw->bshw", weights, features)
    monkeypatch.setattr(mask_decoder, "BLOCK_ENTRIES", limit)
    pairs = torch.cartesian_prod(torch.arange(3), torch.arange(4))
    masks = sam.mask_decoder.masks(decoded, pairs[:, 0], pairs[:, 1]).unflatten(0, (3, 4))
    torch.testing.assert_close(masks, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("num_images", "num_tokens"), [(1, 2), (2, 2), (6, 2), (6, 1)])
def test_associated_attention_equals_the_plain_one(num_images: int, num_tokens: int) -> None:
    """Six prompts on one image, on two images (three each), and on six."""
    torch.manual_seed(0)
    image, placed = torch.randn(2, num_images, 7, 32).unbind(0)
    tokens, values = torch.randn(2, 6, num_tokens, 32).unbind(0)
    plain, to_image, to_token = Attention(32, 16, 4), TokenToImageAttention(32, 16, 4), ImageToTokenAttention(32, 16, 4)
    for module in (to_image, to_token):
        module.load_state_dict(plain.state_dict())
        assert module._pays(tokens)
    each, each_placed = (x.repeat_interleave(6 // num_images, dim=0) for x in (image, placed))
    expected = plain(tokens, each_placed, each)
    torch.testing.assert_close(to_image(tokens, placed, image), expected, rtol=0, atol=1e-6)
    expected = plain(each_placed, tokens, values)
    torch.testing.assert_close(to_token(placed, tokens, values), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(to_token(placed, tokens, values, residual=image), each + expected, rtol=0, atol=1e-6)
    # with as many tokens as channels the plain way is taken, which too knows shared images
    many, many_values = tokens.repeat(1, 4, 1), values.repeat(1, 4, 1)
    assert not to_image._pays(many) or num_tokens == 1
    expected = each + plain(each_placed, many, many_values)
    torch.testing.assert_close(to_token(placed, many, many_values, residual=image), expected, rtol=0, atol=1e-6)


def test_prompts_of_two_images_decode_as_alone(sam: Sam) -> None:
    """Also with a mask prompt each, where the images must be repeated."""
    torch.manual_seed(0)
    size, channels = sam.config.embedding_size, sam.config.prompt_embed_dim
    images, sparse = torch.randn(2, channels, size, size), torch.randn(4, 2, channels)
    for dense in (torch.randn(1, channels, size, size), torch.randn(4, channels, size, size)):
        together = sam.mask_decoder.attend(images, sam.prompt_encoder.dense_pe(), sparse, dense)
        for index in range(4):
            own = dense[index : index + 1] if len(dense) > 1 else dense
            image = images[index // 2, None]
            alone = sam.mask_decoder.attend(image, sam.prompt_encoder.dense_pe(), sparse[index, None], own)
            torch.testing.assert_close(together.image_features[index], alone.image_features[0], rtol=0, atol=1e-5)
            torch.testing.assert_close(together.predicted_iou[index], alone.predicted_iou[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("num_queries", "num_keys"), [(1, 1), (3, 3), (1, 3), (3, 1), (4, 2), (2, 4)])
def test_attention_broadcasts_either_side(num_queries: int, num_keys: int) -> None:
    torch.manual_seed(0)
    attention = Attention(8, 4, 2)
    q, k, v = torch.randn(num_queries, 5, 8), torch.randn(num_keys, 6, 8), torch.randn(num_keys, 6, 8)
    batch = max(num_queries, num_keys)
    out = attention(q, k, v)
    assert out.shape == (batch, 5, 8)
    for i in range(batch):
        one = attention(q[i * num_queries // batch, None], *(x[i * num_keys // batch, None] for x in (k, v)))
        torch.testing.assert_close(out[i], one[0], rtol=0, atol=1e-6)
