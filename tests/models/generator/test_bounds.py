import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from models.generator import bounds
from models.generator.bounds import StabilityBound, Windows
from models.generator.strip_scan import StripScan
from models.generator.upsample import Axis, Upsampler

LOW, INPUT = 32, 128
# (image height, width, resized height, width)
SIZES = [(300, 480, 80, 128), (700, 90, 128, 16), (64, 48, 128, 96), (1, 600, 1, 128), (1000, 1000, 128, 128)]


def smooth_logits(seed: int, num_masks: int, side: int) -> torch.Tensor:
    noise = torch.randn(1, num_masks, side, side, generator=torch.Generator().manual_seed(seed))
    return 4 * F.interpolate(noise, (LOW, LOW), mode="bicubic", align_corners=False)[0]


def make_scan(height: int, width: int, valid: tuple[int, int]) -> StripScan:
    rows, columns = Axis.of(LOW, INPUT, valid[0], height), Axis.of(LOW, INPUT, valid[1], width)
    upsampler = Upsampler(rows, columns, 0, 0, height)
    return StripScan(upsampler, StabilityBound.of(rows, columns, INPUT, valid))


def test_windows_count_every_position_once() -> None:
    windows = Windows.of(np.array([0, 0, 0, 1, 1, 2]), np.array([1, 1, 2, 2, 2, 2]))
    assert windows.first.tolist() == [0, 0, 1, 2] and windows.last.tolist() == [1, 2, 2, 2]
    assert windows.pixels.tolist() == [2, 1, 2, 1]
    assert windows.width == 3


@pytest.mark.parametrize(("valid", "length"), [(1, 1), (1, 9), (5, 5), (128, 1000), (100, 7), (3, 4)])
def test_neighbours_are_those_of_the_resize(valid: int, length: int) -> None:
    windows = Windows.between(valid, length)
    assert windows.pixels.sum() == length
    weights = F.interpolate(torch.eye(valid)[None], length, mode="linear", align_corners=False)[0].numpy()
    first, last = np.repeat(windows.first, windows.pixels), np.repeat(windows.last, windows.pixels)
    position = np.arange(valid)[:, None]
    assert weights[(position < first) | (position > last)].max(initial=0) < 1e-4


@given(
    seed=st.integers(0, 10_000),
    side=st.sampled_from([1, 2, 4, 9, 20]),
    shift=st.floats(-8, 8),
    shape=st.sampled_from(SIZES),
    min_stability=st.sampled_from([0.0, 0.3, 0.6, 0.9, 1.0]),
)
@settings(max_examples=40, deadline=None)
def test_what_is_ruled_out_would_have_failed(
    seed: int, side: int, shift: float, shape: tuple[int, int, int, int], min_stability: float
) -> None:
    height, width, *valid = shape
    scan = make_scan(height, width, (valid[0], valid[1]))
    logits = smooth_logits(seed, 3, side) + shift
    everything = [scan.upsampler.scan(one, 0.0, 1.0, min_stability) for one in logits]
    expected = [(index, *found) for index, found in enumerate(everything) if found[1] is not None]
    found = list(scan.scan(logits, 0.0, 1.0, min_stability))
    assert [one[:2] for one in found] == [one[:2] for one in expected]
    assert all(np.array_equal(one[2], other[2]) for one, other in zip(found, expected, strict=True))


def test_most_failing_masks_are_ruled_out_and_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    scan = make_scan(600, 960, (80, 128))
    logits = smooth_logits(1, 40, 5)
    scores = np.array([scan.upsampler.scan(one, 0.0, 1.0, 0.0)[0] for one in logits])
    threshold = float(np.quantile(scores, 0.8))
    may_reach = scan.bound.may_reach(logits, 0.0, 1.0, threshold)
    assert may_reach[scores >= threshold].all()
    assert may_reach.sum() <= 16
    monkeypatch.setattr(bounds, "BLOCK_ENTRIES", 1)
    assert np.array_equal(scan.bound.may_reach(logits, 0.0, 1.0, threshold), may_reach)


def test_empty_full_and_no_masks() -> None:
    scan = make_scan(300, 480, (80, 128))
    logits = torch.stack([torch.full((LOW, LOW), value) for value in (-9.0, -0.5, 9.0)])
    assert [index for index, *_ in scan.scan(logits, 0.0, 1.0, 0.5)] == [2]
    assert list(scan.scan(logits[:0], 0.0, 1.0, 0.5)) == []
