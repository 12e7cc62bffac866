"""`maskfoundry export`: part by part, several at once, and on from where a killed export stopped."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, Literal

from pipeline.dataset import Dataset, Part
from pipeline.export import coco, huggingface, label_studio, panoptic, sa1b, webdataset, yolo
from pipeline.export.assignments import Assignments
from pipeline.export.job import Item, Job, Written
from pipeline.export.pictures import picture
from pipeline.export.records import stem
from pipeline.export.resize import resize_row, smaller_size
from pipeline.export.split import SPLITS, Split
from pipeline.export.state import Counts, State, part_name
from pipeline.progress import progress_bar
from pipeline.queries.query import query
from pipeline.store.storage import Folder
from stages.decode_image import describe

Layout = Literal["sa1b", "coco", "webdataset", "panoptic", "yolo", "huggingface", "label-studio"]
NUM_THREADS = 4
IMAGES_PER_SLICE = 64  # whose pictures are in memory at once, and in one file where a layout has archives


@dataclass
class ExportSummary(Counts):
    """What an export wrote, or found written."""

    output: str = ""
    layout: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class _Layout:
    """`write_slice` puts the images of one split in place and names the files; `finish` writes what belongs to all."""

    write_slice: Callable[[list[Item], str, str, Job], Written]
    finish: Callable[[Job], None] | None = None
    needs_pictures: bool = False
    has_categories: bool = True


LAYOUTS: dict[Layout, _Layout] = {
    "sa1b": _Layout(sa1b.write_slice, has_categories=False),
    "coco": _Layout(coco.write_slice, coco.finish),
    "webdataset": _Layout(webdataset.write_slice, has_categories=False),
    "panoptic": _Layout(panoptic.write_slice, panoptic.finish),
    "yolo": _Layout(yolo.write_slice, yolo.finish, needs_pictures=True),
    "huggingface": _Layout(huggingface.write_slice, huggingface.finish, has_categories=False),
    "label-studio": _Layout(label_studio.write_slice, label_studio.finish),
}


def export(
    dataset: Dataset,
    output: str,
    layout: Layout,
    pictures: bool,
    quiet: bool = False,
    short_side: int | None = None,
    split: tuple[float, float, float] | None = None,
    seed: int = 0,
) -> ExportSummary:
    """Writes the dataset's images that did not fail, with the masks that count, in another tool's layout.

    `pictures` writes the images' files too; without, records name them by their URIs. `short_side` makes images that
    are larger smaller, and their masks with them. `split` are the shares of train, val and test, each a folder of its
    own; near-duplicates stay together, and images stay where they are (`make_split` says what moves one). An image
    whose picture cannot be read is left out and counted. Run again after a kill or a change of the dataset, only what
    is missing or changed is written.

    Raises ValueError for a folder that holds an export with other settings, and RunError for a dataset whose images
    change meanwhile.
    """
    chosen, folder = LAYOUTS[layout], Folder(output)
    if dataset.every_round:
        raise ValueError("export: an image may stand in it once; choose one round, or the newest of each image")
    if not pictures and (short_side or chosen.needs_pictures):
        reason = "--short-side" if short_side else f"--layout {layout}"
        raise ValueError(f"{reason}: the pictures must be written too; add --images")
    places = tuple(f"{name}/" for name in SPLITS) if split else ("",)
    job = Job(folder, dataset.uri, places, _categories(dataset) if chosen.has_categories else {})
    parts = dataset.parts()
    assignments = Assignments(dataset, parts, folder, split, seed) if split else None
    state = State(dataset, parts, folder, job.categories, assignments)
    state.check_settings(
        {
            **{name: getattr(dataset, name) for name in ("uri", "candidates", "predicate")},
            **{"layout": layout, "pictures": pictures, "short_side": short_side},
            **{"split": list(split) if split else None, "seed": seed},
        }
    )
    state.remove_outdated()
    if assignments is not None:
        assignments.save()
    work = _Work(dataset, job, state, chosen, pictures, short_side, assignments.split if assignments else None)
    summary = ExportSummary(output=output, layout=layout)
    with progress_bar("exporting", len(parts), "parts", quiet) as update, ThreadPoolExecutor(NUM_THREADS) as pool:
        for done, counts in enumerate(pool.map(work.export_part, parts), start=1):
            summary.add(counts)
            update(done, f"{summary.masks:,} masks")
    if chosen.finish:
        chosen.finish(job)
    return summary


@dataclass(frozen=True)
class _Work:
    dataset: Dataset
    job: Job
    state: State
    layout: _Layout
    pictures: bool
    short_side: int | None
    split: Split | None

    def export_part(self, part: Part) -> Counts:
        """Writes one part's images, slice by slice, unless they stand there already."""
        if (done := self.state.done(part)) is not None:
            return done
        counts, files = Counts(), []
        rows = _annotated(self.dataset, part)
        for number, some in enumerate(iter(lambda: list(islice(rows, IMAGES_PER_SLICE)), [])):
            by_place: dict[str, list[Item]] = {}
            for image_number, row in some:
                place = f"{self.split.of(row)}/" if self.split else ""
                if (item := self._item(row, image_number, counts)) is not None:
                    by_place.setdefault(place, []).append(item)
            for place, items in by_place.items():
                written = self.layout.write_slice(items, place, f"{part_name(part)}-{number:04d}", self.job)
                files += written.files
                counts.add(Counts(masks=-written.lost_masks, lost_masks=written.lost_masks))
        self.state.finish(part, counts, files)
        return counts

    def _item(self, row: dict[str, Any], number: int, counts: Counts) -> Item | None:
        size = row["height"], row["width"]
        if self.short_side:
            size = smaller_size(*size, self.short_side)
        data, ending = None, ""
        if self.pictures:
            try:
                data, ending = picture(row, self.dataset.picture_places, size)
            except Exception as error:  # a picture may be gone or broken in any way: it is counted and named
                counts.add(Counts(missing=1, missing_names=[f"{row['image_id']}: {describe(error)}"]))
                return None
        num_masks = len(row["masks"])
        if size != (row["height"], row["width"]):
            row = resize_row(row, *size)
        turned = not self.pictures and ((row["decode"] or {}).get("orientation") or 1) != 1
        lost_masks = num_masks - len(row["masks"])
        counts.add(Counts(images=1, masks=len(row["masks"]), lost_masks=lost_masks, turned=int(turned)))
        return Item(number, row, stem(row["image_id"]), data, ending)


def _annotated(dataset: Dataset, part: Part) -> Iterator[tuple[int, dict[str, Any]]]:
    """The part's annotated rows, with a number each that no other image of the dataset has. Raises
    UnreadableError for a damaged part."""
    for index, row in enumerate(dataset.read(part).to_pylist()):
        if row["status"] == "ok":
            yield (part.round << 48) + (part.number << 24) + index, row


def _categories(dataset: Dataset) -> dict[str, int]:
    """The tags of the masks that count, numbered in the order of the alphabet behind `segment`."""
    where = "" if dataset.predicate is None else f" AND ({dataset.predicate}\n)"
    found, _ = query(dataset, f"SELECT DISTINCT tag FROM masks WHERE tag IS NOT NULL{where} ORDER BY tag")
    names = [name for name in found["tag"].to_pylist() if name != label_studio.NO_TAG]
    return {name: number for number, name in enumerate([label_studio.NO_TAG, *names], start=1)}
