import dataclasses

import pytest
import torch

from models.sam.build import build_sam
from models.sam.config import SAM_SIZES
from models.training.start import align_cross_attention, pass_pixels, warm_start

DEBUG = SAM_SIZES["debug"]


def test_the_same_sizes_take_everything_over() -> None:
    source, target = build_sam(DEBUG), build_sam(DEBUG)
    assert warm_start(target, source.state_dict()) == []
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(source.encode_images(images), target.encode_images(images))


def test_more_blocks_begin_as_the_identity() -> None:
    source = build_sam(dataclasses.replace(DEBUG, window_size=0))
    deeper = dataclasses.replace(DEBUG, window_size=0, encoder_depth=4)
    target = build_sam(deeper)
    fresh = warm_start(target, source.state_dict())
    assert fresh and all(name.startswith(("image_encoder.blocks.2.", "image_encoder.blocks.3.")) for name in fresh)
    images = torch.rand(1, 3, 64, 64)
    assert torch.allclose(source.encode_images(images), target.encode_images(images), atol=1e-6)


def test_a_larger_input_interpolates_and_windows_keep_the_middle_of_the_tables() -> None:
    source = build_sam(dataclasses.replace(DEBUG, window_size=0, encoder_global_attn_indexes=()))
    with torch.no_grad():
        source.image_encoder.blocks[0].attn.rel_pos_h.copy_(torch.arange(7.0)[:, None].expand(7, 16))
    target = build_sam(dataclasses.replace(DEBUG, image_size=128))
    assert warm_start(target, source.state_dict()) == []
    assert target.image_encoder.blocks[0].attn.rel_pos_h[:, 0].tolist() == [1, 2, 3, 4, 5]
    assert target.image_encoder.blocks[1].attn.rel_pos_h.shape == (15, 16)


def test_another_width_keeps_its_own_weights() -> None:
    source, target = build_sam(dataclasses.replace(DEBUG, encoder_embed_dim=16)), build_sam(DEBUG)
    before = target.image_encoder.patch_embed.proj.weight.clone()
    fresh = warm_start(target, source.state_dict())
    assert "image_encoder.patch_embed.proj.weight" in fresh
    assert torch.equal(target.image_encoder.patch_embed.proj.weight, before)


def test_cross_attention_finds_a_tokens_own_place() -> None:
    sam = build_sam(DEBUG)
    align_cross_attention(sam, gain=2.0)
    for layer in sam.mask_decoder.transformer.layers:
        attention = layer.cross_attn_token_to_image
        weight = attention.q_proj.weight
        assert torch.equal(weight, attention.k_proj.weight)
        assert torch.allclose(weight @ weight.T, 4 * torch.eye(len(weight)), atol=1e-4)
    self_attention = sam.mask_decoder.transformer.layers[0].self_attn
    assert not torch.equal(self_attention.q_proj.weight, self_attention.k_proj.weight)


def test_a_fresh_encoder_hands_the_colours_of_the_cells_through() -> None:
    sam = build_sam(dataclasses.replace(DEBUG, encoder_embed_dim=64, prompt_embed_dim=64))
    pass_pixels(sam)
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    tokens = sam.image_encoder.patch_embed(images)
    assert torch.allclose(tokens[0, 1, 2, 16 + 5], images[0, 1, 20:24, 36:40].mean(), atol=1e-6)
    assert all(torch.equal(block(tokens), tokens) for block in sam.image_encoder.blocks)
    brighter = images.clone()
    brighter[0, 1, 20:24, 36:40] += 0.5
    change = (sam.encode_images(brighter) - sam.encode_images(images))[0].abs().detach()
    assert change[16 + 5].argmax() == 1 * 4 + 2, "the cell's channel changes most at its own patch"
    assert change[16 + 5].max() > 2 * change[:48].mean()


def test_a_model_too_narrow_for_the_pixels_says_so() -> None:
    with pytest.raises(ValueError, match=r"prompt_embed_dim: 32 channels \(of 32\) do not hold the 56"):
        pass_pixels(build_sam(DEBUG))
