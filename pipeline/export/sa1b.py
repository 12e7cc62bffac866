"""SA-1B's layout: one JSON an image, and the picture beside it."""

from pipeline.export.job import Item, Job, Written
from pipeline.export.records import sa1b_record, to_line


def write_slice(items: list[Item], place: str, name: str, job: Job) -> Written:
    """The images' files; a record comes after its picture, so that where it stands the picture does."""
    written = []
    for item in items:
        written += job.save_picture(item, place)
        record = f"{place}{item.name}.json"
        job.folder.write(record, to_line(sa1b_record(item.row, item.number, item.file_name)))
        written.append(record)
    return Written(written)
