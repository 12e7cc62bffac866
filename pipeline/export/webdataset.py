"""WebDataset: tar archives of an image's JSON (SA-1B's) and its picture, side by side under one key."""

import io
import tarfile

from pipeline.export.job import Item, Job, Written
from pipeline.export.records import sa1b_record, to_line


def write_slice(items: list[Item], place: str, name: str, job: Job) -> Written:
    """One archive."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        for item in items:
            if item.picture is not None:
                _add(archive, item.file_name, item.picture)
            _add(archive, f"{item.name}.json", to_line(sa1b_record(item.row, item.number, item.file_name)))
    job.folder.write(f"{place}{name}.tar", sink.getvalue())
    return Written([f"{place}{name}.tar"])


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))
