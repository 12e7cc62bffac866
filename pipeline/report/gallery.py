"""Chosen images of a dataset with the outlines of their masks."""

import base64
import itertools
import json
import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.masks.rle import decode_patch
from pipeline.dataset import Dataset, Part
from pipeline.errors import StoreError
from pipeline.pictures import ChangedPictureError, decode, read_bytes
from pipeline.report.outlines import outline
from stages.allowed_places import AllowedPlaces, ForbiddenPlaceError

SIDE = 512  # pixels of a thumbnail's longer side, at most
UNITS = 2048  # the longer side in the units of outlines
THUMBNAIL_BYTES = 80_000
OUTLINE_BYTES = 80_000  # of one picture's masks
MAX_TEXT = 200  # characters of a caption or tag
MAX_TAGS = 5  # of an image or a mask
MAX_PIXELS = 100_000_000  # a larger file takes too long for a thumbnail
NUM_COLOURS = 7
_NUM_READERS = 2
_FEW_PARTS, _MANY_PARTS = 8, 32  # so many are opened for pictures; more only where these hold too few


@dataclass(frozen=True)
class Outline:
    """One mask of a picture; `colour` is a place in the style's list, `tags` is JSON for the page's filter."""

    path: str
    colour: int
    area: int
    predicted_iou: float | None
    stability_score: float | None
    tags: str
    tag: str
    caption: str


@dataclass(frozen=True)
class Picture:
    """One image: `jpeg` a data URI, or None with a `note` that says why; `num_hidden` masks are not drawn."""

    image_id: str
    uri: str
    width: int
    height: int
    view_width: int
    view_height: int
    jpeg: str | None
    note: str | None
    caption: str
    tags: list[str]
    num_masks: int
    num_hidden: int
    outlines: list[Outline]


def read_gallery(dataset: Dataset, parts: Sequence[Part], num_images: int, seconds: float) -> list[Picture]:
    """Up to `num_images` images of `parts`, those that have masks first; reading and drawing end after `seconds`.

    A picture that cannot be read again by then is shown as its masks alone.
    """
    deadline = time.monotonic() + seconds
    rows = _choose(dataset, parts, num_images)
    thumbnails = _read_thumbnails(rows, dataset.picture_places, deadline)
    return [_picture(row, found, deadline) for row, found in zip(rows, thumbnails, strict=True)]


def _choose(dataset: Dataset, parts: Sequence[Part], num_images: int) -> list[dict[str, Any]]:
    """Rows spread over few parts, so that their number bounds what is read."""
    pools: list[list[dict[str, Any]]] = []
    for part in _spread(parts, _MANY_PARTS):
        if len(pools) >= _FEW_PARTS and sum(map(len, pools)) >= num_images:
            break
        try:
            rows = dataset.read(part)
        except (pa.ArrowException, StoreError):  # damaged in a column that the figures do not need
            continue
        rows = rows.filter(pc.equal(rows["status"], "ok"))
        filled = np.asarray(pc.greater(pc.list_value_length(rows["masks"]), 0))
        order = [
            *_spread(np.flatnonzero(filled).tolist(), num_images),
            *_spread(np.flatnonzero(~filled).tolist(), num_images),
        ]
        pools.append(rows.take(pa.array(order[:num_images], pa.int64())).to_pylist())
    turns = itertools.chain.from_iterable(itertools.zip_longest(*pools))
    chosen = sorted((row for row in turns if row is not None), key=lambda row: not row["masks"])[:num_images]
    return sorted(chosen, key=lambda row: row["image_id"])


