"""What a report says about a dataset, from a few SELECTs and the record of its newest round."""

import random
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipeline.dataset import Dataset, Part
from pipeline.errors import UnreadableError
from pipeline.queries.query import damaged
from pipeline.queries.sql import parts_room
from pipeline.store.part_files import reading_part
from pipeline.store.storage import Folder
from stages import filter_rules as rules

# The order in which the rules look at a candidate.
_REASONS = (
    rules.PREDICTED_IOU,
    rules.STABILITY_SCORE,
    rules.CONSENSUS,
    rules.CROP_EDGE,
    rules.BOX_NMS,
    rules.CROP_NMS,
    rules.COVER,
    rules.SMALL,
    rules.DUPLICATE,
)
SCORE_STEP = 50  # bins from 0 to 1
DECADE_STEP = 4  # bins from one power of ten to the next
MAX_FAILURES = 30
MAX_TAGS = 20
MAX_SAMPLED_PARTS = 200

# Every count over masks in one scan: what is NULL in a row of the answer is not what the row counts.
_MASKS = f"""
SELECT grouping(reason, iou, stability, decade, source) AS which, keep, reason, iou, stability, decade, source,
    count(*) AS num
FROM (
    SELECT keep, coalesce(drop_reason, 'unknown') AS reason, source,
        CASE WHEN isfinite(predicted_iou) THEN least(greatest(floor(predicted_iou * {SCORE_STEP}), 0), {SCORE_STEP})
            END::INT AS iou,
        CASE WHEN isfinite(stability_score) THEN least(greatest(floor(stability_score * {SCORE_STEP}), 0), {SCORE_STEP})
            END::INT AS stability,
        CASE WHEN area > 0 THEN floor(log10(area) * {DECADE_STEP}) END::INT AS decade
    FROM masks
)
GROUP BY GROUPING SETS ((keep, reason), (keep, iou), (keep, stability), (keep, decade), (keep, source))
"""
_IMAGES = "SELECT status, num_masks, count(*) AS num FROM images GROUP BY ALL ORDER BY num_masks"
_FAILURES = f"""
SELECT coalesce(array_to_string(string_split(error, ': ')[1:2], ': '), 'unknown') AS reason, count(*) AS num,
    min(image_id, 5) AS examples, min(error) AS error
FROM images WHERE status IS NULL OR status NOT IN ('ok', 'skipped') GROUP BY 1 ORDER BY num DESC, 1 LIMIT {MAX_FAILURES}
"""
_TAGS = (
    "SELECT name, count(*) AS num FROM (SELECT unnest(tag_names) AS name FROM {view}) WHERE name IS NOT NULL "
    f"GROUP BY 1 ORDER BY num DESC, 1 LIMIT {MAX_TAGS}"
)


@dataclass(frozen=True)
class Step:
    """One rule of the filter: how many candidates it refused, and how many were left after it."""

    reason: str
    dropped: int
    left: int


@dataclass(frozen=True)
class Failure:
    """A kind of failure, with some of its images and one whole error."""

    reason: str
    num: int
    examples: list[str]
    error: str


@dataclass
class Facts:
    """Counts over the images of `num_parts` parts.

    `masks_per_image` maps a number of masks to images; `predicted_iou` and `stability_score` map a bin's number (bin
    i begins at i / SCORE_STEP) to kept masks, `area` likewise (bin i begins at 10 ** (i / DECADE_STEP) pixels).
    """

    num_parts: int
    num_failed: int = 0
    num_skipped: int = 0
    masks_per_image: dict[int, int] = field(default_factory=dict)
    drop_reasons: dict[str, int] = field(default_factory=dict)
    predicted_iou: dict[int, int] = field(default_factory=dict)
    stability_score: dict[int, int] = field(default_factory=dict)
    area: dict[int, int] = field(default_factory=dict)
    sources: dict[str, int] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    mask_tags: dict[str, int] = field(default_factory=dict)
    image_tags: dict[str, int] = field(default_factory=dict)
    bad_parts: list[str] = field(default_factory=list)

    @property
    def num_ok(self) -> int:
        return sum(self.masks_per_image.values())

    @property
    def num_images(self) -> int:
        return self.num_ok + self.num_failed + self.num_skipped

    @property
    def num_masks(self) -> int:
        return sum(count * images for count, images in self.masks_per_image.items())

    @property
    def num_candidates(self) -> int:
        return self.num_masks + sum(self.drop_reasons.values())

    def funnel(self) -> list[Step]:
        """The rules that refused anything, in the order in which they look; reasons of others' come last."""
        order = {reason: place for place, reason in enumerate(_REASONS)}
        steps, left = [], self.num_candidates
        for reason in sorted(self.drop_reasons, key=lambda one: (order.get(one, len(order)), one)):
            left -= self.drop_reasons[reason]
            steps.append(Step(reason, self.drop_reasons[reason], left))
        return steps


