from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from models.masks.rle import areas, bounding_boxes, encode_masks
from pipeline.sources.places import RECORDED
from pipeline.store.index import publish
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder
from stages.record import SCHEMA

MakeDataset = Callable[..., str]


def make(folder: Path, images: dict[str, np.ndarray], per_image: dict[str, Any] | None = None, **changes: Any) -> str:
    """Pictures, and a dataset of them in two parts: for each name its masks (N, H, W) uint8, the first one tagged.

    `changes` are columns of every row, `per_image` of single ones.
    """
    rows = []
    for name, masks in images.items():
        path = folder / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        height, width = masks.shape[1:]
        Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(path)
        rles = encode_masks(masks)
        tags = [{"name": "cat", "score": 0.4}, {"name": "tabby", "score": 0.6}]
        rows.append(
            {
                "image_id": name,
                "uri": str(path),
                "width": width,
                "height": height,
                "status": "ok",
                "tags": [],
                "masks": [
                    {
                        "mask_id": f"{name}/0/{index}",
                        "bbox": bbox,
                        "area": int(area),
                        "predicted_iou": 0.75,
                        "stability_score": 0.5,
                        "point": [1.5, 2.5],
                        "crop_box": [0, 0, width, height],
                        "source": "auto",
                        "stage": "automatic",
                        "keep": True,
                        "iscrowd": False,
                        "tags": tags if index == 0 else [],
                    }
                    for index, (bbox, area) in enumerate(
                        zip(bounding_boxes(rles, height).tolist(), areas(rles), strict=True)
                    )
                ],
                "rles": rles,
                "raw_rles": [None] * len(rles),
                "round": 0,
                "decode": {"orientation": 1, "bit_depth": 8, "bands": [0, 1, 2]},
                **changes,
                **(per_image or {}).get(name, {}),
            }
        )
    uri = str(folder / "dataset")
    half = (len(rows) + 1) // 2
    for part, some in enumerate((rows[:half], rows[half:])):
        if some:
            Round(Folder(uri), 0).write_part(part, pa.Table.from_pylist(some, schema=SCHEMA))
    record = {"round": 0, "fingerprints": {"generate": "g"}, RECORDED: [str(folder / "pictures")], "runs": []}
    Round(Folder(uri), 0).write_record(record)
    publish(Folder(uri), 0)
    return uri


@pytest.fixture(scope="session")
def make_dataset() -> MakeDataset:
    return make


@pytest.fixture(scope="session")
def shapes() -> np.ndarray:
    """Awkward masks (6, 40, 50): empty, full, one pixel, a hole, one pixel wide along borders, every other pixel."""
    masks = np.zeros((6, 40, 50), np.uint8)
    masks[1] = 1
    masks[2, 7, 9] = 1
    masks[3, 5:30, 5:30] = 1
    masks[3, 10:20, 10:20] = 0
    masks[4, 0, :] = masks[4, :, 49] = 1
    masks[5, ::2, ::2] = 1
    return masks
