from pathlib import Path

import pytest
import torch

from models.sam2.build import build_sam2
from models.sam2.config import SAM2_SIZES
from models.sam2.weights import load_sam2, save_sam2
from models.weights import CheckpointError


def test_what_is_saved_loads_with_its_sizes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_sam2(SAM2_SIZES["debug"])
    save_sam2(tmp_path / "debug.safetensors", model, torch.float32)
    loaded, sha256 = load_sam2(str(tmp_path / "debug.safetensors"))
    assert loaded.config == model.config and len(sha256) == 64 and not loaded.training
    for key, value in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[key], value, rtol=0, atol=0)


def test_a_sam_is_no_sam_2() -> None:
    with pytest.raises(CheckpointError, match=r"sam_tiny\.safetensors: these weights are not a SAM 2's"):
        load_sam2("sam_tiny")
