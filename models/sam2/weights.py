"""A SAM 2 from its weight file, and back; and either SAM, as the weights say."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import torch

from models.blank import blank
from models.sam.model import Sam
from models.sam2.build import build_sam2
from models.sam2.checkpoints import from_hugging_face, infer_config, is_hugging_face, is_sam2
from models.sam2.config import Sam2Config
from models.sam2.model import Sam2
from models.weight_files import (
    SIZES_PREFIX,
    CheckpointError,
    StoredWeights,
    read_checkpoint,
    stored_sizes,
    write_safetensors,
)
from models.weights import load_strictly, sam_of


def load_segmenter(checkpoint: str, image_size: int | None = None) -> tuple[Sam | Sam2, str]:
    """A SAM as `models.weights.load_sam` gives it, or a SAM 2 as `load_sam2`, by the weights' names.

    Raises CheckpointError.
    """
    stored = read_checkpoint(checkpoint)
    return _sam2_of(stored, image_size) if is_sam2(stored.state) else sam_of(stored, image_size)


def load_sam2(checkpoint: str, image_size: int | None = None) -> tuple[Sam2, str]:
    """A SAM 2 or 2.1 ready for inference (eval mode, fp32, no gradients, on the CPU) and the sha256 of its file.

    `checkpoint` as `models.weights` has it; the official layout or Hugging Face's. `image_size` in pixels, on
    which no weight depends. Raises CheckpointError.
    """
    return _sam2_of(read_checkpoint(checkpoint), image_size)


def _sam2_of(stored: StoredWeights, image_size: int | None) -> tuple[Sam2, str]:
    sizes = stored_sizes(stored, "sam2")
    try:
        state = from_hugging_face(stored.state) if is_hugging_face(stored.state) else stored.state
        config = infer_config(state) if sizes is None else Sam2Config.from_json(sizes)
        config = config if image_size is None else dataclasses.replace(config, image_size=image_size)
    except ValueError as error:
        raise CheckpointError(f"{stored.path}: {error}") from error
    with blank():
        model = build_sam2(config)
    load_strictly(model, state, stored.path)
    return model.eval().requires_grad_(False), stored.sha256


def save_sam2(path: Path, model: Sam2, dtype: torch.dtype, notes: Mapping[str, str] | None = None) -> None:
    """Writes official-layout weights as safetensors with their sizes; `notes` is further metadata."""
    state = {key: value.to(dtype) if value.is_floating_point() else value for key, value in model.state_dict().items()}
    write_safetensors(path, state, {**(notes or {}), f"{SIZES_PREFIX}sam2": model.config.to_json()})
