"""A tiny CLIP in a file, rows as the filter stage leaves them, and a vocabulary."""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from models.clip.build import build_clip
from models.clip.config import CLIP_SIZES
from models.clip.learn_bpe import learn_merges
from models.clip.tokenizer import ClipTokenizer
from models.masks.rle import areas, bounding_boxes, encode_masks
from models.weights import save_clip
from stages.record import as_lists, fixed_rows, mask_structs
from stages.vocabulary import Vocabulary, parse_vocabulary

WORDS = """
groups:
  thing:
    templates: ["a {}"]
    nothing: [nothing]
    words: [ball, "car, automobile < vehicle", bus < vehicle, tree]
  colour:
    templates: ["something {}", "it is {}"]
    words: [red, green, blue]
"""


def vocabulary() -> Vocabulary:
    return parse_vocabulary(WORDS, "words.yaml")


def save_tiny_clip(path: Path, size: str = "debug", notes: dict[str, str] | None = None) -> str:
    """Random weights with a vocabulary of their own; the same each time."""
    merges = learn_merges(["a red ball", "a green car", "a blue bus beside a tree", "something red"] * 3, 540)
    tokenizer = ClipTokenizer.from_merges(merges, 16)
    torch.manual_seed(0)
    config = dataclasses.replace(CLIP_SIZES[size], vocab_size=tokenizer.vocab_size)
    save_clip(path, build_clip(config).eval(), config, torch.float32, merges, notes)
    return str(path)


def filtered_rows(images: list[np.ndarray], masks: list[np.ndarray], keep: list[list[bool]] | None = None) -> pa.Table:
    """What leaves the filter stage: pictures (H, W, 3) with their masks (N, H, W)."""
    rles = [encode_masks(one) for one in masks]
    flat = [rle for one in rles for rle in one]
    lengths = [len(one) for one in rles]
    boxes = [bounding_boxes(one, image.shape[0]) for one, image in zip(rles, images, strict=True) if one]
    keeps = [flag for row in keep for flag in row] if keep else [True] * len(flat)
    columns = {
        "mask_id": [f"m{index}" for index in range(len(flat))],
        "bbox": fixed_rows(np.concatenate([np.zeros((0, 4), np.int32), *boxes]), pa.int32()),
        "area": areas(flat) if flat else np.zeros(0, np.int64),
        "keep": keeps,
        "drop_reason": [None if flag else "box_nms" for flag in keeps],
    }
    return pa.table(
        {
            "image_id": [f"i{index}" for index in range(len(images))],
            "width": pa.array([image.shape[1] for image in images], pa.int32()),
            "height": pa.array([image.shape[0] for image in images], pa.int32()),
            "status": ["ok"] * len(images),
            "error": pa.nulls(len(images), pa.string()),
            "pixels": pa.array([image.tobytes() for image in images], pa.large_binary()),
            "masks": as_lists(mask_structs(columns, len(flat)), lengths),
            "rles": as_lists(pa.array(flat, pa.binary()), lengths),
            "raw_rles": as_lists(pa.nulls(len(flat), pa.binary()), lengths),
        }
    )


def pictures(rng: np.random.Generator) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Three pictures of different sizes with 3, 0 and 2 masks, one of a single pixel in a corner."""
    sizes = [(40, 56), (24, 24), (64, 33)]
    images = [rng.integers(0, 256, (*size, 3)).astype(np.uint8) for size in sizes]
    masks = [np.zeros((count, *size), np.uint8) for count, size in zip((3, 0, 2), sizes, strict=True)]
    masks[0][0, 5:20, 8:30] = masks[0][1, 39, 55] = masks[0][2] = 1
    masks[2][0, :, 3] = masks[2][1, 50:60, 20:33] = 1
    return images, masks
