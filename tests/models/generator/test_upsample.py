import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.generator import upsample
from models.generator.upsample import Axis, Upsampler, axis_weights
from models.masks.rle import areas, bounding_boxes, compress_counts, counts_from_transitions, decode_masks, encode_masks

LOW, INPUT = 64, 256
THRESHOLD, OFFSET = 0.0, 1.0
# (image height, width, resized height, width): longest side INPUT, down and up, square, thin and one pixel
SIZES = [
    (300, 480, 160, 256),
    (480, 300, 256, 160),
    (90, 60, 256, 171),
    (256, 256, 256, 256),
    (1, 1, 256, 256),
    (1, 50, 5, 256),
    (700, 3, 256, 1),
    (37, 41, 231, 256),
]


def dense(low: Tensor, valid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """What segment-anything's `postprocess_masks` does."""
    padded = F.interpolate(low[None, None], (INPUT, INPUT), mode="bilinear", align_corners=False)
    return F.interpolate(padded[..., : valid[0], : valid[1]], size, mode="bilinear", align_corners=False)[0, 0]


def make_upsampler(
    valid: tuple[int, int], size: tuple[int, int], x0: int = 0, y0: int = 0, height: int | None = None
) -> Upsampler:
    rows, columns = (Axis.of(LOW, INPUT, one, length) for one, length in zip(valid, size, strict=True))
    return Upsampler(rows, columns, x0, y0, size[0] if height is None else height)


def smooth_logits(seed: int, side: int) -> Tensor:
    """Blobs about LOW / side pixels wide."""
    noise = torch.randn(1, 1, side, side, generator=torch.Generator().manual_seed(seed))
    return 4 * F.interpolate(noise, (LOW, LOW), mode="bicubic", align_corners=False)[0, 0]


def assert_equals_dense(
    upsampler: Upsampler, low: Tensor, valid: tuple[int, int], size: tuple[int, int], image: tuple[int, int]
) -> None:
    full = dense(low, valid, size)
    stability, outline = upsampler.scan(low, THRESHOLD, OFFSET, min_stability=0.0)
    inner, outer = int((full > THRESHOLD + OFFSET).sum()), int((full > THRESHOLD - OFFSET).sum())
    num_open = sum(int(((full - one).abs() < 1e-4).sum()) for one in (THRESHOLD + OFFSET, THRESHOLD - OFFSET))
    assert stability == pytest.approx(inner / outer if outer else 0.0, abs=1e-12 + num_open / max(outer, 1))
    counts = counts_from_transitions(np.zeros(0, np.int64) if outline is None else outline, image[0] * image[1])
    rles = compress_counts(counts, np.array([len(counts)]))
    window = (slice(upsampler.y0, upsampler.y0 + size[0]), slice(upsampler.x0, upsampler.x0 + size[1]))
    mask = np.zeros(image, np.bool_)
    # float32 sums round: a logit this close to the threshold may fall on either side
    is_open = ((full - THRESHOLD).abs() < 1e-4).numpy()
    mask[window] = np.where(is_open, decode_masks(rles, *image)[0][window], (full > THRESHOLD).numpy())
    assert rles == encode_masks(mask[None])
    assert (outline is None) == (not mask.any())
    assert areas(rles).tolist() == [mask.sum()]
    rows, columns = np.nonzero(mask)
    if len(rows):
        box = [columns.min(), rows.min(), columns.max() - columns.min() + 1, rows.max() - rows.min() + 1]
        assert bounding_boxes(rles, image[0]).tolist() == [box]


@pytest.mark.parametrize(("height", "width", "valid_height", "valid_width"), SIZES)
def test_two_matrices_equal_the_two_resizes(height: int, width: int, valid_height: int, valid_width: int) -> None:
    rows, columns = axis_weights(LOW, INPUT, valid_height, height), axis_weights(LOW, INPUT, valid_width, width)
    assert rows.shape == (height, LOW) and rows.dtype == torch.float32
    low = torch.randn(LOW, LOW, generator=torch.Generator().manual_seed(0))
    expected = dense(low, (valid_height, valid_width), (height, width))
    assert torch.allclose(rows @ low @ columns.T, expected, atol=1e-5)
    for weights in (rows, columns):
        reads = weights != 0
        spread = [int(row.nonzero().max() - row.nonzero().min()) + 1 for row in reads]
        assert max(spread) <= 4
        assert weights.min() >= 0 and torch.allclose(weights.sum(1), torch.ones(len(weights)), atol=1e-6)


@pytest.mark.parametrize("valid", [1, 5, 100, 171, 256])
@pytest.mark.parametrize("length", [1, 7, 171, 256, 999])
def test_a_span_is_what_reads_the_low_positions(valid: int, length: int) -> None:
    axis = Axis.of(LOW, INPUT, valid, length)
    assert (np.diff(axis.first) >= 0).all() and (np.diff(axis.last) >= 0).all()
    reads = (axis.weights != 0).numpy()
    for low, high in [(0, 0), (0, LOW - 1), (LOW - 1, LOW - 1), (3, 9), (20, 21)]:
        readers = np.flatnonzero(reads[:, low : high + 1].any(1))
        start, stop, a, b = axis.span(low, high)
        if len(readers) == 0:
            assert (start, stop, a, b) == (0, 0, 0, 0)
            continue
        assert (start, stop) == (readers[0], readers[-1] + 1)
        read = np.flatnonzero(reads[start:stop].any(0))
        assert (a, b) == (read[0], read[-1] + 1)


@pytest.mark.parametrize("strip_pixels", [1, 500, 1 << 21])
@pytest.mark.parametrize(("height", "width", "valid_height", "valid_width"), SIZES)
def test_random_masks_equal_the_dense_ones(
    monkeypatch: pytest.MonkeyPatch, height: int, width: int, valid_height: int, valid_width: int, strip_pixels: int
) -> None:
    monkeypatch.setattr(upsample, "STRIP_PIXELS", strip_pixels)
    valid, size = (valid_height, valid_width), (height, width)
    for seed, side in enumerate((2, 5, 20)):
        assert_equals_dense(make_upsampler(valid, size), smooth_logits(seed, side), valid, size, size)


# A first crop layer's right bottom crop, and a middle one of the second
@pytest.mark.parametrize(("x0", "y0", "image"), [(70, 40, (130, 220)), (31, 17, (200, 300)), (0, 110, (200, 150))])
def test_crops_stand_where_they_were_cut(
    monkeypatch: pytest.MonkeyPatch, x0: int, y0: int, image: tuple[int, int]
) -> None:
    valid, size = (154, 256), (90, 150)
    for strip_pixels in (400, 1 << 21):
        monkeypatch.setattr(upsample, "STRIP_PIXELS", strip_pixels)
        upsampler = make_upsampler(valid, size, x0, y0, height=image[0])
        for seed in range(3):
            assert_equals_dense(upsampler, smooth_logits(seed, 6), valid, size, image)


@given(
    seed=st.integers(0, 10_000),
    side=st.sampled_from([1, 2, 3, 6, 12, 30]),
    shift=st.floats(-12, 12),
    shape=st.sampled_from(SIZES),
    offsets=st.tuples(st.integers(0, 20), st.integers(0, 20)),
    strip_pixels=st.sampled_from([1, 97, 4000]),
)
@settings(max_examples=60, deadline=None)
def test_any_smooth_mask_equals_the_dense_one(
    seed: int, side: int, shift: float, shape: tuple[int, int, int, int], offsets: tuple[int, int], strip_pixels: int
) -> None:
    height, width, *valid = shape
    image = (height + offsets[1] + 3, width + offsets[0])
    upsampler = make_upsampler((valid[0], valid[1]), (height, width), *offsets, height=image[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upsample, "STRIP_PIXELS", strip_pixels)
        assert_equals_dense(upsampler, smooth_logits(seed, side) + shift, (valid[0], valid[1]), (height, width), image)


@pytest.mark.parametrize(("row", "column"), [(0, 0), (0, 63), (39, 0), (39, 63), (17, 30)])
def test_one_low_pixel_at_any_border(row: int, column: int) -> None:
    valid, size = (160, 256), (300, 480)
    low = torch.full((LOW, LOW), -6.0)
    low[row, column] = 9.0
    assert_equals_dense(make_upsampler(valid, size), low, valid, size, size)


def test_a_peak_in_the_padding_next_to_the_image_bleeds_in() -> None:
    valid, size = (160, 256), (160, 256)
    low = torch.full((LOW, LOW), -2.0)
    low[40, 10:20] = 30.0  # row 40 begins at input row 160, the first one that is cut off
    assert_equals_dense(make_upsampler(valid, size), low, valid, size, size)
    assert make_upsampler(valid, size).scan(low, THRESHOLD, OFFSET, 0.0)[1] is not None


def test_everything_in_the_padding() -> None:
    valid, size = (160, 256), (300, 480)
    low = torch.full((LOW, LOW), -20.0)
    low[45:, :] = 20.0
    assert make_upsampler(valid, size).scan(low, THRESHOLD, OFFSET, 0.0) == (0.0, None)
    assert make_upsampler((256, 160), (480, 300)).scan(low.T, THRESHOLD, OFFSET, 0.0) == (0.0, None)


def test_empty_and_full() -> None:
    valid, size = (160, 256), (30, 48)
    upsampler = make_upsampler(valid, size)
    assert upsampler.scan(torch.full((LOW, LOW), -20.0), THRESHOLD, OFFSET, 0.0) == (0.0, None)
    # between the two thresholds: an area for the stability score, but no mask
    assert upsampler.scan(torch.full((LOW, LOW), -0.5), THRESHOLD, OFFSET, 0.0) == (0.0, None)
    stability, outline = upsampler.scan(torch.full((LOW, LOW), 20.0), THRESHOLD, OFFSET, 1.0)
    assert stability == 1.0
    assert outline is not None and counts_from_transitions(outline, 30 * 48).tolist() == [0, 30 * 48]


def test_the_least_stability_is_enough() -> None:
    valid, size = (256, 256), (256, 256)
    low = smooth_logits(4, 5)
    upsampler = make_upsampler(valid, size)
    stability, outline = upsampler.scan(low, THRESHOLD, OFFSET, 0.0)
    assert 0.2 < stability < 0.9 and outline is not None
    assert upsampler.scan(low, THRESHOLD, OFFSET, stability)[1] is not None
    assert upsampler.scan(low, THRESHOLD, OFFSET, float(np.nextafter(stability, 1))) == (stability, None)


def test_other_thresholds() -> None:
    valid, size = (256, 256), (200, 200)
    low = smooth_logits(7, 4)
    full = dense(low, valid, size).numpy()
    stability, outline = make_upsampler(valid, size).scan(low, 2.0, 0.5, 0.0)
    assert stability == pytest.approx((full > 2.5).sum() / (full > 1.5).sum(), abs=1e-4)
    assert outline is not None
    counts = counts_from_transitions(outline, full.size)
    assert compress_counts(counts, np.array([len(counts)])) == encode_masks((full > 2.0)[None])
