"""`maskfoundry import`: other tools' masks as a dataset, or as the next round of one."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

import pyarrow as pa

from pipeline.imports.corrections import Held, corrected_row
from pipeline.imports.find import Labels, find_labels
from pipeline.imports.labels import ImportedImage
from pipeline.imports.rows import Source, failed_row, new_row
from pipeline.progress import progress_bar
from pipeline.sources.places import RECORDED, absolute_places
from pipeline.store.lease import hold_lease
from pipeline.store.rounds import Round, publish, read_index, round_numbers
from pipeline.store.storage import Folder
from stages.decode_image import describe
from stages.record import SCHEMA

IMAGES_PER_PART = 64
MAX_NAMED = 20


@dataclass
class ImportSummary:
    """What was read into `output`, as its round `round`. Of `failed` images the first are named with the reason; in a
    new dataset they have a row that says so, in one that exists what it held stays. `corrected` images were in the
    dataset before."""

    output: str
    round: int
    images: int = 0
    corrected: int = 0
    failed: int = 0
    masks: int = 0
    failures: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def import_labels(labels: str, output: str, images: str | None, source: Source, quiet: bool = False) -> ImportSummary:
    """Writes the masks in `labels` (`find_labels` says which kinds there are) as a new dataset, or where `output` is
    one as its next round: of the images in it that round holds the labels' masks and no others, and later runs leave
    them alone. Images that were dropped stay out. Run lengths are taken over bit for bit, polygons are drawn as
    pycocotools draws them.

    Pictures of images that are new are looked for in `images`, by default beside the labels and in images/ there.
    Raises ValueError for labels that are none, that name an image twice, or that hold no image.
    """
    found, folder = find_labels(labels), Folder(output)
    held = Held(output) if read_index(folder)["published"] else None
    target = _round(folder)
    summary = ImportSummary(output, target.number)
    places = [images.rstrip("/")] if images is not None else found.places
    record: dict[str, Any] = {"round": target.number, "imported": source, "fingerprints": {}, "runs": []}
    record[RECORDED] = list(absolute_places(places))
    with ExitStack() as stack:
        stack.enter_context(hold_lease(target, "import"))
        _empty(target)
        target.write_record(record)
        rows = _rows(found, places, source, held, target, summary)
        update = stack.enter_context(progress_bar("importing", found.total or 0, "images", quiet))
        try:
            for part, some in enumerate(iter(lambda: list(islice(rows, IMAGES_PER_PART)), [])):
                target.write_part(part, pa.Table.from_pylist(some, schema=SCHEMA))
                update(summary.images, f"{summary.masks:,} masks")
        except ValueError:
            _empty(target)
            folder.remove(f"{target.name}/_run.json")
            raise
        counts = {"images": summary.images, "failed": summary.failed, "masks": summary.masks}
        target.write_record(record | {"counts": counts})
        publish(folder, target.number)
    return summary


def _empty(target: Round) -> None:
    """Of what a killed or failed import left."""
    for part in target.parts():
        target.remove_part(part)


def _round(folder: Folder) -> Round:
    """The next round, or the last one where an import ended before its end."""
    numbers = round_numbers(folder)
    if not numbers:
        return Round(folder, 0)
    newest = Round(folder, numbers[-1])
    record, index = newest.read_record(), read_index(folder)
    unfinished = newest.number not in index["rounds"] and (record is None or "imported" in record)
    return newest if unfinished else Round(folder, newest.number + 1)


def _rows(
    found: Labels, places: list[str], source: Source, held: Held | None, target: Round, summary: ImportSummary
) -> Iterator[dict[str, Any]]:
    seen: set[str] = set()
    dropped = set(read_index(target.folder).get("dropped", []))
    for image in found.images:
        if image.image_id in dropped:
            continue
        if image.image_id in seen:
            raise ValueError(f"{image.origin}: image {image.image_id!r} stands in it twice; leave one of them out")
        seen.add(image.image_id)
        row = _row(image, places, source, held, target, summary)
        summary.images += 1
        if row is not None:
            summary.masks += len(row["masks"])
            yield row


def _row(
    image: ImportedImage, places: list[str], source: Source, held: Held | None, target: Round, summary: ImportSummary
) -> dict[str, Any] | None:
    before = held.row(image.image_id, image.round) if held else None
    try:
        if before is None:
            return new_row(image, places, source, target)
        row = corrected_row(image, before, source, summary.round)
        summary.corrected += 1
        return row
    except Exception as error:  # labels and pictures may be broken in any way: the reason is counted and kept
        summary.failed += 1
        if len(summary.failures) < MAX_NAMED:
            summary.failures.append(f"{image.image_id}: {describe(error)}")
        return None if held else failed_row(image, describe(error), summary.round)
