"""Views of all labelled masks, rendered once and kept uncompressed, so that a step only reads rows."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.clip.config import ClipConfig
from models.clip.regions import ViewSettings, region_view, whole_view
from pipeline.clip_training.views import LabelledPicture, LabelledView
from pipeline.progress import progress_bar

SCALE_JITTER = 0.1  # of a scale's size: masks of a model's making are not exact
_NAME = "views.npy"


@dataclass(frozen=True)
class PackedViews:
    """`of_masks` (N, K, S, S, 3) uint8, one view a scale for each of `masks`; `of_wholes` (P, S, S, 3) for `wholes`."""

    masks: Sequence[LabelledView]
    of_masks: NDArray[np.uint8]
    wholes: Sequence[LabelledView]
    of_wholes: NDArray[np.uint8]


def pack_views(
    pictures: Sequence[LabelledPicture], views: ViewSettings, config: ClipConfig, seed: int, folder: Path, quiet: bool
) -> PackedViews:
    """Renders the views, or reads those that an earlier sitting left in `folder` from the same data and settings."""
    masks = [view for picture in pictures for view in picture.masks]
    wholes = [picture.whole for picture in pictures if picture.whole is not None]
    size, num_scales = config.image_size, len(views.scales)
    shape = (len(masks) * num_scales + len(wholes), size, size, 3)
    key = json.dumps([views.model_dump(mode="json"), config.to_json(), seed, digest(pictures)])

    def render(rows: NDArray[Any]) -> None:
        _render(rows, pictures, views, config, seed, len(masks) * num_scales, quiet)

    stored = stored_rows(folder, _NAME, key, shape, np.uint8, render)
    of_masks = stored[: len(masks) * num_scales].reshape(len(masks), num_scales, size, size, 3)
    return PackedViews(masks, of_masks, wholes, stored[len(masks) * num_scales :])


def stored_rows(
    folder: Path, name: str, key: str, shape: tuple[int, ...], dtype: Any, fill: Callable[[NDArray[Any]], None]
) -> NDArray[Any]:
    """The array of this `key` in `folder`, mapped; `fill` makes it where it is not there, or another's."""
    path, note = folder / name, folder / f"{name}.json"
    if not (note.exists() and path.exists() and note.read_text(encoding="utf-8") == key):
        folder.mkdir(parents=True, exist_ok=True)
        note.unlink(missing_ok=True)  # what it describes is about to change
        rows = np.lib.format.open_memmap(path, "w+", dtype, shape)
        fill(rows)
        rows.flush()
        note.write_text(key, encoding="utf-8")
    stored: NDArray[Any] = np.load(path, mmap_mode="r")
    return stored


def _render(
    rows: NDArray[np.uint8],
    pictures: Sequence[LabelledPicture],
    views: ViewSettings,
    config: ClipConfig,
    seed: int,
    first_whole: int,
    quiet: bool,
) -> None:
    row, whole = 0, first_whole
    with progress_bar("rendering views", len(pictures), "images", quiet) as update:
        for done, picture in enumerate(pictures, start=1):
            pixels, rng = picture.pixels(), np.random.default_rng([seed, 2, done])
            if picture.whole is not None:
                rows[whole] = whole_view(pixels, config, views.whole_size)
                whole += 1
            for view in picture.masks:
                assert view.rle is not None
                for scale in views.scales:
                    jittered = scale * (1 + rng.uniform(0, SCALE_JITTER))
                    rows[row] = region_view(pixels, view.rle, view.bbox, jittered, views, config)
                    row += 1
            update(done, "")


def digest(pictures: Sequence[LabelledPicture]) -> str:
    """What the views follow from: the pictures, by name and time, and their masks."""
    found = hashlib.sha256()
    for picture in pictures:
        status = picture.path.stat()
        found.update(f"{picture.path} {status.st_size} {status.st_mtime_ns} {picture.whole is None}".encode())
        for view in picture.masks:
            found.update(view.rle or b"")
    return found.hexdigest()
