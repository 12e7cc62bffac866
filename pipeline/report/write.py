"""`maskfoundry report`: read a dataset, write its page."""

import time
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.dataset import Dataset, open_dataset
from pipeline.report.facts import choose_parts, read_facts
from pipeline.report.gallery import read_gallery
from pipeline.report.page import Content, render_page
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder, split_file

PAGE = "report/index.html"
NUM_PICTURES = 24
PICTURE_SECONDS = 60.0
# at the end of a run: the report must cost little next to it, whatever the dataset's size
RUN_IMAGES = 20_000
RUN_PICTURE_SECONDS = 20.0


@dataclass(frozen=True)
class ReportSummary:
    """The page that was written, and the dataset's figures on it."""

    output: str
    bytes: int
    seconds: float
    images: int
    failed: int
    masks: int
    pictures: int
    bad_parts: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def write_report(
    dataset: Dataset,
    output: str | None = None,
    num_pictures: int = NUM_PICTURES,
    max_images: int | None = None,
    picture_seconds: float = PICTURE_SECONDS,
) -> ReportSummary:
    """Write the page to the file `output`, or to `report/index.html` in the dataset, on disk or in a bucket.

    With `max_images` the figures are those of a sample of about so many images. Damaged parts are left out and named on
    the page. Raises StoreError where the page cannot be written.
    """
    started = time.monotonic()
    folder = Folder(dataset.uri)
    parts = choose_parts(dataset, max_images)
    facts = read_facts(dataset, parts)
    whole = [part for part in parts if folder.path(part.name) not in facts.bad_parts]
    pictures = read_gallery(dataset, whole, num_pictures, picture_seconds) if num_pictures else []
    record = Round(folder, dataset.rounds[-1]).read_record() if dataset.rounds else None
    num_parts = len(parts) if max_images is None else len(dataset.parts())
    page = render_page(Content(dataset.uri, dataset.rounds, num_parts, facts, pictures, record or {}))
    target, name = (folder, PAGE) if output is None else split_file(output)
    target.write(name, page)
    return ReportSummary(
        output=f"{target.uri.rstrip('/')}/{name}" if output is None else output,
        bytes=len(page),
        seconds=time.monotonic() - started,
        images=facts.num_images,
        failed=facts.num_failed,
        masks=facts.num_masks,
        pictures=len(pictures),
        bad_parts=facts.bad_parts,
    )


def report_on_run(output: str, round_number: int) -> tuple[str | None, str | None]:
    """After a run: the page's path, or None and the reason; of a large round the page shows a sample."""
    try:
        dataset = open_dataset(output, round_number)
        return write_report(dataset, max_images=RUN_IMAGES, picture_seconds=RUN_PICTURE_SECONDS).output, None
    except Exception as error:  # the run is done and committed, whatever befalls its picture
        return None, " ".join(f"{type(error).__name__}: {error}".split())
