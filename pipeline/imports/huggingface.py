"""The Hugging Face layout that `maskfoundry export` writes, as labelled images."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.imports.labels import ImportedImage, LabelledMask, failed_image
from pipeline.labels.values import as_size, as_text
from pipeline.store.storage import Folder
from stages.decode_image import describe

_NEEDED = ("image_id", "width", "height", "masks")


def huggingface_images(folder: Folder, names: list[str]) -> Iterator[ImportedImage]:
    """The rows of the Parquet files. Raises ValueError for files of other columns."""
    for name in names:
        try:
            with pq.ParquetFile(folder.path(name), filesystem=folder.fs) as file:
                if not set(_NEEDED) <= set(file.schema_arrow.names):
                    raise ValueError(f"it has no columns {', '.join(_NEEDED)}")
                rows = (row for batch in file.iter_batches(batch_size=16) for row in batch.to_pylist())
                for number, row in enumerate(rows):
                    yield _image(row, name, number)
        except (pa.ArrowException, ValueError) as error:
            raise ValueError(
                f"{folder.path(name)}: not a file that `export --layout huggingface` wrote ({describe(error)})"
            ) from None


def _image(row: dict[str, Any], table: str, number: int) -> ImportedImage:
    where, picture = f"{table}, row {number}", row.get("image")
    identity, size, masks = as_text(row.get("image_id")), as_size(row), row.get("masks")
    file, data = (picture.get("path"), picture.get("bytes")) if isinstance(picture, dict) else (row.get("uri"), None)
    name, is_list = as_text(file), isinstance(masks, list) and all(isinstance(one, dict) for one in masks)
    if identity is None or size is None or name is None or masks is None or not is_list:
        return failed_image(
            identity or where, name or "", table, f"{where} lacks an image_id, a picture, size or masks"
        )
    origin = table.rpartition("/")[2]
    return ImportedImage(identity, name, *size, [_mask(one, size) for one in masks], origin, data=data)


def _mask(mask: dict[str, Any], size: tuple[int, int]) -> LabelledMask:
    point = mask.get("point")
    annotation = {
        **{name: value for name, value in mask.items() if name != "point"},
        "point_coords": [] if point is None else [point],
        "segmentation": {"size": list(size), "counts": mask.get("rle")},
    }
    return LabelledMask(annotation, [], as_text(mask.get("mask_id")))
