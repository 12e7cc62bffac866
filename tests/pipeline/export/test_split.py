import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.dataset import open_dataset
from pipeline.export.split import MAX_BITS, group_hashes, make_split, parse_shares
from pipeline.export.write import export

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


def test_a_split_is_a_function_of_seed_and_content() -> None:
    rng = np.random.default_rng(0)
    hashes = [f"{int(one):016x}" for one in rng.integers(0, 2**64 - 1, 3000, np.uint64)]
    rows = [{"phash": one, "content_sha256": None, "image_id": str(i)} for i, one in enumerate(hashes)]
    split = make_split(hashes, SHARES, seed=1)
    places = [split.of(row) for row in rows]
    turned, other = make_split(hashes[::-1], SHARES, seed=1), make_split(hashes, SHARES, seed=2)
    assert places == [turned.of(row) for row in rows]
    assert places != [other.of(row) for row in rows]
    for name, share in zip(("train", "val", "test"), SHARES, strict=True):
        assert abs(places.count(name) / len(places) - share) < 0.03
    twin = f"{int(hashes[0], 16) ^ 0b1011:016x}"
    more = make_split([*hashes, twin], SHARES, seed=1)
    assert more.of({"phash": twin}) == more.of(rows[0])
    assert sum(more.of(row) != place for row, place in zip(rows, places, strict=True)) <= 1
    without = {"phash": None, "content_sha256": "x", "image_id": "a"}
    assert make_split([], SHARES, 0).of(without) == make_split(hashes, SHARES, 0).of(without)
    assert make_split(hashes, (0.0, 0.0, 1.0), 0).of(rows[0]) == "test"


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
