"""Look for what was taken down: in every file of a dataset, those that no longer count included."""

import hashlib
from collections.abc import Iterator

from pipeline.errors import UnreadableError
from pipeline.store.dropped import COLUMNS, Dropped
from pipeline.store.own_pictures import PICTURES
from pipeline.store.part_files import REPLACED, read_part_file
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder


def dropped_in_round(target: Round, dropped: Dropped) -> Iterator[str]:
    """A line for each dropped image in a Parquet file of the round, whether the file counts or not."""
    folder = target.folder
    columns = [column for column in COLUMNS if column in target.schema.names]
    for place in (target.name, f"{target.name}/{REPLACED}"):
        for name in folder.names(place, "", ".parquet"):
            try:
                rows = read_part_file(folder, name, columns)
            except UnreadableError:  # told where the parts themselves are checked
                continue
            for image_id in rows.filter(dropped.concerns(rows))[target.id_column].to_pylist():
                yield f"{name}: {image_id!r} was dropped and stands in it; drop it once more"


def dropped_pictures(folder: Folder, dropped: Dropped) -> Iterator[str]:
    """A line for each picture in the dataset's own folder whose content was dropped."""
    for name in folder.names(PICTURES, "", ""):
        if hashlib.sha256(folder.read(name)).hexdigest() in dropped.contents:
            yield f"{name}: its content was dropped; remove it"
