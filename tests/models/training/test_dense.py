import torch

from models.training.dense import DenseHead, boundaries, dense_loss, sample_queries, segment_levels


def _masks() -> torch.Tensor:
    """A square, a part of it, and empty cells around."""
    masks = torch.zeros(3, 8, 8, dtype=torch.bool)
    masks[0, 1:7, 1:7] = True
    masks[1, 2:4, 2:4] = True
    return masks  # the third is empty


def test_levels_hold_the_smallest_and_the_largest_mask() -> None:
    smallest, largest = segment_levels(_masks())
    assert smallest[0, 0] == largest[0, 0] == -1
    assert smallest[2, 2] == 1 and largest[2, 2] == 0
    assert smallest[5, 5] == largest[5, 5] == 0
    assert segment_levels(torch.zeros(0, 4, 4, dtype=torch.bool)).eq(-1).all()


def test_boundaries_are_where_the_next_pixel_differs() -> None:
    level = torch.tensor([[0, 0, 1], [0, 0, 1], [2, 2, 2]])
    assert boundaries(level).tolist() == [[False, True, False], [True, True, True], [False, False, False]]


def test_queries_are_labelled_pixels_and_small_segments_get_more_than_their_area() -> None:
    level = torch.full((10, 10), -1)
    level[:9] = 0  # 90 pixels
    level[9, 0] = 1  # 1 pixel
    drawn = sample_queries(level, 9000, torch.Generator().manual_seed(0))
    labels = level.flatten()[drawn]
    assert (labels >= 0).all()
    expected = 1 / (1 + 90**0.5)
    assert abs(float((labels == 1).float().mean()) - expected) < 0.02
    assert len(sample_queries(torch.full((3, 3), -1), 5, torch.Generator())) == 0


def test_the_loss_falls_when_the_features_learn_the_segments() -> None:
    torch.manual_seed(0)
    head = DenseHead(16, num_features=8)
    embedding = torch.randn(1, 16, 2, 2, requires_grad=True)
    levels = segment_levels(_masks())[None]
    optimizer = torch.optim.Adam([embedding, *head.parameters()], lr=0.02)
    losses = []
    for _ in range(60):
        loss = dense_loss(head, embedding, levels, 16, torch.Generator().manual_seed(0))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.25 * losses[0]


def test_an_image_without_labels_has_a_finite_loss() -> None:
    levels = torch.full((1, 2, 8, 8), -1)
    loss = dense_loss(DenseHead(16, num_features=8), torch.zeros(1, 16, 2, 2), levels, 4, torch.Generator())
    assert torch.isfinite(loss)