def _spread(items: Sequence[Any], count: int) -> list[Any]:
    """Up to `count` of the items, evenly spaced."""
    if count >= len(items):
        return list(items)
    return [items[index * len(items) // count] for index in range(count)]


def _read_thumbnails(rows: list[dict[str, Any]], places: AllowedPlaces, deadline: float) -> list[bytes | str]:
    """A JPEG for each row, or why there is none."""
    found: dict[int, bytes | str] = {}
    waiting = deque(enumerate(rows))

    def work() -> None:
        while True:
            try:
                index, row = waiting.popleft()
            except IndexError:
                return
            try:
                found[index] = _thumbnail(row, places)
            except FileNotFoundError:
                found[index] = "the picture is no longer where it was"
            except (ChangedPictureError, ForbiddenPlaceError) as error:
                found[index] = str(error)
            except Exception as error:  # stores and broken files fail in ways of their own
                found[index] = f"the picture cannot be read ({type(error).__name__})"

    # a store that hangs must not hold the process, so these threads may be left behind
    readers = [threading.Thread(target=work, daemon=True) for _ in range(_NUM_READERS)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(max(0.0, deadline - time.monotonic()))
    waiting.clear()
    done = dict(found)
    return [done.get(index, "there was no time to read the picture") for index in range(len(rows))]


def _thumbnail(row: dict[str, Any], places: AllowedPlaces) -> bytes | str:
    if row["width"] * row["height"] > MAX_PIXELS:
        return "the picture is too large for a thumbnail"
    pixels = decode(row, read_bytes(row, places), MAX_PIXELS)
    height, width = pixels.shape[:2]
    shrink = min(1.0, SIDE / max(width, height))
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    small = cv2.cvtColor(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2BGR)
    for quality in (84, 65, 45, 25):
        jpeg = bytes(cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, quality])[1])
        if len(jpeg) <= THUMBNAIL_BYTES:
            break
    return jpeg


def _picture(row: dict[str, Any], found: bytes | str, deadline: float) -> Picture:
    scale = UNITS / max(row["width"], row["height"])
    outlines = _outlines(row, scale, deadline)
    jpeg, note = (found, None) if isinstance(found, bytes) else (None, found)
    return Picture(
        image_id=row["image_id"],
        uri=row["uri"] or "",
        width=row["width"],
        height=row["height"],
        view_width=max(1, math.ceil(row["width"] * scale)),
        view_height=max(1, math.ceil(row["height"] * scale)),
        jpeg=None if jpeg is None else "data:image/jpeg;base64," + base64.b64encode(jpeg).decode(),
        note=note,
        caption=(row["caption"] or "")[:MAX_TEXT],
        tags=[tag["name"][:MAX_TEXT] for tag in _tags(row)],
        num_masks=len(row["masks"]),
        num_hidden=len(row["masks"]) - len(outlines),
        outlines=outlines,
    )


def _outlines(row: dict[str, Any], scale: float, deadline: float) -> list[Outline]:
    """The masks of best predicted IoU for which there is room and time, the largest first."""
    found, num_bytes = [], 0
    for index in sorted(range(len(row["masks"])), key=lambda index: -(row["masks"][index]["predicted_iou"] or 0)):
        if num_bytes > OUTLINE_BYTES or time.monotonic() > deadline:
            break
        mask = row["masks"][index]
        x, y, w, h = mask["bbox"]
        if w < 1 or h < 1:
            continue
        try:
            patch = decode_patch(row["rles"][index], row["height"], row["width"], (x, y, w, h))
        except ValueError:  # run lengths that do not fit the image: `verify` names them
            continue
        tags = _tags(mask)
        one = Outline(
            path=outline(patch, x, y, scale),
            colour=0,
            area=mask["area"],
            predicted_iou=mask["predicted_iou"],
            stability_score=mask["stability_score"],
            tags=json.dumps([tag["name"][:MAX_TEXT] for tag in tags], ensure_ascii=False),
            tag=", ".join(f"{tag['name'][:MAX_TEXT]}{_score(tag['score'])}" for tag in tags),
            caption=(mask["caption"] or "")[:MAX_TEXT],
        )
        if one.path:
            found.append(one)
            num_bytes += len(one.path) + len((one.tags + one.tag + one.caption).encode()) + 100
    found.sort(key=lambda one: -one.area)
    return [replace(one, colour=place % NUM_COLOURS) for place, one in enumerate(found)]


def _tags(owner: dict[str, Any]) -> list[dict[str, Any]]:
    """The best few tags of an image or a mask, best first."""
    named = [tag for tag in owner["tags"] or [] if tag["name"] is not None]
    return sorted(named, key=lambda tag: -(tag["score"] or 0))[:MAX_TAGS]


def _score(score: float | None) -> str:
    return "" if score is None else f" {score:.2f}"
