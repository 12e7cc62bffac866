"""`maskfoundry export`: part by part, several at once, and on from where a killed export stopped."""

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pipeline.dataset import Dataset, Part
from pipeline.export.pictures import picture
from pipeline.export.records import coco_annotations, coco_image, sa1b_record, stem
from pipeline.progress import progress_bar
from pipeline.storage import Folder
from stages.decode_image import describe

Layout = Literal["sa1b", "coco", "webdataset"]
NUM_THREADS = 4
MAX_NAMED = 20


@dataclass
class ExportSummary:
    """What an export wrote, or found written; `missing` pictures could not be read, the first of them named."""

    output: str
    layout: str
    images: int = 0
    masks: int = 0
    missing: int = 0
    missing_names: list[str] = field(default_factory=list)

    def add(self, row: dict[str, Any]) -> None:
        self.images += 1
        self.masks += len(row["masks"])

    def miss(self, row: dict[str, Any], error: Exception) -> None:
        self.missing += 1
        if len(self.missing_names) < MAX_NAMED:
            self.missing_names.append(f"{row['image_id']}: {describe(error)}")

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def export(dataset: Dataset, output: str, layout: Layout, pictures: bool, quiet: bool = False) -> ExportSummary:
    """Writes the dataset's images that did not fail, with the masks that count.

    `sa1b`: one JSON an image, with `pictures` its file beside it. `coco`: annotations.json with compressed run lengths,
    with `pictures` a folder images/. `webdataset`: one tar a part, of JSON (SA-1B's) and picture. Without `pictures`
    records name the images by their URIs. An image whose picture cannot be read is left out and counted.
    All three keep the masks bit for bit. What stands there already is not written again, except annotations.json.
    """
    folder, summary, parts = Folder(output), ExportSummary(output, layout), dataset.parts()
    with progress_bar("exporting", len(parts), "parts", quiet) as update:
        if layout == "coco":
            _write_coco(dataset, parts, folder, pictures, summary, update)
            return summary
        write = _write_sa1b if layout == "sa1b" else _write_webdataset
        with ThreadPoolExecutor(NUM_THREADS) as pool:
            jobs = [pool.submit(write, dataset, part, folder, pictures, output, layout) for part in parts]
            for done, job in enumerate(jobs, start=1):
                one = job.result()
                summary.images += one.images
                summary.masks += one.masks
                summary.missing += one.missing
                summary.missing_names = (summary.missing_names + one.missing_names)[:MAX_NAMED]
                update(done, f"{summary.masks:,} masks")
    return summary


def _write_sa1b(
    dataset: Dataset, part: Part, folder: Folder, pictures: bool, output: str, layout: str
) -> ExportSummary:
    summary = ExportSummary(output, layout)
    for number, row in _annotated(dataset, part):
        name = stem(row["image_id"])
        if not folder.exists(f"{name}.json"):
            try:
                file_name = _save_picture(row, folder, name) if pictures else row["uri"]
            except Exception as error:  # a picture may be gone or broken in any way: it is counted and named
                summary.miss(row, error)
                continue
            # the record comes last: where it stands, its picture does
            folder.write(f"{name}.json", _json(sa1b_record(row, number, file_name)))
        summary.add(row)
    return summary


def _write_webdataset(
    dataset: Dataset, part: Part, folder: Folder, pictures: bool, output: str, layout: str
) -> ExportSummary:
    summary, sink = ExportSummary(output, layout), io.BytesIO()
    name = f"round-{part.round:03d}-part-{part.number:06d}.tar"
    written = folder.exists(name)
    with tarfile.open(fileobj=sink, mode="w") as archive:
        for number, row in _annotated(dataset, part):
            key = stem(row["image_id"])
            try:
                data, ending = picture(row) if pictures and not written else (b"", "")
            except Exception as error:  # as above
                summary.miss(row, error)
                continue
            summary.add(row)
            if not written:
                record = sa1b_record(row, number, f"{key}{ending}" if pictures else row["uri"])
                members = [(f"{key}{ending}", data)] if pictures else []
                for member, content in [*members, (f"{key}.json", _json(record))]:
                    info = tarfile.TarInfo(member)
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
    if summary.images and not written:
        folder.write(name, sink.getvalue())
    return summary


def _write_coco(
    dataset: Dataset,
    parts: list[Part],
    folder: Folder,
    pictures: bool,
    summary: ExportSummary,
    update: Callable[[int, str], None],
) -> None:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    categories = {"segment": 1}
    for done, part in enumerate(parts, start=1):
        for _, row in _annotated(dataset, part):
            try:
                file_name = _save_picture(row, folder, f"images/{stem(row['image_id'])}") if pictures else row["uri"]
            except Exception as error:  # as above
                summary.miss(row, error)
                continue
            number = len(images) + 1
            images.append(coco_image(row, number, file_name.removeprefix("images/")))
            annotations += coco_annotations(row, number, len(annotations) + 1, categories)
            summary.add(row)
        update(done, f"{summary.masks:,} masks")
    content = {
        "info": {"description": f"exported from {dataset.uri}", "version": "1.0"},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for name, number in categories.items()],
    }
    folder.write("annotations.json", _json(content))


def _annotated(dataset: Dataset, part: Part) -> Iterator[tuple[int, dict[str, Any]]]:
    """The part's rows that did not fail, with a number each that no other image of the dataset has."""
    for index, row in enumerate(dataset.read(part).to_pylist()):
        if row["status"] != "failed":
            yield (part.round << 48) + (part.number << 24) + index, row


def _save_picture(row: dict[str, Any], folder: Folder, name: str) -> str:
    data, ending = picture(row)
    if not folder.exists(f"{name}{ending}"):
        folder.write(f"{name}{ending}", data)
    return f"{name}{ending}"


def _json(content: Any) -> bytes:
    return json.dumps(content, ensure_ascii=False).encode()
