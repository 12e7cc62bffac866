"""Datasets to report on, and a page taken apart."""

import hashlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from models.masks.rle import areas, bounding_boxes, encode_masks
from pipeline.dataset import open_dataset
from pipeline.report.write import write_report
from pipeline.sources.places import RECORDED
from pipeline.store.index import publish
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder
from stages.record import SCHEMA

HEIGHT, WIDTH = 20, 30
HOSTILE = "<script>alert('x')</script></style>\"'>{{7*7}}{% raw %}<!--\nnext & line\u202e"
VOID = {"meta", "input", "br"}


class Page(HTMLParser):
    """A page's elements as (tag, attributes, text), checked for balance."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.open: list[int] = []
        self.feed(text)
        self.close()
        assert not self.open, "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), []))
        if tag not in VOID:
            self.open.append(len(self.elements) - 1)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), []))

    def handle_endtag(self, tag: str) -> None:
        assert self.elements[self.open.pop()][0] == tag

    def handle_data(self, data: str) -> None:
        for index in self.open:
            self.elements[index][2].append(data)

    def all(self, tag: str, **wanted: str) -> list[tuple[dict[str, str | None], str]]:
        return [
            (attributes, "".join(text))
            for name, attributes, text in self.elements
            if name == tag and all(value in (attributes.get(key) or "").split() for key, value in wanted.items())
        ]

    def table(self, **wanted: str) -> list[list[str]]:
        """The cells of the first table of a class, row by row."""
        rows: list[list[str]] = []
        inside = False
        for name, attributes, text in self.elements:
            if name == "table":
                inside = all(value in (attributes.get(key) or "").split() for key, value in wanted.items())
            elif inside and name == "tr":
                rows.append([])
            elif inside and name in ("td", "th"):
                rows[-1].append(" ".join("".join(text).split()))
        return rows


def rectangle(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[y0:y1, x0:x1] = 1
    return mask


WHOLE, LEFT, DOT = (rectangle(*box) for box in ((0, 0, WIDTH, HEIGHT), (0, 0, 15, HEIGHT), (29, 19, 30, 20)))


def image_row(name: str, masks: list[tuple[np.ndarray, dict[str, Any]]], **changes: Any) -> dict[str, Any]:
    height, width = masks[0][0].shape if masks else (HEIGHT, WIDTH)
    rles = encode_masks(np.stack([one for one, _ in masks])) if masks else []
    boxes = bounding_boxes(rles, height).tolist() if rles else []
    common = {"source": "auto", "keep": True, "predicted_iou": 0.9, "stability_score": 0.95, "iscrowd": False}
    return {
        "image_id": name,
        "uri": name,
        "width": width,
        "height": height,
        "status": "ok",
        "tags": [],
        "masks": [
            {"mask_id": f"{name}/{index}", "bbox": bbox, "area": int(area), "tags": [], **common, **fields}
            for index, ((_, fields), bbox, area) in enumerate(zip(masks, boxes, areas(rles), strict=True))
        ],
        "rles": rles,
        "raw_rles": [None] * len(rles),
        "round": 0,
        **changes,
    }


def failed_row(name: str, error: str | None) -> dict[str, Any]:
    return image_row(name, [], status="failed", error=error, width=None, height=None)


def make_dataset(uri: str, *parts: list[dict[str, Any]], record: dict[str, Any] | None = None, number: int = 0) -> str:
    folder = Folder(uri)
    for index, rows in enumerate(parts):
        Round(folder, number).write_part(index, pa.Table.from_pylist(rows, schema=SCHEMA))
    places = {RECORDED: [uri.rpartition("/")[0]]}
    Round(folder, number).write_record(places | (record or {"round": number, "runs": []}))
    publish(folder, number)
    return uri


def draw(path: Path, width: int = WIDTH, height: int = HEIGHT) -> dict[str, Any]:
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path, format="PNG")
    return {"uri": str(path), "content_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def page_of(uri: str, **how: Any) -> tuple[str, Page]:
    summary = write_report(open_dataset(uri), **how)
    text = Path(summary.output).read_text()
    assert summary.bytes == len(text.encode())
    return text, Page(text)
