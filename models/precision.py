"""Reduced precision by name, and the choice of one where the hardware is made for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch

Precision = Literal["auto", "fp32", "bf16", "fp16"]
_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_precision(precision: Precision, device: torch.device) -> Precision:
    """`auto` becomes bf16 on a GPU that computes in it and on a CPU with matrix tiles (AMX), else fp32."""
    if precision != "auto":
        return precision
    fast = computes_in_bf16(device) if device.type == "cuda" else _has_matrix_tiles()
    return "bf16" if fast else "fp32"


def computes_in_bf16(device: torch.device) -> bool:
    """False where bf16 is emulated, which makes products ten times slower than in fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return _has_matrix_tiles() or (supported is not None and supported())


@contextmanager
def computing_in(precision: Precision, device: torch.device) -> Iterator[None]:
    """Products in this precision; in fp32 without TF32, convolutions included."""
    dtype = _TYPES[resolve_precision(precision, device)]
    with _exact_convolutions(), torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
        yield


@contextmanager
def _exact_convolutions() -> Iterator[None]:
    """By default cuDNN rounds the factors of an fp32 convolution to ten bits; those of matrices torch leaves alone."""
    if hasattr(torch.backends.cudnn, "conv"):  # from torch 2.9 on
        switch = _switched(torch.backends.cudnn.conv, "fp32_precision", "ieee")
    else:
        switch = _switched(torch.backends.cudnn, "allow_tf32", False)
    with switch:
        yield


@contextmanager
def products_in_tf32() -> Iterator[None]:
    """A GPU rounds the factors of matrices in fp32 as those of convolutions, to ten bits: for training, where that is
    little beside what chance does, and many times as fast."""
    matmul = torch.backends.cuda.matmul
    if hasattr(torch.backends.cudnn, "conv"):  # from torch 2.9 on
        switch = _switched(matmul, "fp32_precision", "tf32")
    else:
        switch = _switched(matmul, "allow_tf32", True)
    with switch:
        yield


@contextmanager
def _switched(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _has_matrix_tiles() -> bool:
    # not in every version of torch that this project takes
    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return supported is not None and supported()
