from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.generator.settings import StoreFloor
from models.masks.rle import areas, bounding_boxes, encode_masks
from pipeline.recipes.load_recipe import validate_recipe
from stages.filter_masks import FilterMasks, StoredScores
from stages.filter_settings import FilterSettings
from stages.mask_columns import MaskColumns, embedding_hash
from stages.record import SCHEMA, as_lists, conform, fixed_rows, mask_structs, set_columns

HEIGHT, WIDTH = 120, 160
EVERYTHING = StoredScores(StoreFloor(), min_predicted_iou=0.8)


def rect(x: int, y: int, w: int, h: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[y : y + h, x : x + w] = 1
    return mask


def generated(images: Sequence[Sequence[tuple[np.ndarray, float]]], failed: Sequence[int] = ()) -> pa.Table:
    """What the generate stage hands on: images of (mask, predicted IoU) each; those in `failed` did not decode."""
    dense = [mask for image in images for mask, _ in image]
    rles = encode_masks(np.array(dense, np.uint8).reshape(-1, HEIGHT, WIDTH))
    lengths = [len(image) for image in images]
    masks = mask_structs(
        {
            "mask_id": [f"{index}/0/{number}" for index, image in enumerate(images) for number in range(len(image))],
            "bbox": fixed_rows(bounding_boxes(rles, HEIGHT), pa.int32()),
            "area": areas(rles),
            "predicted_iou": [iou for image in images for _, iou in image],
            "stability_score": np.full(len(rles), 0.97),
            "crop_box": fixed_rows(np.tile([0, 0, WIDTH, HEIGHT], (len(rles), 1)), pa.int32()),
            "source": ["auto"] * len(rles),
        },
        len(rles),
    )
    errors = ["decode: OSError: cut short" if index in failed else None for index in range(len(images))]
    sizes = np.array([index in failed for index in range(len(images))], bool)
    return pa.table(
        {
            "image_id": pa.array([str(index) for index in range(len(images))], pa.string()),
            "width": pa.array(np.full(len(images), WIDTH), pa.int32(), mask=sizes),
            "height": pa.array(np.full(len(images), HEIGHT), pa.int32(), mask=sizes),
            "status": pa.array(["failed" if error else "ok" for error in errors], pa.string()),
            "error": pa.array(errors, pa.string()),
            "masks": as_lists(masks, lengths),
            "rles": as_lists(pa.array(rles, pa.binary()), lengths),
            "raw_rles": as_lists(pa.nulls(len(rles), pa.binary()), lengths),
        }
    )


def filters(preset: str, **overrides: Any) -> FilterSettings:
    return validate_recipe({"input": "in", "output": "out", "preset": preset, "filter": overrides}).filter


def content(table: pa.Table) -> list[dict[str, Any]]:
    """The rows without what differs between two runs."""
    return [{name: row[name] for name in row if name != "filter_seconds"} for row in table.to_pylist()]


def column(table: pa.Table, field: str) -> list[list[Any]]:
    return [[mask[field] for mask in masks] for masks in table["masks"].to_pylist()]


SQUARE = rect(10, 10, 60, 60)
INSIDE = rect(20, 20, 20, 20)
STRAY = rect(80, 10, 40, 40) + rect(150, 110, 3, 3)


def test_columns_of_kept_and_rejected_masks() -> None:
    table = generated([[(SQUARE, 0.95), (INSIDE, 0.9), (STRAY, 0.92), (rect(11, 10, 60, 60), 0.89), (SQUARE, 0.5)]])
    found = FilterMasks(filters("default"), EVERYTHING)(table)
    assert column(found, "keep") == [[True, True, True, False, False]]
    assert column(found, "drop_reason") == [[None, None, None, "box_nms", "predicted_iou"]]
    assert column(found, "parent_id") == [[None, "0/0/0", None, None, None]]
    assert column(found, "mask_id") == [[f"0/0/{number}" for number in range(5)]]
    assert column(found, "source") == [["auto"] * 5]
    assert column(found, "bbox")[0][2] == [80, 10, 40, 40] and column(found, "area")[0] == [3600, 400, 1600, 3600, 3600]
    [rles], [raw_rles] = found["rles"].to_pylist(), found["raw_rles"].to_pylist()
    assert rles[2] == encode_masks(rect(80, 10, 40, 40)[None])[0]
    assert raw_rles == [None, None, encode_masks(STRAY[None])[0], None, None]
    assert found["predicted_iou_floor"].to_pylist() == [pytest.approx(0.8)]
    assert found["status"].to_pylist() == ["ok"] and found["error"].to_pylist() == [None]
    assert found["filter_seconds"].to_pylist()[0] > 0


def test_the_input_is_not_changed() -> None:
    table = generated([[(SQUARE, 0.95), (STRAY, 0.92)]])
    before = table.to_pylist()
    FilterMasks(filters("default"), EVERYTHING)(table)
    assert table.to_pylist() == before


def test_failed_rows_pass_through_and_images_without_candidates_stay_ok() -> None:
    table = generated([[], [(SQUARE, 0.95)], [], [(INSIDE, 0.9)]], failed=[0])
    found = FilterMasks(filters("sa1b"), EVERYTHING)(table)
    assert found["status"].to_pylist() == ["failed", "ok", "ok", "ok"]
    assert found["error"].to_pylist() == ["decode: OSError: cut short", None, None, None]
    assert column(found, "keep") == [[], [True], [], [True]]
    assert found["rles"].to_pylist()[0] == found["raw_rles"].to_pylist()[2] == []
    floors = found["predicted_iou_floor"].to_pylist()
    assert floors[0] is None and floors[1:] == [pytest.approx(0.8)] * 3


def test_images_do_not_meet() -> None:
    table = generated([[(SQUARE, 0.95)], [(SQUARE, 0.99)], [(SQUARE, 0.91), (INSIDE, 0.9)]])
    settings = filters("default")
    together = FilterMasks(settings, EVERYTHING)(table)
    alone = [FilterMasks(settings, EVERYTHING)(table.slice(index, 1)) for index in range(3)]
    assert content(together) == content(pa.concat_tables(alone))
    assert column(together, "parent_id") == [[None], [None], [None, "2/0/0"]]


def test_tables_of_several_chunks() -> None:
    one, two = generated([[(SQUARE, 0.95)], [(INSIDE, 0.9)]]), generated([[], [(STRAY, 0.9)]])
    both = pa.concat_tables([one, two])
    assert both["masks"].num_chunks == 2
    stage = FilterMasks(filters("default"), EVERYTHING)
    assert content(stage(both)) == content(stage(one)) + content(stage(two))


@pytest.mark.parametrize("stored", [None, EVERYTHING, StoredScores(None, 0.88)])
def test_batches_of_no_rows(stored: StoredScores | None) -> None:
    table = generated([[(SQUARE, 0.95)]])
    stage = FilterMasks(filters("default"), stored)
    for none in (table.slice(0, 0), table.schema.empty_table(), generated([])):
        found = stage(none)
        assert found.num_rows == 0 and found.schema.equals(stage(table).schema)
        assert conform(found).schema.equals(SCHEMA)


def test_types_are_the_records() -> None:
    found = FilterMasks(filters("default"), EVERYTHING)(generated([[(SQUARE, 0.95), (STRAY, 0.5)], []], failed=[1]))
    for name in found.column_names:
        if name in SCHEMA.names:
            assert found.schema.field(name).type == SCHEMA.field(name).type, name
    assert conform(found).schema.equals(SCHEMA)
    assert conform(found)["masks"].to_pylist() == found["masks"].to_pylist()


def test_embeddings_stay_with_their_masks_and_go_when_clean_up_changes_one() -> None:
    """A replay over rows in which a person's mask stands between the model's."""
    table = generated([[(STRAY, 0.92), (INSIDE, 0.95), (SQUARE, 0.9)], [(SQUARE, 0.9)]])
    sources = pa.array(["auto", "human", "auto", "auto"])
    masks = MaskColumns.of(FilterMasks(filters("sam_amg"), EVERYTHING)(table)).with_fields({"source": sources})
    masks = masks.with_embeddings([b"stray", b"inside", b"square", None], np.array([True, False]))
    replayed = FilterMasks(filters("default"), stored=None)(set_columns(table, masks.columns()))
    assert column(replayed, "mask_id") == [["0/0/0", "0/0/2", "0/0/1"], ["1/0/0"]], "people's masks come last"
    assert replayed["mask_embeddings"].to_pylist() == [[None, b"square", b"inside"], None]
    hashes = map(embedding_hash, encode_masks(np.array([SQUARE, INSIDE])), (b"square", b"inside"))
    assert replayed["embedding_hashes"].to_pylist() == [[None, *hashes], None]
    again = FilterMasks(filters("default"), stored=None)(replayed)
    assert content(again) == content(replayed)


# --- what is stored

MANY = [(rect(10 + x, 10 + y, 12, 12), 0.81 + 0.005 * (x + y) / 14) for x, y in product(range(0, 140, 14), (0, 14))]


def test_no_rejected_candidates_are_stored_without_a_floor() -> None:
    table = generated([[(SQUARE, 0.5), (INSIDE, 0.95), (SQUARE, 0.9), (SQUARE, 0.89)], [(SQUARE, 0.1)]])
    found = FilterMasks(filters("default"), StoredScores(None, 0.88))(table)
    assert column(found, "mask_id") == [["0/0/1", "0/0/2"], []]
    assert column(found, "parent_id") == [["0/0/2", None], []]
    assert [len(one) for one in found["rles"].to_pylist()] == [len(one) for one in found["raw_rles"].to_pylist()]
    assert found["rles"].to_pylist()[0] == encode_masks(np.array([INSIDE, SQUARE]))
    assert found["predicted_iou_floor"].to_pylist() == [None, None]


def test_the_best_rejected_candidates_are_stored_and_the_floor_says_what_is_not() -> None:
    scores = np.array([iou for _, iou in MANY], np.float32)
    table = generated([[*MANY, (STRAY, 0.95)]])
    stage = FilterMasks(filters("default"), StoredScores(StoreFloor(max_candidates=7), 0.8))
    found = stage(table)
    best = sorted(range(len(MANY)), key=lambda index: (-scores[index], index))
    stored = [*sorted(best[:7]), len(MANY)]
    assert column(found, "mask_id") == [[f"0/0/{number}" for number in stored]]
    assert column(found, "keep") == [[False] * 7 + [True]]
    [floor] = found["predicted_iou_floor"].to_pylist()
    assert floor == scores[best[7]]
    above = np.flatnonzero(scores > floor)
    assert set(above) <= set(stored), "every candidate above the floor is stored"
    assert found["raw_rles"].to_pylist()[0][:7] == [None] * 7 and found["raw_rles"].to_pylist()[0][7] is not None


@pytest.mark.parametrize(("max_candidates", "cut"), [(len(MANY), False), (len(MANY) - 1, True), (0, True)])
def test_the_cap_is_of_rejected_candidates(max_candidates: int, cut: bool) -> None:
    table = generated([[*MANY, (SQUARE, 0.95), (INSIDE, 0.9)]])
    stored = StoredScores(StoreFloor(max_candidates=max_candidates), 0.8)
    found = FilterMasks(filters("default"), stored)(table)
    assert sum(column(found, "keep")[0]) == 2 and len(column(found, "keep")[0]) == max_candidates + 2
    [floor] = found["predicted_iou_floor"].to_pylist()
    assert (floor > 0.8001) == cut


def test_a_parent_is_never_left_out() -> None:
    table = generated([[(SQUARE, 0.89), (INSIDE, 0.9), *MANY]])
    found = FilterMasks(filters("default"), StoredScores(StoreFloor(max_candidates=1), 0.8))(table)
    [ids], [parents] = column(found, "mask_id"), column(found, "parent_id")
    assert parents[:2] == [None, "0/0/0"] and set(filter(None, parents)) <= set(ids)


# --- replay


def random_image(seed: int) -> list[tuple[np.ndarray, float]]:
    """Overlapping squares with holes and stray pixels, so that each rule finds something."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(30):
        x, y = random.choice([5, 10, 40, 45, 80], 2)
        side = int(random.choice([8, 30, 33, 60, 75]))
        mask = rect(x, y, side, side)
        if random.random() < 0.5:
            mask[y + 3 : y + 3 + random.integers(1, 14), x + 3 : x + 15] = 0
        if random.random() < 0.5:
            mask[-9:, -random.integers(1, 14) :] = 1
        found.append((mask, float(random.choice([0.81, 0.86, 0.89, 0.92, 0.95]))))
    found.append((np.ones((HEIGHT, WIDTH), np.uint8), 0.97))
    return found


OTHER_SETTINGS = [
    filters("sa1b"),
    filters("sam_amg"),
    filters("default", pred_iou_thresh=0.9),
    filters("default", pred_iou_thresh=0.85, box_nms_thresh=0.3, duplicate_iou=0.5),
    filters("default", min_component_area=20, max_hole_area=60, box_nms_thresh=None),
    filters("sa1b", stability_score_thresh=0.99),
]


@pytest.mark.parametrize("settings", OTHER_SETTINGS)
@pytest.mark.parametrize("first", [filters("default"), filters("default", box_nms_thresh=None, max_hole_area=20)])
def test_a_replay_gives_what_a_fresh_run_gives(first: FilterSettings, settings: FilterSettings) -> None:
    table = generated([random_image(seed) for seed in range(5)])
    stored = FilterMasks(first, EVERYTHING)(table)
    fresh = FilterMasks(settings, EVERYTHING)(table)
    assert content(fresh) != content(stored)
    replayed = FilterMasks(settings, stored=None)(stored)
    assert content(replayed) == content(fresh)
    assert content(FilterMasks(settings, stored=None)(replayed)) == content(replayed)
    back = FilterMasks(first, stored=None)(replayed)
    assert content(back) == content(stored)


def test_random_images_meet_every_rule_but_those_of_crops() -> None:
    table = generated([random_image(seed) for seed in range(5)])
    reasons = set()
    for settings in (filters("default"), *OTHER_SETTINGS):
        for reasons_of_image in column(FilterMasks(settings, EVERYTHING)(table), "drop_reason"):
            reasons.update(reasons_of_image)
    assert reasons == {None, "predicted_iou", "stability_score", "box_nms", "cover", "small", "duplicate"}


def test_a_replay_keeps_the_floor_of_the_run() -> None:
    table = generated([[*MANY, (SQUARE, 0.95)]])
    stored = FilterMasks(filters("default"), StoredScores(StoreFloor(max_candidates=3), 0.8))(table)
    replayed = FilterMasks(filters("default", pred_iou_thresh=0.9), stored=None)(stored)
    assert replayed["predicted_iou_floor"].equals(stored["predicted_iou_floor"])
    assert column(replayed, "mask_id") == column(stored, "mask_id")


def test_a_replay_of_rows_read_back_from_parquet(tmp_path: Path) -> None:
    table = generated([random_image(1), [], random_image(2)], failed=[1])
    stored = conform(FilterMasks(filters("default"), EVERYTHING)(table))
    pq.write_table(stored, tmp_path / "part.parquet")
    stage = FilterMasks(filters("sa1b"), stored=None)
    again = stage(pq.read_table(tmp_path / "part.parquet"))
    assert content(again) == content(stage(stored))
    assert conform(again).equals(conform(stage(stored)))


# --- broken rows


@pytest.mark.parametrize("stored", [None, EVERYTHING])
@pytest.mark.parametrize("rle", [b"", b"\xff\xff", encode_masks(np.ones((1, 9, 9), np.uint8))[0]])
def test_a_broken_mask_fails_its_image_alone(rle: bytes, stored: StoredScores | None) -> None:
    table = generated([[(SQUARE, 0.95)], [(SQUARE, 0.95), (INSIDE, 0.94)], [(INSIDE, 0.95)]])
    rles = table["rles"].to_pylist()
    rles[1][1] = rle
    broken = table.set_column(table.column_names.index("rles"), "rles", pa.array(rles, pa.list_(pa.binary())))
    found = FilterMasks(filters("default"), stored)(broken)
    whole = FilterMasks(filters("default"), stored)(table)
    assert found["status"].to_pylist() == ["ok", "failed", "ok"]
    error = found["error"].to_pylist()[1]
    assert error.startswith("filter: ValueError: rle") and "\n" not in error
    assert [content(found)[index] for index in (0, 2)] == [content(whole)[index] for index in (0, 2)]
    columns = ("masks", "rles", "raw_rles")
    left = [[] for _ in columns] if stored else [broken[column].to_pylist()[1] for column in columns]
    assert [found[column].to_pylist()[1] for column in columns] == left, "a replay loses nothing"
    assert conform(found).schema.equals(SCHEMA)
