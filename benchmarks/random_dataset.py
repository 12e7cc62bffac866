"""A dataset of random masks in SA-1B's proportions: real run lengths, the real writer, no pictures."""

import time

import cv2
import numpy as np
import pyarrow as pa

from models.masks.rle import (
    areas_of_counts,
    boxes_of_counts,
    compress_counts,
    counts_from_transitions,
    transitions,
)
from pipeline.store.index import publish
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder
from stages.mask_columns import MaskColumns
from stages.record import SCHEMA, TAGS, conform, fixed_rows, mask_structs

HEIGHT, WIDTH = 1500, 2250  # what SA-1B was released at
MASKS_PER_IMAGE = 100
IMAGES_PER_PART = 64  # run.commit_every's default
TAG_NAMES = [f"thing {index}" for index in range(79)] + ["dog"]
RADII = (8, 260)  # log-uniform: areas from a few hundred pixels to a tenth of the image
NUM_SHAPES = 400


def random_shapes(rng: np.random.Generator) -> list[np.ndarray]:
    """Blobs uint8 (h, w): discs whose radius swings with a few random waves; every fourth has a hole."""
    shapes = []
    for index in range(NUM_SHAPES):
        radius = float(np.exp(rng.uniform(*np.log(RADII))))
        size = int(radius * 2.6) + 3
        y, x = np.mgrid[:size, :size] - size / 2
        angle = np.arctan2(y, x * rng.uniform(0.5, 1.0))
        edge = sum(rng.normal(0, 0.25 / wave) * np.cos(wave * angle + rng.uniform(0, 7)) for wave in range(1, 24))
        distance = np.hypot(y, x) / radius
        blob = distance < 1 + np.clip(edge, -0.6, 0.25)
        if index % 4 == 0:
            blob &= distance > 0.25
        blob[size // 2, size // 2 + int(radius * 0.3)] = True
        shapes.append(blob.astype(np.uint8))
    return shapes


def write_random_dataset(uri: str, num_masks: int, seed: int = 0) -> float:
    """Writes and publishes it; the seconds it took."""
    started = time.perf_counter()
    rng = np.random.default_rng(seed)
    shapes = random_shapes(rng)
    folder = Folder(uri)
    target = Round(folder, 0)
    num_images = -(-num_masks // MASKS_PER_IMAGE)
    for part, first in enumerate(range(0, num_images, IMAGES_PER_PART)):
        images = range(first, min(first + IMAGES_PER_PART, num_images))
        counts = [min(MASKS_PER_IMAGE, num_masks - image * MASKS_PER_IMAGE) for image in images]
        target.write_part(part, _rows(images, counts, shapes, rng))
    record = {"round": 0, "fingerprints": {"generate": "random"}, "runs": []}
    target.write_record(record)
    publish(folder, 0)
    return time.perf_counter() - started


def _rows(images: range, counts: list[int], shapes: list[np.ndarray], rng: np.random.Generator) -> pa.Table:
    total = sum(counts)
    runs = []
    for index in rng.integers(0, len(shapes), total):
        # stretched, so that no two masks share run lengths, which would compress better than real ones
        height, width = shapes[index].shape
        size = int(width * rng.uniform(0.7, 1.4)), int(height * rng.uniform(0.7, 1.4))
        patch = cv2.resize(shapes[index], size, interpolation=cv2.INTER_NEAREST)
        x, y = int(rng.integers(0, WIDTH - patch.shape[1])), int(rng.integers(0, HEIGHT - patch.shape[0]))
        runs.append(counts_from_transitions(transitions(patch, x, y, HEIGHT), HEIGHT * WIDTH))
    lengths = np.array([len(one) for one in runs])
    flat = np.concatenate(runs)
    owners = np.repeat(np.array(images), counts)
    places = np.concatenate([np.arange(count) for count in counts])
    boxes = boxes_of_counts(flat, lengths, HEIGHT)
    tagged = rng.random(total) < 0.7
    names = np.array(TAG_NAMES)[rng.integers(0, len(TAG_NAMES), total)]
    scores = rng.uniform(0.3, 1, total)
    whole = np.tile(np.array([0, 0, WIDTH, HEIGHT], np.int32), (total, 1))
    masks = mask_structs(
        {
            "mask_id": [f"sa_{image:07d}.jpg/0/{place}" for image, place in zip(owners, places, strict=True)],
            "bbox": fixed_rows(boxes, pa.int32()),
            "area": areas_of_counts(flat, lengths),
            "predicted_iou": rng.uniform(0.88, 1.05, total).astype(np.float32),
            "stability_score": rng.uniform(0.95, 1, total).astype(np.float32),
            "point": fixed_rows((boxes[:, :2] + boxes[:, 2:] / 2).astype(np.float32), pa.float32()),
            "crop_box": fixed_rows(whole, pa.int32()),
            "crop_layer": np.zeros(total, np.int8),
            "mask_index": rng.integers(0, 3, total).astype(np.int8),
            "source": ["auto"] * total,
            "stage": ["automatic"] * total,
            "keep": np.ones(total, bool),
            "tags": pa.array(
                [[{"name": n, "score": s}] if has else [] for n, s, has in zip(names, scores, tagged, strict=True)],
                TAGS,
            ),
        },
        total,
    )
    size = len(counts)
    table = pa.table(
        {
            "image_id": [f"sa_{image:07d}.jpg" for image in images],
            "uri": [f"s3://bucket/sa_{image:07d}.jpg" for image in images],
            "content_sha256": [rng.bytes(32).hex() for _ in images],
            "phash": [rng.bytes(8).hex() for _ in images],
            "width": pa.array([WIDTH] * size, pa.int32()),
            "height": pa.array([HEIGHT] * size, pa.int32()),
            "status": ["ok"] * size,
            **MaskColumns.made(masks, compress_counts(flat, lengths), counts).columns(),
            "round": pa.array(np.zeros(size, np.int32)),
        }
    )
    return conform(table.cast(pa.schema([SCHEMA.field(name) for name in table.column_names])))
