"""What a refresh changed, image by image: old and new masks matched one to one."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from models.evaluation.overlap import pairwise_iou
from models.masks.matching import match_one_to_one
from stages.record import BROUGHT_SOURCES
from stages.row_masks import RowMask, is_embedded, mask_lists, masks_of

MATCH_IOU = 0.5  # from here on two masks are of the same thing
SAME_IOU = 0.9  # and from here on the same mask
NUM_BINS = 10  # of the matches' IoU, from MATCH_IOU to 1


@dataclass
class Churn:
    """Sums over images, so that churns add up.

    `kept` masks have a partner in the round before at an IoU of at least .9, `changed` ones at .5 or more; `new` and
    `gone` ones have none. `human` masks were carried over, `human_matched` of them lie beside a mask of the model.
    `held_back` images could not be read, or changed under people's masks: readers go on seeing their older row.
    """

    images: int = 0
    new_images: int = 0
    held_back: int = 0
    kept: int = 0
    changed: int = 0
    new: int = 0
    gone: int = 0
    human: int = 0
    human_matched: int = 0
    sum_iou: float = 0.0
    sum_human_iou: float = 0.0
    iou_histogram: list[int] = field(default_factory=lambda: [0] * NUM_BINS)

    def __add__(self, other: "Churn") -> "Churn":
        sums = {name: value + getattr(other, name) for name, value in vars(self).items() if name != "iou_histogram"}
        histogram = [one + two for one, two in zip(self.iou_histogram, other.iou_histogram, strict=True)]
        return Churn(**sums, iou_histogram=histogram)

    @property
    def mean_iou(self) -> float | None:
        """Of the matches; None without any."""
        return self.sum_iou / matched if (matched := self.kept + self.changed) else None

    @property
    def mean_human_iou(self) -> float | None:
        return self.sum_human_iou / self.human_matched if self.human_matched else None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; means instead of sums."""
        plain = {name: value for name, value in vars(self).items() if not name.startswith("sum_")}
        return plain | {"mean_iou": self.mean_iou, "mean_human_iou": self.mean_human_iou}


def carry_over(row: dict[str, Any], before: dict[str, Any] | None) -> tuple[dict[str, Any] | None, Churn]:
    """A refreshed image row with the masks that people made (or that were imported) from the row `before`, which holds
    kept masks only, and its own masks matched with both; None where readers are to go on with `before`.

    Doing it twice is like doing it once.
    """
    _forget(row)
    if before is None:
        return row, Churn(images=1, new_images=1, new=len(_kept(row)))
    brought = [index for index, mask in enumerate(before["masks"]) if mask["source"] in BROUGHT_SOURCES]
    failed = row["status"] == "failed" and before["status"] != "failed"
    changed = row["content_sha256"] != before["content_sha256"]
    if failed or (changed and brought):
        return None, Churn(held_back=1)
    churn = Churn(images=1, human=len(brought))
    _match_previous(row, before, churn, changed)
    _match_people(row, before, brought, churn)
    theirs = masks_of(before)
    row |= mask_lists([*masks_of(row), *(_carried(theirs[index], before, row) for index in brought)], is_embedded(row))
    ids = {mask["mask_id"] for mask in row["masks"]}
    for mask in row["masks"]:
        if mask["parent_id"] not in ids:
            mask["parent_id"] = None
    return row, churn


def _carried(mask: RowMask, before: dict[str, Any], row: dict[str, Any]) -> RowMask:
    """A mask of the row `before` for the refreshed row; its embedding comes along if the same CLIP made both."""
    links = [(one.get("fingerprints") or {}).get("embed") for one in (before, row)]
    same_clip = links[0] is not None and links[0] == links[1]
    return replace(mask, fields=dict(mask.fields), embedding=mask.embedding if same_clip else None)


def _match_previous(row: dict[str, Any], before: dict[str, Any], churn: Churn, changed: bool) -> None:
    ours = _kept(row)
    theirs = [index for index, mask in enumerate(before["masks"]) if mask["source"] not in BROUGHT_SOURCES]
    pairs = [] if changed else _match(row, ours, before, theirs)
    for mine, other, iou in pairs:
        row["masks"][mine] |= {"previous_id": before["masks"][other]["mask_id"], "previous_iou": iou}
        churn.sum_iou += iou
        churn.iou_histogram[min(NUM_BINS - 1, int((iou - MATCH_IOU) / (1 - MATCH_IOU) * NUM_BINS))] += 1
    churn.kept = sum(iou >= SAME_IOU for _, _, iou in pairs)
    churn.changed = len(pairs) - churn.kept
    churn.new, churn.gone = len(ours) - len(pairs), len(theirs) - len(pairs)


def _match_people(row: dict[str, Any], before: dict[str, Any], brought: list[int], churn: Churn) -> None:
    for mine, other, iou in _match(row, _kept(row), before, brought):
        row["masks"][mine] |= {"human_id": before["masks"][other]["mask_id"], "human_iou": iou}
        churn.human_matched += 1
        churn.sum_human_iou += iou


def _match(
    row: dict[str, Any], ours: list[int], before: dict[str, Any], theirs: list[int]
) -> list[tuple[int, int, float]]:
    if not ours or not theirs:
        return []
    rles = [[one["rles"][index] for index in chosen] for one, chosen in ((row, ours), (before, theirs))]
    iou: np.ndarray = pairwise_iou(rles[0], rles[1], row["height"], row["width"])
    return [(ours[one], theirs[two], float(iou[one, two])) for one, two in match_one_to_one(iou, MATCH_IOU)]


def _kept(row: dict[str, Any]) -> list[int]:
    """The model's own kept masks."""
    return [i for i, mask in enumerate(row["masks"]) if mask["keep"] and mask["source"] not in BROUGHT_SOURCES]


def _forget(row: dict[str, Any]) -> None:
    """What an earlier, unfinished carrying-over left."""
    own = [mask for mask in masks_of(row) if mask.fields["source"] not in BROUGHT_SOURCES]
    row |= mask_lists(own, is_embedded(row))
    for mask in row["masks"]:
        mask |= dict.fromkeys(("previous_id", "previous_iou", "human_id", "human_iou"))
