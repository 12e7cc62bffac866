"""`maskfoundry import`: other tools' masks as a dataset, or as the next round of one."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import Any

import pyarrow as pa

from pipeline.imports.corrections import Held, corrected_row
from pipeline.imports.find import find_labels
from pipeline.imports.identity import HeldImages, Match
from pipeline.imports.labels import ImportedImage
from pipeline.imports.pictures import PictureFinder
from pipeline.imports.rows import Source, failed_row, new_row
from pipeline.labels.notes import Notes, shown
from pipeline.progress import progress_bar
from pipeline.sources.places import RECORDED, absolute_places
from pipeline.store.dropped import Dropped
from pipeline.store.find_rounds import next_import
from pipeline.store.index import publish, read_index
from pipeline.store.lease import discarding, hold_lease
from pipeline.store.own_pictures import PICTURES, own_picture
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder
from stages.decode_image import describe
from stages.record import SCHEMA

IMAGES_PER_PART = 64
MAX_NAMED = 20
DROPPED = "left out: image that was dropped from the dataset"


@dataclass
class ImportSummary:
    """What was read into `output`, as its round `round`. Of `failed` images the first are named with the reason; in a
    new dataset they have a row that says so, in one that exists what it held stays. `corrected` images were in the
    dataset before, `added` ones were not. `notes` counts masks and images that were left out, mended or matched."""

    output: str
    round: int
    images: int = 0
    corrected: int = 0
    added: int = 0
    failed: int = 0
    masks: int = 0
    failures: list[str] = field(default_factory=list)
    notes: Notes = field(default_factory=Notes)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def import_labels(labels: str, output: str, images: str | None, source: Source, quiet: bool = False) -> ImportSummary:
    """Writes the masks in `labels` (`find_labels` says which kinds there are) as a new dataset, or where `output` is
    one as its next round: of the images in it that round holds the labels' masks and no others, and later runs leave
    them alone. Images that were dropped stay out. Run lengths are taken over bit for bit, polygons are drawn as
    pycocotools draws them. An image of another id is one of the dataset's where `HeldImages.match` finds it.

    Pictures of images that are new are looked for in `images`, by default where tools lay them beside their labels.
    Raises ValueError for labels that are none, that name an image twice, or that hold no image.
    """
    found, folder = find_labels(labels), Folder(output)
    held = Held(output) if read_index(folder).published else None
    target = next_import(folder)
    summary = ImportSummary(output, target.number, notes=found.notes)
    places = [images.rstrip("/")] if images is not None else found.places
    finder = PictureFinder(places)
    record: dict[str, Any] = {"round": target.number, "imported": source, "fingerprints": {}, "runs": []}
    record[RECORDED] = list(absolute_places(places))
    with hold_lease(target, "import") as lease:
        with (
            discarding(lease),
            _keeping_pictures(folder),
            progress_bar("importing", found.total or 0, "images", quiet) as update,
        ):
            target.remove_parts()  # of an import that was killed
            target.write_record(record)
            work = _Import(target, finder, source, held, read_index(folder).dropped, summary)
            rows = work.rows(found.images)
            for part, some in enumerate(iter(lambda: list(islice(rows, IMAGES_PER_PART)), [])):
                target.write_part(part, pa.concat_tables(some))
                update(summary.images, f"{summary.masks:,} masks")
            if not summary.images:
                raise ValueError(f"labels: {labels!r} hold no image{_reasons(summary.notes)}; give others")
            counts: dict[str, Any] = {"images": summary.images, "failed": summary.failed, "masks": summary.masks}
            counts |= {"notes": summary.notes.counts}
            target.write_record(record | {"counts": counts})
        publish(folder, target.number)
    return summary


@contextmanager
def _keeping_pictures(folder: Folder) -> Iterator[None]:
    """Of an import that fails the pictures that it brought do not stay either."""
    before = set(folder.names(PICTURES, "", ""))
    try:
        yield
    except BaseException:
        for name in {*folder.names(PICTURES, "", "")} - before:
            folder.remove(name)
        raise


@dataclass
class _Import:
    """One import on its way, image by image."""

    target: Round
    finder: PictureFinder
    source: Source
    held: Held | None
    dropped: Dropped
    summary: ImportSummary
    seen: set[str] = field(default_factory=set)  # ids in the labels
    written: set[str] = field(default_factory=set)  # ids in the dataset

    @cached_property
    def others(self) -> HeldImages | None:
        """What tells the dataset's images apart, where their ids do not."""
        return HeldImages(self.held.newest, self.dropped.ids) if self.held else None

    def rows(self, images: Iterable[ImportedImage]) -> Iterator[pa.Table]:
        """A table of one row an image, but for those that leave the dataset as it is."""
        for image in images:
            if image.image_id in self.seen:
                raise ValueError(f"{image.origin}: image {image.image_id!r} stands in it twice; leave one of them out")
            self.seen.add(image.image_id)
            if (match := self._match(image)) is not None:
                self.summary.notes.add(match.reason, f"{image.image_id} is {match.image_id}")
            known = image if match is None else replace(image, image_id=match.image_id)
            if known.image_id in self.dropped.ids:
                self.summary.notes.add(DROPPED, image.image_id)
                continue
            self.summary.images += 1
            if (row := self._row(known)) is not None:
                yield row

    def _leave_out(self, image: ImportedImage, row: dict[str, Any]) -> None:
        """A picture that was taken down, under another name."""
        if picture := own_picture(self.target.folder, row["uri"]):
            self.target.folder.remove(picture)
        self.summary.notes.add(DROPPED, image.image_id)
        self.summary.images -= 1

    def _match(self, image: ImportedImage) -> Match | None:
        """The image of the dataset that this one is under another id."""
        if self.held is None or self.others is None or image.problem or image.image_id in self.dropped.ids:
            return None
        return None if self.held.row(image.image_id, image.round) else self.others.match(image, self.finder)

    def _row(self, image: ImportedImage) -> pa.Table | None:
        summary, number = self.summary, self.target.number
        notes = Notes()  # of an image that fails nothing counts
        try:
            if image.image_id in self.written:
                raise ValueError("another of the labels' images is this one of the dataset too")
            self.written.add(image.image_id)
            before = self.held.row(image.image_id, image.round) if self.held else None
            if before is None:
                row = new_row(image, self.finder, self.source, self.target, notes)
            else:
                row = corrected_row(image, before, self.source, number, notes)
            if self.dropped.holds(row):
                self._leave_out(image, row)
                return None
            table = pa.Table.from_pylist([row], schema=SCHEMA)
        except Exception as error:  # labels and pictures may be broken in any way: the reason is counted and kept
            summary.failed += 1
            if len(summary.failures) < MAX_NAMED:
                summary.failures.append(f"{shown(image.image_id)}: {shown(describe(error))}")
            failed = failed_row(image, describe(error), number)
            return None if self.held else pa.Table.from_pylist([failed], schema=SCHEMA)
        summary.notes.update(notes)
        summary.corrected += before is not None
        summary.added += self.held is not None and before is None
        summary.masks += len(row["masks"])
        return table


def _reasons(notes: Notes) -> str:
    found = "; ".join(notes.lines())
    return f" that can be used ({found})" if found else ""
