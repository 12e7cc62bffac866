"""Check a dataset against its own promises: every image once, every mask what its record says."""

from dataclasses import dataclass, field

from pycocotools import mask as coco_mask

from models.masks.rle import check_masks
from pipeline.errors import UnreadableError
from pipeline.labels.names import is_own_name
from pipeline.labels.values import MAX_PIXELS
from pipeline.store.find_rounds import open_round, round_numbers
from pipeline.store.index import INDEX, VERSIONS, has_stale_copy, read_index
from pipeline.store.lease import live_leases
from pipeline.store.masklet_round import MaskletRound
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder
from pipeline.store.takedown_proof import dropped_in_round, dropped_pictures
from pipeline.store.tidy import left_overs
from pipeline.video.verify import verify_masklets
from stages.row_masks import masks_of

MAX_PROBLEMS = 20


@dataclass
class Verification:
    """Counts over every round, and what is wrong (the first problems spelled out). Of video, images are videos and
    masks masklets."""

    rounds: int = 0
    images: int = 0
    failed: int = 0
    masks: int = 0
    num_problems: int = 0
    problems: list[str] = field(default_factory=list)

    def report(self, problem: str) -> None:
        self.num_problems += 1
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(problem)


def verify_dataset(uri: str) -> Verification:
    """Decode every mask with pycocotools and compare area and bbox; check ids, alignment and parents.

    Raises ValueError if there is no dataset at `uri`.
    """
    folder = Folder(uri)
    numbers = round_numbers(folder)
    if not numbers:
        raise ValueError(f"dataset: {uri!r} holds no rounds; give the folder that a run wrote")
    result = Verification(rounds=len(numbers))
    if has_stale_copy(folder):
        result.report(f"{INDEX} is older than the index in {VERSIONS}/; the next command that changes it sets it right")
    dropped = read_index(folder).dropped
    for number in numbers:
        target = open_round(folder, number)
        if isinstance(target, MaskletRound):
            videos, failed, masklets = verify_masklets(target, result.report)
            result.images, result.failed = result.images + videos, result.failed + failed
            result.masks += masklets
        else:
            _verify_images(target, result)
        if not live_leases(target):
            for left in left_overs(target):
                result.report(str(left))
        if dropped:
            for problem in dropped_in_round(target, dropped):
                result.report(problem)
    if dropped:
        for problem in dropped_pictures(folder, dropped):
            result.report(problem)
    return result


def _verify_images(target: Round, result: Verification) -> None:
    seen: set[str] = set()
    names: set[str] = set()  # of masks, but for those that no other image's can have
    for part in target.parts():
        try:
            rows = target.read_part(part)
        except UnreadableError as error:
            result.report(str(error))
            continue
        for row in rows.to_pylist():
            if row["image_id"] in seen:
                result.report(f"{target.name}: image {row['image_id']!r} stands in it twice")
            seen.add(row["image_id"])
            _verify_names(row, names, target.name, result)
            _verify_row(row, result)


def _verify_names(row: dict, seen: set[str], where: str, result: Verification) -> None:
    """That no mask of another image has the name of one of these."""
    names = {mask["mask_id"] for mask in row["masks"] or [] if not is_own_name(mask["mask_id"] or "", row["image_id"])}
    for name in sorted(names & seen, key=str):
        result.report(f"{where}: mask_id {name!r} of {row['image_id']!r} is also another image's")
    seen |= names


def _verify_row(row: dict, result: Verification) -> None:
    where = repr(row["image_id"])
    result.images += 1
    result.failed += row["status"] == "failed"
    if row["status"] == "failed" and not row["error"]:
        result.report(f"{where}: failed without a reason")
    masks, rles = row["masks"], row["rles"]
    try:
        values = masks_of(row)
    except ValueError as error:
        result.report(str(error))
        return
    for mask in values:
        if not mask.has_own_embedding:
            result.report(f"{mask.fields['mask_id']}: its embedding was computed from another mask")
    result.masks += sum(mask["keep"] for mask in masks)
    ids = {mask["mask_id"] for mask in masks}
    if len(ids) != len(masks):
        result.report(f"{where}: mask ids repeat")
    for mask, counts in zip(masks, rles, strict=True):
        if (problem := _broken(counts, row)) is not None:
            result.report(f"{mask['mask_id']}: {problem}")
            continue
        rle = {"size": [row["height"], row["width"]], "counts": counts}
        decoded = coco_mask.decode(rle)
        if int(decoded.sum()) != mask["area"]:
            result.report(f"{mask['mask_id']}: area {mask['area']}, its run lengths hold {int(decoded.sum())}")
        if coco_mask.toBbox(rle).astype(int).tolist() != mask["bbox"]:
            result.report(f"{mask['mask_id']}: bbox {mask['bbox']}, its run lengths {coco_mask.toBbox(rle).tolist()}")
        if mask["parent_id"] is not None and mask["parent_id"] not in ids:
            result.report(f"{mask['mask_id']}: parent {mask['parent_id']!r} is not in the row")
        if mask["keep"] != (mask["drop_reason"] is None):
            result.report(f"{mask['mask_id']}: keep {mask['keep']} and drop_reason {mask['drop_reason']!r} disagree")


def _broken(counts: bytes | None, row: dict) -> str | None:
    """Why native code cannot be given a mask's run lengths."""
    height, width = row["height"], row["width"]
    if counts is None or not height or not width or not 0 < height * width <= MAX_PIXELS:
        return f"no run lengths of an image of {width} x {height}"
    try:
        check_masks([counts], height, width)
    except ValueError as error:
        return f"its run lengths are broken: {error}"
    return None