def choose_parts(dataset: Dataset, max_images: int | None) -> list[Part]:
    """All parts, or a random choice (the same each time) that holds about `max_images` images in at most
    MAX_SAMPLED_PARTS parts."""
    parts = dataset.parts()
    if max_images is None:
        return parts
    folder, chosen, num_images = Folder(dataset.uri), [], 0
    for part in random.Random(0).sample(parts, min(len(parts), MAX_SAMPLED_PARTS)):
        if num_images >= max_images:
            break
        chosen.append(part)
        try:
            num_images += reading_part(folder, part.name, lambda file: int(file.metadata.num_rows))
        except UnreadableError:  # damaged, which `read_facts` will tell
            continue
    return sorted(chosen, key=lambda part: (part.round, part.number))


def read_facts(dataset: Dataset, parts: list[Part]) -> Facts:
    """Count what `parts` hold; damaged ones are left out and named in `bad_parts`. Memory does not grow with masks.

    Raises StoreError and UnreadableError where the store fails.
    """
    folder = Folder(dataset.uri)
    names = [part.name for part in parts]
    try:
        return _count(dataset, folder, names)
    except UnreadableError:
        bad = damaged(folder, names)
        if not bad:
            raise
    facts = _count(dataset, folder, [name for name in names if name not in bad])
    facts.bad_parts = [folder.path(name) for name in bad]
    return facts


def _count(dataset: Dataset, folder: Folder, names: list[str]) -> Facts:
    newest = len(dataset.rounds) > 1 and not dataset.every_round
    facts = Facts(len(names))
    room = parts_room(folder, names, newest, candidates=False)
    for row in room.select(_IMAGES).to_pylist():
        if row["status"] == "ok":
            facts.masks_per_image[row["num_masks"]] = row["num"]
        elif row["status"] == "skipped":
            facts.num_skipped += row["num"]
        else:
            facts.num_failed += row["num"]
    if facts.num_failed:
        facts.failures = [Failure(**row) for row in room.select(_FAILURES).to_pylist()]
    facts.mask_tags = _counts(room.select(_TAGS.format(view="masks")))
    facts.image_tags = _counts(room.select(_TAGS.format(view="images")))
    _add_masks(facts, parts_room(folder, names, newest, candidates=True).select(_MASKS).to_pylist())
    return facts


def _counts(answer: pa.Table) -> dict[str, int]:
    return dict(zip(answer["name"].to_pylist(), answer["num"].to_pylist(), strict=True))


def _add_masks(facts: Facts, rows: list[dict[str, Any]]) -> None:
    # `which` has a bit for each column that a row is not grouped by, the first named one the highest
    kept: dict[int, tuple[str, dict[Any, int]]] = {
        0b10111: ("iou", facts.predicted_iou),
        0b11011: ("stability", facts.stability_score),
        0b11101: ("decade", facts.area),
        0b11110: ("source", facts.sources),
    }
    for row in sorted(rows, key=lambda row: -row["num"]):
        if row["which"] == 0b01111:
            if not row["keep"]:
                facts.drop_reasons[row["reason"]] = facts.drop_reasons.get(row["reason"], 0) + row["num"]
        elif row["keep"]:
            column, counts = kept[row["which"]]
            if row[column] is not None:
                counts[row[column]] = row["num"]
