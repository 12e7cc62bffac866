import pytest
import torch

from models import precision
from models.training.muon import Muon, orthogonalise


def _matrix(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (9, 4), (1, 5), (1, 1)])
def test_singular_values_come_near_one_and_directions_stay(shape: tuple[int, int]) -> None:
    matrix = _matrix(*shape)
    made = orthogonalise(matrix)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    values = torch.diagonal(left.T @ made @ right.T)
    assert torch.all((values > 0.3) & (values < 1.3)), "the smallest are still on their way after five iterations"
    torch.testing.assert_close(left @ torch.diag(values) @ right, made, atol=0.02, rtol=0)


def test_nothing_becomes_nothing() -> None:
    assert orthogonalise(torch.zeros(3, 4)).abs().max() == 0


def test_steps_as_torchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.training.muon.computes_in_bf16", lambda device: True)
    ours, theirs = torch.nn.Parameter(_matrix(8, 24)), torch.nn.Parameter(_matrix(8, 24))
    optimizers = [
        Muon([ours], lr=0.02, weight_decay=0.3),
        torch.optim.Muon([theirs], lr=0.02, weight_decay=0.3, adjust_lr_fn="match_rms_adamw"),
    ]
    for step in range(3):
        for parameter, optimizer in zip((ours, theirs), optimizers, strict=True):
            parameter.grad = _matrix(8, 24) * (step + 1) + step
            optimizer.step()
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=0)
    assert (ours - _matrix(8, 24)).abs().max() > 0.03


def test_a_kernel_learns_as_the_matrix_of_its_output_channels() -> None:
    kernel = torch.nn.Parameter(_matrix(8, 3, 2, 2).contiguous(memory_format=torch.channels_last))
    matrix = torch.nn.Parameter(_matrix(8, 3, 2, 2).flatten(1))
    for parameter in (kernel, matrix):
        optimizer = Muon([parameter], lr=0.02)
        for step in range(2):
            parameter.grad = (_matrix(8, 3, 2, 2) + step).view(parameter.shape)
            optimizer.step()
    torch.testing.assert_close(kernel.flatten(1), matrix)


def test_bf16_is_only_computed_where_it_is_no_emulation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_has_matrix_tiles", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)
    assert not precision.computes_in_bf16(torch.device("cpu"))
    exact = orthogonalise(_matrix(4, 4))
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    assert precision.computes_in_bf16(torch.device("cpu"))
    assert 0 < (orthogonalise(_matrix(4, 4)) - exact).abs().max() < 0.1
