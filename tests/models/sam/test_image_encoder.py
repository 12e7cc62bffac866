from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from models.sam import image_encoder
from models.sam.config import SAM_SIZES
from models.sam.image_encoder import (
    Attention,
    ImageEncoderViT,
    join_windows,
    one_hot_places,
    relative_positions,
    split_windows,
)


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 9), width=st.integers(1, 9), size=st.integers(1, 5), batch=st.integers(1, 2))
def test_windows_come_back_as_they_were(height: int, width: int, size: int, batch: int) -> None:
    x = torch.randn(batch, height, width, 3)
    windows = split_windows(x, size)
    assert windows.shape == (batch * -(-height // size) * -(-width // size), size, size, 3)
    assert torch.equal(windows[0, : min(size, height), : min(size, width)], x[0, :size, :size])
    assert torch.equal(join_windows(windows, size, height, width), x)


def test_relative_positions_are_query_minus_key() -> None:
    table = torch.arange(5.0)[:, None]  # offsets -2 … 2
    assert relative_positions(table, 3)[..., 0].tolist() == [[2, 1, 0], [3, 2, 1], [4, 3, 2]]


def test_attention_follows_its_definition() -> None:
    torch.manual_seed(0)
    attention = Attention(8, 2, 3)
    torch.nn.init.normal_(attention.rel_pos_h)
    torch.nn.init.normal_(attention.rel_pos_w)
    x = torch.randn(1, 3, 3, 8)
    q, k, v = attention.qkv(x.reshape(9, 8)).reshape(9, 3, 2, 4).unbind(1)
    expected = torch.zeros(9, 2, 4)
    for head in range(2):
        for i in range(9):
            bias = [
                q[i, head] @ (attention.rel_pos_h[i // 3 - j // 3 + 2] + attention.rel_pos_w[i % 3 - j % 3 + 2])
                for j in range(9)
            ]
            weights = (q[i, head] @ k[:, head].T / 2 + torch.stack(bias)).softmax(0)
            expected[i, head] = weights @ v[:, head]
    expected = attention.proj(expected.reshape(1, 3, 3, 8))
    torch.testing.assert_close(attention(x), expected, rtol=0, atol=1e-5)
    with torch.inference_mode():
        torch.testing.assert_close(attention(x), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("pairs", [1, 5, 24, 36, 80, 1 << 20])  # a query at a time, …, some heads at once, all
def test_strips_of_any_size_give_what_folded_biases_give(pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    attention = Attention(12, 3, 3)
    torch.nn.init.normal_(attention.rel_pos_h)
    torch.nn.init.normal_(attention.rel_pos_w)
    x = torch.randn(2, 2, 3, 12)
    expected = attention(x)  # with gradients, so not in strips
    monkeypatch.setattr(image_encoder, "STRIP_PAIRS", pairs)
    with torch.inference_mode():
        torch.testing.assert_close(attention(x), expected, rtol=0, atol=1e-5)


def test_places_are_one_hot_rows_then_columns() -> None:
    assert one_hot_places(2, 3)[1, 2].tolist() == [0, 1, 0, 0, 1]
    assert one_hot_places(2, 3)[0, 0].tolist() == [1, 0, 1, 0, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])  # in strips, folded
def test_no_matrix_of_all_pairs_is_held(dtype: torch.dtype) -> None:
    attention = Attention(8, 2, 48).to(dtype)
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for one in out if isinstance(out, tuple) else (out,):
                largest = max(largest, one.numel() if isinstance(one, torch.Tensor) else 0)
            return out

    with Watch(), torch.inference_mode():
        attention(torch.randn(1, 48, 48, 8, dtype=dtype))
    # a strip, or the keys of both heads with their places; all pairs would be 10 and 23 times that
    assert largest <= (image_encoder.STRIP_PAIRS if dtype == torch.float32 else 2 * 48**2 * (4 + 2 * 48))


def debug_encoder() -> ImageEncoderViT:
    torch.manual_seed(0)
    config = SAM_SIZES["debug"]
    return ImageEncoderViT(
        embedding_size=4,
        patch_size=16,
        embed_dim=config.encoder_embed_dim,
        depth=4,
        num_heads=config.encoder_num_heads,
        global_attn_indexes=(1, 3),
        window_size=3,
        out_channels=8,
    )


def test_drop_path_rises_over_the_blocks_and_rests_outside_training() -> None:
    encoder = debug_encoder()
    images = torch.randn(2, 3, 64, 64)
    still = encoder.eval()(images)
    encoder.set_drop_path(0.9)
    assert [round(block.drop_path.rate, 3) for block in encoder.blocks] == [0.0, 0.3, 0.6, 0.9]
    assert torch.equal(encoder(images), still)
    encoder.train()
    assert not torch.equal(encoder(images), encoder(images))


def test_dropped_paths_keep_their_mean() -> None:
    drop = image_encoder.DropPath(0.25).train()
    torch.manual_seed(0)
    out = drop(torch.ones(4000, 1, 1))
    assert sorted(set(out.flatten().tolist())) == pytest.approx([0, 4 / 3])
    assert out.mean().item() == pytest.approx(1, abs=0.05)
