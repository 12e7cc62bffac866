import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.dataset import open_dataset
from pipeline.errors import RunError
from pipeline.export.assignments import FILE
from pipeline.export.split import MAX_BITS, SPLITS, Split, group_hashes, make_split, parse_shares
from pipeline.export.write import export
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder
from stages.record import SCHEMA

MakeDataset = Callable[..., str]
SHARES = (0.6, 0.2, 0.2)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 60))
def test_near_hashes_form_groups_and_others_do_not(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 2**64 - 1, count, np.uint64)
    for _ in range(count):  # neighbours at 1 to 7 bits
        flipped = np.bitwise_or.reduce(np.uint64(1) << rng.choice(64, rng.integers(1, 8), False).astype(np.uint64))
        hashes = np.append(hashes, rng.choice(hashes) ^ flipped)
    hashes = np.unique(hashes)
    near = np.bitwise_count(hashes[:, None] ^ hashes[None]) <= MAX_BITS
    expected = hashes.copy()
    while True:  # the smallest hash that can be reached
        smaller = np.array([expected[row].min() for row in near])
        if np.array_equal(smaller, expected):
            break
        expected = smaller
    assert np.array_equal(group_hashes(hashes), expected)


def _rows(hashes: np.ndarray) -> list[dict[str, Any]]:
    return [{"phash": f"{int(one):016x}", "content_sha256": None, "image_id": str(i)} for i, one in enumerate(hashes)]


def test_a_split_is_a_function_of_seed_and_content() -> None:
    hashes = np.random.default_rng(0).integers(0, 2**64 - 1, 3000, np.uint64)
    rows = _rows(hashes)
    split = make_split(hashes, SHARES, seed=1)
    places = [split.of(row) for row in rows]
    turned, other = make_split(hashes[::-1], SHARES, seed=1), make_split(hashes, SHARES, seed=2)
    assert places == [turned.of(row) for row in rows]
    assert places != [other.of(row) for row in rows]
    for name, share in zip(("train", "val", "test"), SHARES, strict=True):
        assert abs(places.count(name) / len(places) - share) < 0.03
    without = {"phash": None, "content_sha256": "x", "image_id": "a"}
    assert make_split(hashes[:0], SHARES, 0).of(without) == make_split(hashes, SHARES, 0).of(without)
    assert make_split(hashes, (0.0, 0.0, 1.0), 0).of(rows[0]) == "test"
    with pytest.raises(RunError, match="0 changed while the dataset was exported"):
        make_split(hashes[1:], SHARES, 1).of(rows[0])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 8), st.integers(1, 12))
def test_however_a_dataset_grows_and_shrinks_near_duplicates_stay_together(seed: int, steps: int, count: int) -> None:
    """And an image moves only when a newcomer joins its group with one of an earlier split, to which all then go."""
    rng = np.random.default_rng(seed)
    present = rng.integers(0, 2**64 - 1, count, np.uint64)
    split: Split | None = None
    for _ in range(steps):
        flips = [
            np.bitwise_or.reduce(np.uint64(1) << rng.choice(64, rng.integers(1, 8), False).astype(np.uint64))
            for _ in range(count)
        ]  # neighbours at 1 to 7 bits: bridges, chains and strangers
        present = np.unique(np.concatenate([present, rng.choice(present, count) ^ np.array(flips, np.uint64)]))
        present = present[rng.random(len(present)) > 0.1] if len(present) > 2 else present
        before, split = split, make_split(present, SHARES, seed % 5, split)
        near = np.argwhere(np.bitwise_count(present[:, None] ^ present[None]) <= MAX_BITS)
        places = split.places(present)
        assert (places[near[:, 0]] == places[near[:, 1]]).all()
        if before is None:
            continue
        groups = dict(zip(split.hashes.tolist(), group_hashes(split.hashes).tolist(), strict=True))
        was = dict(zip(before.hashes.tolist(), before.assigned.tolist(), strict=True))
        for one, place in was.items():
            members = [was[other] for other in was if groups[other] == groups[one]]
            assert split.places(np.array([one], np.uint64))[0] == min(members) <= place


def test_a_large_bucket_of_equal_bits_is_compared_by_blocks() -> None:
    hashes = np.arange(2500, dtype=np.uint64) << np.uint64(20)
    assert (group_hashes(hashes) == 0).all(), "each is one bit from another that is smaller"


@pytest.mark.parametrize("text", ["80/20", "a/b/c", "0/0/0", "-1/1/1", "1/2/3/4", "nan/1/1", "inf/1/1", ""])
def test_wrong_shares_are_one_line(text: str) -> None:
    with pytest.raises(ValueError, match=r"--split: .* is not train/val/test; write three shares such as 80/10/10"):
        parse_shares(text)


