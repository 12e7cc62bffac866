"""The Hugging Face layout that `maskfoundry export` writes, as labelled images."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.imports.labels import ImportedImage, LabelledMask, checked_size
from pipeline.store.storage import Folder
from stages.decode_image import describe


def huggingface_images(folder: Folder, names: list[str]) -> Iterator[ImportedImage]:
    """The rows of the Parquet files. Raises ValueError for files of other columns."""
    for name in names:
        try:
            with pq.ParquetFile(folder.path(name), filesystem=folder.fs) as file:
                for batch in file.iter_batches(batch_size=16):
                    for row in batch.to_pylist():
                        yield _image(row, name)
        except (pa.ArrowException, KeyError, TypeError) as error:
            raise ValueError(
                f"{folder.path(name)}: not a file that `export --layout huggingface` wrote ({describe(error)})"
            ) from None


def _image(row: dict[str, Any], where: str) -> ImportedImage:
    height, width = checked_size(row, where)
    size = [height, width]
    masks = [
        LabelledMask(
            {
                **{name: value for name, value in mask.items() if name != "point"},
                "point_coords": [mask["point"]] if mask["point"] is not None else [],
                "segmentation": {"size": size, "counts": mask["rle"]},
            },
            [],
            mask["mask_id"],
        )
        for mask in row["masks"]
    ]
    picture = row.get("image")
    name, data = (picture["path"], picture["bytes"]) if picture else (row["uri"], None)
    return ImportedImage(row["image_id"], name, height, width, masks, where.rpartition("/")[2], data=data)
