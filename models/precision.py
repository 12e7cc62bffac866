"""Reduced precision by name, and the choice of one where the hardware is made for it."""

from typing import Literal

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


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    dtype = _TYPES[resolve_precision(precision, device)]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


def _has_matrix_tiles() -> bool:
    # not in every version of torch that this project takes
    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return supported is not None and supported()
