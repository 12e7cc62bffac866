from typing import Any

import numpy as np
import pytest

from models.masks.rle import encode_masks
from pipeline.loop.churn import Churn, carry_over

HEIGHT, WIDTH = 20, 30


def box(x: int, y: int, w: int, h: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[y : y + h, x : x + w] = 1
    return mask


def row(masks: list[tuple[str, np.ndarray, dict[str, Any]]], **changes: Any) -> dict[str, Any]:
    rles = encode_masks(np.stack([one for _, one, _ in masks])) if masks else []
    fields = {"source": "auto", "keep": True, "parent_id": None}
    return {
        "height": HEIGHT,
        "width": WIDTH,
        "status": "ok",
        "content_sha256": "a",
        "masks": [{"mask_id": name, **fields, **more} for name, _, more in masks],
        "rles": rles,
        "raw_rles": [None] * len(rles),
        "mask_embeddings": None,
    } | changes


HUMAN = {"source": "human"}


def test_masks_are_matched_one_to_one_and_people_stay() -> None:
    before = row(
        [
            ("same", box(0, 0, 10, 10), {}),
            ("grown", box(0, 10, 10, 8), {}),
            ("lost", box(25, 0, 5, 5), {}),
            ("person", box(0, 0, 10, 9), HUMAN),
            ("alone", box(20, 15, 5, 5), HUMAN | {"parent_id": "lost"}),
        ]
    )
    after = row(
        [
            ("a", box(0, 0, 10, 10), {}),
            ("b", box(0, 10, 10, 10), {}),
            ("c", box(12, 0, 6, 6), {}),
            ("refused", box(25, 0, 5, 5), {"keep": False}),
        ]
    )
    after["mask_embeddings"] = [b"1", b"2", b"3", None]
    carried, churn = carry_over(after, before)
    assert carried is not None
    assert carried["mask_embeddings"] == [b"1", b"2", b"3", None, None, None], "aligned with the masks"
    assert [mask["mask_id"] for mask in carried["masks"]] == ["a", "b", "c", "refused", "person", "alone"]
    assert carried["rles"][4:] == before["rles"][3:] and len(carried["raw_rles"]) == 6
    assert carried["masks"][5]["parent_id"] is None, "its parent is not in the row any more"
    first, second, third = carried["masks"][:3]
    assert (first["previous_id"], first["previous_iou"]) == ("same", 1)
    assert (first["human_id"], first["human_iou"]) == ("person", pytest.approx(0.9))
    assert (second["previous_id"], second["previous_iou"]) == ("grown", pytest.approx(0.8))
    assert third["previous_id"] is None and second["human_id"] is None
    assert (churn.kept, churn.changed, churn.new, churn.gone) == (1, 1, 1, 1)
    assert (churn.human, churn.human_matched, churn.images) == (2, 1, 1)
    assert churn.mean_iou == pytest.approx(0.9) and churn.iou_histogram == [0, 0, 0, 0, 0, 0, 1, 0, 0, 1]

    again, twice = carry_over(carried, before)
    assert again is not None and [one["mask_id"] for one in again["masks"]][3:] == ["refused", "person", "alone"]
    assert twice == churn and again["mask_embeddings"] == carried["mask_embeddings"]


def test_embeddings_of_peoples_masks_come_along_if_the_same_clip_made_them() -> None:
    people = [("one", box(0, 0, 10, 9), HUMAN), ("two", box(20, 15, 5, 5), HUMAN)]
    theirs = {"mask_embeddings": [b"o", b"t"], "embedding_hashes": [b"1", b"2"], "fingerprints": {"embed": "clip"}}
    for link, stored, expected in (("clip", [b"a"], [b"a", b"o", b"t"]), ("other", [b"a"], [b"a", None, None]),
                                   (None, [b"a"], [b"a", None, None]), ("clip", None, None)):  # fmt: skip
        own = {"mask_embeddings": stored, "fingerprints": {"embed": link}}
        carried, _ = carry_over(row([("a", box(0, 0, 10, 10), {})], **own), row(people, **theirs))
        assert carried is not None and carried["mask_embeddings"] == expected
        again, _ = carry_over(carried, row(people, **theirs))
        assert again is not None and again["mask_embeddings"] == expected
    assert carried["embedding_hashes"] is None


def test_images_that_failed_or_changed_under_peoples_masks_are_held_back() -> None:
    before = row([("person", box(0, 0, 9, 9), HUMAN)])
    assert carry_over(row([], status="failed"), before) == (None, Churn(held_back=1))
    assert carry_over(row([], content_sha256="b"), before) == (None, Churn(held_back=1))
    carried, churn = carry_over(
        row([("a", box(0, 0, 9, 9), {})], content_sha256="b"), row([("o", box(0, 0, 9, 9), {})])
    )
    assert carried is not None and (churn.new, churn.gone, churn.kept) == (1, 1, 0), (
        "another picture: nothing is the same"
    )


def test_empty_rows_and_images_that_are_new() -> None:
    carried, churn = carry_over(row([]), row([]))
    assert carried is not None and churn == Churn(images=1) and churn.mean_iou is None
    carried, churn = carry_over(row([("a", box(0, 0, 1, 1), {})]), None)
    assert carried is not None and (churn.new_images, churn.new, churn.gone) == (1, 1, 0)
    assert (churn + churn).new == 2
