import math

import pytest
import torch

from models.sam.clip_prompt import ClipPrompt
from models.sam.prompt_encoder import PromptEncoder
from models.sam.prompts import Prompts


@pytest.fixture
def encoder() -> PromptEncoder:
    torch.manual_seed(0)
    return PromptEncoder(embed_dim=32, image_size=64, embedding_size=4).requires_grad_(False)


def labels(*rows: list[int]) -> torch.Tensor:
    return torch.tensor(rows)


def test_a_point_is_its_place_and_its_kind(encoder: PromptEncoder) -> None:
    sparse, dense = encoder(Prompts(points=torch.tensor([[[10.0, 50.0]]]), labels=labels([1])))
    place = torch.tensor([10.5 / 64, 50.5 / 64]) * 2 - 1
    angles = 2 * math.pi * place @ encoder.pe_layer.positional_encoding_gaussian_matrix
    expected = torch.cat([angles.sin(), angles.cos()]) + encoder.point_embeddings[1].weight[0]
    torch.testing.assert_close(sparse[0, 0], expected, rtol=0, atol=1e-5)
    assert torch.equal(sparse[0, 1], encoder.not_a_point_embed.weight[0])  # the padding point
    assert dense.shape == (1, 32, 4, 4)
    assert torch.equal(dense[0, :, 2, 3], encoder.no_mask_embed.weight[0])


def test_padding_points_have_no_place(encoder: PromptEncoder) -> None:
    points = torch.tensor([[[1.0, 2.0], [60.0, 3.0]]])
    sparse, _ = encoder(Prompts(points=points, labels=labels([0, -1])))
    assert sparse.shape == (1, 3, 32)
    assert torch.equal(sparse[0, 1], sparse[0, 2])


def test_a_box_needs_no_padding_point(encoder: PromptEncoder) -> None:
    boxes, points = torch.tensor([[1.0, 2.0, 30.0, 40.0]]), torch.tensor([[[1.0, 2.0]]])
    corners, _ = encoder(Prompts(boxes=boxes))
    assert corners.shape == (1, 2, 32)
    both, _ = encoder(Prompts(points=points, labels=labels([1]), boxes=boxes))
    assert both.shape == (1, 3, 32)
    assert torch.equal(both[:, 1:], corners)
    # The first corner and a foreground point at the same place differ in kind only.
    kinds = encoder.point_embeddings[2].weight - encoder.point_embeddings[1].weight
    torch.testing.assert_close(both[:, 1] - both[:, 0], kinds, rtol=0, atol=1e-5)


def test_a_mask_alone_has_no_tokens(encoder: PromptEncoder) -> None:
    sparse, dense = encoder(Prompts(masks=torch.randn(3, 1, 16, 16)))
    assert sparse.shape == (3, 0, 32)
    assert dense.shape == (3, 32, 4, 4)


def test_clip_tokens_are_appended(encoder: PromptEncoder) -> None:
    clip = ClipPrompt(clip_dim=12, prompt_embed_dim=32).requires_grad_(False)
    embedding = torch.randn(2, 12)
    tokens = clip(embedding)
    assert tokens.shape == (2, 1, 32)
    torch.testing.assert_close(clip(3 * embedding[:, None]), tokens, rtol=0, atol=1e-6)  # only its direction counts
    assert sorted(clip.state_dict()) == ["projection.bias", "projection.weight"]
    sparse, _ = encoder(Prompts(embeddings=tokens))
    assert torch.equal(sparse, tokens)
    points = torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]]])
    sparse, _ = encoder(Prompts(points=points, labels=labels([1], [0]), embeddings=tokens))
    assert sparse.shape == (2, 3, 32)
    assert torch.equal(sparse[:, 2:], tokens)


def test_image_positions_are_those_of_the_cells_centres(encoder: PromptEncoder) -> None:
    pe = encoder.dense_pe()
    assert pe.shape == (1, 32, 4, 4)
    # Column 3, row 1: its centre is the pixel coordinate (56, 24), which as a pixel index is half less.
    sparse, _ = encoder(Prompts(points=torch.tensor([[[55.5, 23.5]]]), labels=labels([0])))
    expected = sparse[0, 0] - encoder.point_embeddings[0].weight[0]
    torch.testing.assert_close(pe[0, :, 1, 3], expected, rtol=0, atol=1e-5)


def test_half_precision_keeps_places_exact(encoder: PromptEncoder) -> None:
    prompts = Prompts(points=torch.tensor([[[63.0, 1.0], [62.0, 1.0]]]), labels=labels([1, 1]))
    exact, _ = encoder(prompts)
    exact_pe = encoder.dense_pe()
    frequencies = encoder.pe_layer.positional_encoding_gaussian_matrix.clone()
    half = encoder.to(torch.bfloat16)
    assert torch.equal(half.pe_layer.positional_encoding_gaussian_matrix, frequencies)
    rounded, dense = half(prompts)
    assert rounded.dtype == dense.dtype == half.dense_pe().dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, rtol=0.01, atol=0.02)
    torch.testing.assert_close(half.dense_pe().float(), exact_pe, rtol=0.01, atol=0.005)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "nothing is set"),
        ({"points": torch.zeros(1, 1, 2)}, "points and labels"),
        ({"labels": torch.zeros(1, 1)}, "points and labels"),
        ({"points": torch.zeros(1, 2, 2), "labels": torch.zeros(1, 1)}, r"labels: shape \(1, 1\)"),
        ({"boxes": torch.zeros(2, 4), "masks": torch.zeros(3, 1, 16, 16)}, "disagree on the number of prompts"),
    ],
)
def test_prompts_that_do_not_fit_together(fields: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Prompts(**fields)


def test_prompts_have_a_length() -> None:
    assert len(Prompts(boxes=torch.zeros(3, 4))) == 3
