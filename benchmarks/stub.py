"""What the measurements of runs share: small pictures, a SAM of debug size, and a run's recipe around them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from models.sam.build import build_sam
from models.sam.config import SAM_SIZES
from models.weights import save_sam
from pipeline.recipes.load_recipe import validate_recipe
from pipeline.recipes.recipe import Recipe


def write_stub_model(folder: Path) -> Path:
    """A SAM of debug size with weights that were never trained."""
    torch.manual_seed(0)
    path = folder / "stub.safetensors"
    save_sam(path, build_sam(SAM_SIZES["debug"]), SAM_SIZES["debug"], torch.float32)
    return path


def write_pictures(folder: Path, count: int, side: int) -> None:
    """`count` different PNG files of `side` × `side` pixels, 1,000 a folder."""
    rng = np.random.default_rng(0)
    for index in range(count):
        path = folder / f"{index // 1000:03d}" / f"{index:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)).save(path, compress_level=0)


def stub_recipe(source: str, output: str, checkpoint: Path, commit_every: int, **sections: Any) -> Recipe:
    """2×2 points, and no threshold, so that writing has something to write."""
    content: dict[str, Any] = {
        "input": source,
        "output": output,
        "model": {"checkpoint": str(checkpoint)},
        "generate": {"points_per_side": 2, "store_floor": {"predicted_iou": 0, "stability_score": 0}},
        "filter": {"pred_iou_thresh": 0, "stability_score_thresh": 0},
        "run": {"commit_every": commit_every},
    }
    return validate_recipe(content | sections)
