import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.training.clicks import error_points, mask_boxes, noisy_boxes, random_points, sample_masks


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _rectangle(size: int, x0: int, y0: int, x1: int, y1: int) -> torch.Tensor:
    """Columns x0..x1 and rows y0..y1, last ones included."""
    mask = torch.zeros(size, size, dtype=torch.bool)
    mask[y0 : y1 + 1, x0 : x1 + 1] = True
    return mask


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 7), st.integers(0, 7), st.integers(0, 1000))
def test_a_one_cell_region_has_its_point_inside(x: int, y: int, seed: int) -> None:
    points, cell = random_points(_rectangle(8, x, y, x, y)[None], 64, _generator(seed))
    assert cell.tolist() == [8 * y + x]
    px, py = points[0].tolist()
    assert 8 * x - 0.5 <= px < 8 * x + 7.5 and 8 * y - 0.5 <= py < 8 * y + 7.5


def test_points_are_uniform_in_their_region() -> None:
    region = _rectangle(4, 0, 0, 1, 0)
    _, cell = random_points(region.expand(4000, -1, -1), 4, _generator())
    counts = torch.bincount(cell, minlength=16)
    assert counts[2:].sum() == 0
    assert abs(int(counts[0]) - 2000) < 200


def test_an_empty_region_gives_a_point_of_the_frame() -> None:
    points, _ = random_points(torch.zeros(1, 4, 4, dtype=torch.bool), 16, _generator())
    assert (points >= -0.5).all() and (points < 15.5).all()


def test_boxes_go_from_first_to_last_pixel() -> None:
    masks = torch.stack([_rectangle(8, 1, 2, 3, 2), _rectangle(8, 0, 0, 7, 7), torch.zeros(8, 8, dtype=torch.bool)])
    assert mask_boxes(masks, 32).tolist() == [[4, 8, 15, 11], [0, 0, 31, 31], [0, 0, 0, 0]]


def test_box_noise_is_a_tenth_of_the_side_and_at_most_twenty_pixels() -> None:
    small = _rectangle(128, 60, 60, 67, 63)  # 64 x 32 pixels of a frame of 1024
    shift = noisy_boxes(small.expand(4000, -1, -1), 1024, 0.1, _generator()) - mask_boxes(small[None], 1024)
    assert (shift.std(dim=0) - torch.tensor([6.4, 3.2, 6.4, 3.2])).abs().max() < 0.3
    large = _rectangle(128, 20, 20, 110, 110)
    shift = noisy_boxes(large.expand(1000, -1, -1), 1024, 0.1, _generator()) - mask_boxes(large[None], 1024)
    assert shift.abs().max() == 20
    whole = noisy_boxes(_rectangle(8, 0, 0, 7, 7).expand(100, -1, -1), 64, 0.1, _generator())
    assert whole.min() >= 0 and whole.max() <= 63


def test_no_noise_gives_the_box_itself() -> None:
    mask = _rectangle(8, 2, 1, 4, 6)[None]
    assert torch.equal(noisy_boxes(mask, 8, 0.0, _generator()), mask_boxes(mask, 8))


def test_a_click_stands_where_the_mask_is_wrong_and_says_the_truth() -> None:
    truth = torch.stack([_rectangle(4, 0, 0, 1, 1)] * 3)
    logits = torch.where(truth, 1.0, -1.0)
    logits[0, 0, 1] = -1  # a missing pixel, at x = 1
    logits[1, 3, 2] = 1  # one too many, at x = 2, y = 3
    points, labels = error_points(logits, truth, 4, _generator())
    assert labels.tolist() == [1, 0, 1]
    assert (points + 0.5).floor()[:2].tolist() == [[1, 0], [2, 3]]
    x, y = (points[2] + 0.5).floor().tolist()
    assert x <= 1 and y <= 1, "a perfect mask is confirmed by a point of its foreground"


def test_masks_are_drawn_by_the_root_of_their_area() -> None:
    masks = torch.stack([_rectangle(8, 0, 0, 0, 0), _rectangle(8, 0, 0, 2, 2)])
    drawn = sample_masks(masks, torch.ones(2), 8000, _generator())
    assert abs(float(drawn.float().mean()) - 0.75) < 0.02
    weighted = sample_masks(masks, torch.tensor([3.0, 1.0]), 8000, _generator())
    assert abs(float(weighted.float().mean()) - 0.5) < 0.02


def test_the_same_seed_draws_the_same() -> None:
    region = torch.ones(5, 6, 6, dtype=torch.bool)
    first, second = (random_points(region, 24, _generator(3))[0] for _ in range(2))
    assert torch.equal(first, second)
