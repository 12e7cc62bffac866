import math
import multiprocessing
import socket
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from models.clip.contrastive import contrastive_loss

NUM_WORKERS, NUM_PAIRS, WIDTH = 2, 3, 4


def learnable() -> tuple[Tensor, Tensor, Tensor]:
    """Features of the pairs of all workers and the logarithm of the scale."""
    generator = torch.Generator().manual_seed(0)
    images, texts = torch.randn(2, NUM_WORKERS * NUM_PAIRS, WIDTH, generator=generator)
    return images.requires_grad_(), texts.requires_grad_(), torch.tensor(1.5, requires_grad=True)


def test_by_hand() -> None:
    """Two pairs at right angles: each is told from the other by a scaled cosine of 1 against 0."""
    features = torch.tensor([[2.0, 0.0], [0.0, 0.5]])
    loss = contrastive_loss(features, 3 * features, torch.tensor(math.log(5.0)))
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-5.0)))
    swapped = contrastive_loss(features, features.flip(0), torch.tensor(math.log(5.0)))
    assert swapped.item() == pytest.approx(5 + math.log(1 + math.exp(-5.0)))
    assert contrastive_loss(features[:1], features[:1], torch.tensor(1.0)).item() == 0.0


def test_both_directions_count() -> None:
    """One image fits two texts: from its side that is a tie, from the texts' sides it is not."""
    images, texts = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    tie, easy, wrong = math.log(2), math.log(1 + math.exp(-1.0)), math.log(1 + math.exp(1.0))
    expected = ((tie + tie) / 2 + (easy + wrong) / 2) / 2
    assert contrastive_loss(images, texts, torch.tensor(0.0)).item() == pytest.approx(expected)


def _work(rank: int, port: int, folder: str) -> None:
    address, patience = f"tcp://127.0.0.1:{port}", timedelta(seconds=100)
    dist.init_process_group("gloo", address, timeout=patience, world_size=NUM_WORKERS, rank=rank)
    images, texts, scale = learnable()
    mine = slice(rank * NUM_PAIRS, (rank + 1) * NUM_PAIRS)
    loss = contrastive_loss(images[mine], texts[mine], scale)
    loss.backward()
    torch.save([loss.detach(), images.grad, texts.grad, scale.grad], Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def test_workers_see_each_others_negatives(tmp_path: Path) -> None:
    """The mean over the workers, of losses and gradients, is the loss of all pairs in one process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    other = multiprocessing.get_context("spawn").Process(target=_work, args=(1, port, str(tmp_path)))
    other.start()
    _work(0, port, str(tmp_path))
    other.join(100)
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(NUM_WORKERS)]
    images, texts, scale = learnable()
    loss = contrastive_loss(images, texts, scale)
    loss.backward()
    for values, expected in zip(zip(*found, strict=True), [loss, images.grad, texts.grad, scale.grad], strict=True):
        assert expected is not None
        assert torch.allclose(torch.stack(values).mean(dim=0), expected, atol=1e-6)