def test_an_export_in_three_parts(tmp_path: Path, make_dataset: MakeDataset, shapes: np.ndarray) -> None:
    assert parse_shares("80/10/10") == pytest.approx((0.8, 0.1, 0.1))
    hashes = {f"{index}.png": {"phash": f"{(index // 2) * 0x1357_9BDF_0246_8ACE % 2**64:016x}"} for index in range(12)}
    uri = make_dataset(tmp_path, {name: shapes[1:3] for name in hashes}, hashes)
    for layout in ("coco", "yolo", "huggingface", "sa1b"):
        out = tmp_path / layout
        summary = export(open_dataset(uri), str(out), layout, True, True, split=SHARES, seed=5)
        assert summary.images == 12
    where: dict[str, str] = {}
    for name in ("train", "val", "test"):
        content = json.loads((tmp_path / "coco" / name / "annotations.json").read_text())
        assert [one["id"] for one in content["images"]] == list(range(1, len(content["images"]) + 1))
        where |= {one["source_id"]: name for one in content["images"]}
        stems = {Path(one["file_name"]).stem for one in content["images"]}
        assert stems == {path.stem for path in (tmp_path / "yolo" / "labels" / name).glob("*.txt")}
        assert stems == {path.stem for path in (tmp_path / "sa1b" / name).glob("*.json")}
        assert stems == {path.stem for path in (tmp_path / "coco" / name / "images").glob("*")}
    assert len(where) == 12 and len(set(where.values())) > 1
    assert all(where[f"{index}.png"] == where[f"{index + 1}.png"] for index in range(0, 12, 2))
    card = (tmp_path / "huggingface" / "README.md").read_text()
    assert all(f"data/{name}-*.parquet" in card for name in set(where.values()))


def _grow(uri: str, hashes: dict[str, int], part: int) -> None:
    """More images in a part of their own, like the first one but for their names and perceptual hashes."""
    target = Round(Folder(uri), 0)
    (row,) = target.read_part(0).slice(0, 1).to_pylist()
    rows = [row | {"image_id": name, "phash": f"{one:016x}"} for name, one in hashes.items()]
    target.write_part(part, pa.Table.from_pylist(rows, schema=SCHEMA))


def _where(out: Path) -> dict[str, str]:
    """The split of each image, by the files that stand there."""
    files = [path for path in out.rglob("*.json") if path.parent.name in SPLITS]
    return {json.loads(path.read_text())["image"]["source_id"]: path.parent.name for path in files}


def _pair(first: str, second: str) -> tuple[int, int]:
    """Two hashes eight bits apart that are drawn into these splits."""
    rng = np.random.default_rng(1)
    for one in rng.integers(0, 2**64 - 1, 10_000, np.uint64):
        both = np.array([one, one ^ np.uint64(0xFF)], np.uint64)
        if [SPLITS[place] for place in make_split(both, SHARES, 0).places(both)] == [first, second]:
            return int(both[0]), int(both[1])
    raise AssertionError("among so many there is one")


def test_a_newcomer_with_a_smaller_hash_follows_its_group(tmp_path: Path, make_dataset: MakeDataset) -> None:
    val, _ = _pair("val", "train")
    uri = make_dataset(tmp_path, {"old.png": np.ones((1, 8, 8), np.uint8)}, {"old.png": {"phash": f"{val:016x}"}})
    out = tmp_path / "out"
    export(open_dataset(uri), str(out), "sa1b", False, True, split=SHARES)
    assert _where(out) == {"old.png": "val"}
    newcomer = next(
        val ^ (1 << bit)
        for bit in range(64)
        if make_split(np.array([val ^ (1 << bit)], np.uint64), SHARES, 0).assigned[0] != 1 and val ^ (1 << bit) < val
    )
    _grow(uri, {"new.png": newcomer}, 5)
    export(open_dataset(uri), str(out), "sa1b", False, True, split=SHARES)
    assert _where(out) == {"old.png": "val", "new.png": "val"}, "alone the newcomer would be drawn elsewhere"


def test_what_joins_two_groups_takes_them_to_the_earlier_split(tmp_path: Path, make_dataset: MakeDataset) -> None:
    """The image that moves is written anew in its new place and is gone from the old one, though its part is done."""
    test, train = _pair("test", "train")
    one = np.ones((1, 8, 8), np.uint8)
    uri = make_dataset(
        tmp_path,
        {"a.png": one, "b.png": one},
        {"a.png": {"phash": f"{test:016x}"}, "b.png": {"phash": f"{train:016x}"}},
    )
    out = tmp_path / "out"
    export(open_dataset(uri), str(out), "sa1b", True, True, split=SHARES)
    assert _where(out) == {"a.png": "test", "b.png": "train"}
    _grow(uri, {"bridge.png": test ^ 0x0F}, 5)
    export(open_dataset(uri), str(out), "sa1b", True, True, split=SHARES)
    assert _where(out) == {"a.png": "train", "b.png": "train", "bridge.png": "train"}
    assert not list((out / "test").glob("*.*"))
    Round(Folder(uri), 0).remove_part(5)  # taken down again: what was trained on stays there
    export(open_dataset(uri), str(out), "sa1b", True, True, split=SHARES)
    assert _where(out) == {"a.png": "train", "b.png": "train"}


def test_a_damaged_file_of_splits_is_no_reason_to_draw_anew(tmp_path: Path, make_dataset: MakeDataset) -> None:
    uri = make_dataset(tmp_path, {"a.png": np.ones((1, 8, 8), np.uint8)}, phash=f"{3:016x}")
    export(open_dataset(uri), str(tmp_path / "out"), "sa1b", False, True, split=SHARES)
    path = tmp_path / "out" / FILE
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"output: .*split\.parquet cannot be read .* export to another folder"):
        export(open_dataset(uri), str(tmp_path / "out"), "sa1b", False, True, split=SHARES)
