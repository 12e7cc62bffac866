import numpy as np
import pytest
import torch

from models.generator import dense_scan
from models.generator.blocks import prompts_per_block
from models.generator.dense_scan import DenseScan
from models.generator.upsample import Axis, Upsampler
from models.masks.rle import join_transitions
from models.sam.config import SAM_SIZES

LOW, INPUT = 16, 64
CPU = torch.device("cpu")


def smooth_logits(num_masks: int) -> torch.Tensor:
    noise = torch.randn(1, num_masks, 5, 5, generator=torch.Generator().manual_seed(2))
    return 4 * torch.nn.functional.interpolate(noise, (LOW, LOW), mode="bicubic", align_corners=False)[0]


@pytest.mark.parametrize("block_pixels", [1, 1 << 20])
@pytest.mark.parametrize(
    ("size", "corner", "height"), [((90, 60), (0, 0), 90), ((40, 70), (11, 5), 60), ((1, 1), (0, 0), 1)]
)
def test_equals_the_strip_scan(
    size: tuple[int, int], corner: tuple[int, int], height: int, block_pixels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dense_scan, "BLOCK_PIXELS", block_pixels)
    monkeypatch.setattr(dense_scan, "ROWS_AT_ONCE", 32)
    rows, columns = Axis.of(LOW, INPUT, 64, size[0]), Axis.of(LOW, INPUT, 50, size[1])
    upsampler = Upsampler(rows, columns, *corner, height)
    logits = torch.cat([smooth_logits(12), torch.full((1, LOW, LOW), -9.0), torch.full((1, LOW, LOW), 9.0)])
    found = list(DenseScan(upsampler, CPU).scan(logits, 0.0, 1.0, 0.4))
    expected = [(index, *upsampler.scan(one, 0.0, 1.0, 0.4)) for index, one in enumerate(logits)]
    expected = [one for one in expected if one[2] is not None]
    assert [index for index, *_ in found] == [index for index, *_ in expected]
    assert 13 in [index for index, *_ in found]
    for (_, score, outline), (_, expected_score, expected_outline) in zip(found, expected, strict=True):
        assert score == pytest.approx(expected_score, abs=1e-3)
        # sums round differently, so that an edge may fall on the pixel beside
        assert np.abs(join_transitions([outline]) - expected_outline).max() <= 1


def test_blocks_of_prompts_fit_the_cache() -> None:
    assert prompts_per_block(SAM_SIZES["vit_h"], CPU, 64) == 2
    assert prompts_per_block(SAM_SIZES["debug"], CPU, 64) == 64
    assert prompts_per_block(SAM_SIZES["vit_h"], CPU, 1) == 1


def test_blocks_of_prompts_fit_half_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """48 MiB a prompt; what torch keeps for itself is as good as free."""
    mib = 1 << 20
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (4000 * mib, 16000 * mib))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 8000 * mib)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 2400 * mib)
    gpu = torch.device("cuda")
    assert prompts_per_block(SAM_SIZES["vit_h"], gpu, 256) == 100
    assert prompts_per_block(SAM_SIZES["vit_h"], gpu, 64) == 64
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 16000 * mib))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 2400 * mib)
    assert prompts_per_block(SAM_SIZES["vit_h"], gpu, 256) == 8
