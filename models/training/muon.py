"""Muon: momentum whose matrices are orthogonalised before they are applied.

A kernel is a matrix with a row for each output channel, as in the author's own experiments with convolutions.

Jordan et al. 2024 (kellerjordan.github.io/posts/muon): the quintic Newton-Schulz iteration and its coefficients; the
size of an update, AdamW's, from Liu et al. 2025 (arXiv:2502.16982, section 2.2). `torch.optim.Muon` does the same in
bfloat16 whatever the device, which a processor without instructions for it only emulates.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from models.precision import computes_in_bf16

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_NUM_ITERATIONS = 5
_ADAMW_RMS = 0.2  # the root mean square of an entry of AdamW's updates, as measured in the paper


class Muon(torch.optim.Optimizer):
    """For matrices and kernels; weight decay is decoupled, momentum is Nesterov's. State: `momentum_buffer`."""

    def __init__(self, params: Any, lr: float, weight_decay: float = 0.1, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        assert all(one.ndim >= 2 for group in self.param_groups for one in group["params"])

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
                buffer = state["momentum_buffer"].lerp_(parameter.grad, 1 - group["momentum"])
                direction = orthogonalise(parameter.grad.lerp(buffer, group["momentum"]).flatten(1))
                size = _ADAMW_RMS * max(direction.shape) ** 0.5
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(direction.view(parameter.shape), alpha=-group["lr"] * size)


def orthogonalise(matrix: Tensor) -> Tensor:
    """About U V^T of `matrix` = U S V^T (m, n): singular values come out at about .7 to 1.2. A zero stays zero."""
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    wide = wide.to(torch.bfloat16 if computes_in_bf16(matrix.device) else torch.float32)
    wide = wide / wide.norm().clamp(min=1e-7)
    a, b, c = _COEFFICIENTS
    for _ in range(_NUM_ITERATIONS):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return (wide.T if matrix.shape[0] > matrix.shape[1] else wide).to(matrix.dtype)
