"""The layout of Hugging Face `datasets`: Parquet files below data/ and a card that says which split they are.

Rows are the record's without what only the engine needs; run lengths are text, as pycocotools takes them. Pictures are
a column of the type Image, or where they are only referenced `uri` tells their place.
"""

import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from pipeline.export.job import Item, Job, Written
from pipeline.export.split import SPLITS
from stages.record import MASK, SCHEMA

CARD = "README.md"
_KEPT = ("image_id", "uri", "content_sha256", "phash", "width", "height", "caption", "caption_score", "tags")
_PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
# `datasets` reads from here that the column is a picture (datasets/features/features.py, from_arrow_schema)
_FEATURES = json.dumps({"info": {"features": {"image": {"_type": "Image"}}}})


def columns(pictures: bool) -> pa.Schema:
    """Of the files; a mask's `rle` are its compressed run lengths."""
    mask = pa.struct([*MASK, pa.field("rle", pa.string())])
    fields = [*(SCHEMA.field(name) for name in _KEPT), pa.field("masks", pa.list_(mask))]
    if not pictures:
        return pa.schema(fields)
    return pa.schema([pa.field("image", _PICTURE), *fields], metadata={"huggingface": _FEATURES})


def write_slice(items: list[Item], place: str, name: str, job: Job) -> Written:
    """One Parquet file."""
    schema = columns(items[0].picture is not None)
    table = pa.Table.from_pylist([_row(item) for item in items], schema=schema)
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    path = f"data/{place.rstrip('/') or SPLITS[0]}-{name}.parquet"
    job.folder.write(path, sink.getvalue())
    return Written([path])


def finish(job: Job) -> None:
    """The card, which people are to complete."""
    names = [place.rstrip("/") or SPLITS[0] for place in job.places]
    written = [name for name in names if job.folder.names("data", f"{name}-", ".parquet")]
    about = {
        "task_categories": ["image-segmentation", "mask-generation"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": name, "path": f"data/{name}-*.parquet"} for name in written],
            }
        ],
    }
    text = f"---\n{yaml.safe_dump(about, sort_keys=False)}---\n{_BODY.format(source=job.source)}"
    job.folder.write(CARD, text.encode())


def _row(item: Item) -> dict[str, Any]:
    row: dict[str, Any] = {name: item.row[name] for name in _KEPT}
    row["masks"] = [
        {**mask, "rle": rle.decode("ascii")} for mask, rle in zip(item.row["masks"], item.row["rles"], strict=True)
    ]
    if item.picture is not None:
        row["image"] = {"bytes": item.picture, "path": item.file_name}
    return row


_BODY = """
# Segmentation masks

Exported by MaskFoundry from `{source}`. One row an image; `masks` is a list with, for each mask, its compressed COCO
run lengths `rle`, `bbox` (x, y, w, h), `area`, `predicted_iou`, `stability_score`, `tags` and `source` (`auto`: made by
a model; `human`, `imported`: not).

```python
from datasets import load_dataset
from pycocotools import mask as coco_mask

row = load_dataset("PATH OR NAME", split="train")[0]
first = row["masks"][0]
mask = coco_mask.decode({{"size": [row["height"], row["width"]], "counts": first["rle"]}})
```

To be completed before it is published: the pictures' origin and licence, how people in them were asked, and what the
masks were checked against.
"""
