"""Export, correct, import: of a dataset that stores embeddings each mask keeps its own or has none."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from models.masks.rle import encode_masks
from pipeline.dataset import open_dataset
from pipeline.export.write import export
from pipeline.imports.write import import_labels
from pipeline.queries.subset import write_subset
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder
from pipeline.store.verify import verify_dataset
from stages.mask_columns import MaskColumns, UnequalListsError, embedding_hash
from stages.record import SCHEMA, set_columns
from stages.row_masks import masks_of

MakeDataset = Callable[..., str]
NAMES = ("one.png", "two.png")
LINKS = {"fingerprints": {"generate": "g", "embed": "clip"}}


@pytest.fixture
def embedded(tmp_path: Path, make_dataset: MakeDataset, shapes: np.ndarray) -> str:
    """Two images of five masks each; the embedding of a mask is its name, as bytes, and one has none."""
    uri = make_dataset(tmp_path, dict.fromkeys(NAMES, shapes[1:]), **LINKS)
    target = Round(Folder(uri), 0)
    for part in target.parts():
        rows = target.read_part(part)
        masks = MaskColumns.of(rows)
        vectors = [None if name.endswith("/4") else name.encode() for name in masks.field("mask_id").to_pylist()]
        target.write_part(part, set_columns(rows, masks.with_embeddings(vectors, np.array([True])).columns()))
    return uri


def exported(uri: str, out: Path) -> dict[str, Any]:
    export(open_dataset(uri), str(out), "coco", pictures=False, quiet=True)
    content: dict[str, Any] = json.loads((out / "annotations.json").read_text())
    return content


def vectors(row: dict[str, Any]) -> list[bytes | None]:
    return [mask.embedding and mask.embedding.vector for mask in masks_of(row)]


def test_masks_in_another_order_deleted_added_and_changed(embedded: str, tmp_path: Path, shapes: np.ndarray) -> None:
    content = exported(embedded, tmp_path / "out")
    content["images"] = [one for one in content["images"] if one["source_id"] == NAMES[0]]
    own = {one["mask_id"]: one for one in content["annotations"] if one["image_id"] == content["images"][0]["id"]}
    first, _, third, fourth, fifth = own.values()  # the second one is deleted
    changed = shapes[4].copy()
    changed[20:22, 20:22] = 1
    third["segmentation"]["counts"] = encode_masks(changed[None])[0].decode()
    added = {key: value for key, value in first.items() if key != "mask_id"} | {"id": 99}
    content["annotations"] = [fifth, third, added, fourth, first]
    corrected = tmp_path / "corrected.json"
    corrected.write_text(json.dumps(content))
    summary = import_labels(str(corrected), embedded, str(tmp_path / "pictures"), "human", quiet=True)
    assert (summary.round, summary.corrected, summary.failed, summary.masks) == (1, 1, 0, 5)

    rows = {row["image_id"]: row for row in open_dataset(embedded).rows()}
    row = rows["one.png"]
    corrects = json.loads(dict(row["extra"])["corrects"])
    assert corrects == ["one.png/0/4", "one.png/0/2", None, "one.png/0/3", "one.png/0/0"]
    assert vectors(row) == [None, None, None, b"one.png/0/3", b"one.png/0/0"]
    assert row["embedding_hashes"] == [
        None if vector is None else embedding_hash(rle, vector)
        for vector, rle in zip(vectors(row), row["rles"], strict=True)
    ]
    assert (row["fingerprints"]["embed"], row["fingerprints"]["generate"]) == ("clip", None)
    assert vectors(rows["two.png"]) == [*(f"two.png/0/{index}".encode() for index in range(4)), None]

    assert verify_dataset(embedded).problems == []
    assert len(exported(embedded, tmp_path / "again")["annotations"]) == 10
    assert write_subset(open_dataset(embedded).filter("area > 1"), str(tmp_path / "subset"), quiet=True).masks == 9
    _, one = open_dataset(str(tmp_path / "subset")).rows()
    assert vectors(one) == [None, None, None, b"one.png/0/3", b"one.png/0/0"]
    assert verify_dataset(str(tmp_path / "subset")).problems == []


@pytest.mark.parametrize("left_behind", [("mask_embeddings", "embedding_hashes"), ("mask_embeddings",)])
def test_embeddings_that_did_not_move_with_their_masks_are_found(embedded: str, left_behind: tuple[str, ...]) -> None:
    target = Round(Folder(embedded), 0)
    (row,) = target.read_part(1).to_pylist()
    for name in left_behind:
        row[name][0], row[name][3] = row[name][3], row[name][0]
    target.write_part(1, pa.Table.from_pylist([row], schema=SCHEMA))
    problems = verify_dataset(embedded).problems
    assert problems == [f"two.png/0/{index}: its embedding was computed from another mask" for index in (0, 3)]


def test_unequal_lists_are_not_written_and_one_line_where_an_earlier_version_wrote_them(
    embedded: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Round(Folder(embedded), 0)
    (row,) = target.read_part(1).to_pylist()
    row["masks"], row["rles"], row["raw_rles"] = (row[name][1:] for name in ("masks", "rles", "raw_rles"))
    before = target.read_part(1)
    with pytest.raises(UnequalListsError, match=r"^image_id 'two.png': 4 masks, but 5 mask_embeddings$"):
        target.write_part(1, pa.Table.from_pylist([row], schema=SCHEMA))
    with pytest.raises(ValueError, match=r"part-000001.parquet: a part holds the record's columns and no others$"):
        target.write_part(1, before.drop_columns(["phash"]))
    assert target.read_part(1).equals(before)

    monkeypatch.setattr("pipeline.store.rounds.refuse_unequal_lists", lambda *_: None)
    target.write_part(1, pa.Table.from_pylist([row], schema=SCHEMA))
    for dataset in (open_dataset(embedded), open_dataset(embedded, candidates=True)):
        with pytest.raises(ValueError, match=r"5 mask_embeddings; the round is damaged: take it back with `maskf"):
            list(dataset.rows())
    (problem,) = verify_dataset(embedded).problems
    assert problem.startswith("image 'two.png': its lists of masks are not equally long ({'masks': 4, 'rles': 4,")


def test_datasets_without_hashes_are_read_and_trusted(embedded: str) -> None:
    target = Round(Folder(embedded), 0)
    for part in target.parts():
        rows = target.read_part(part)
        target.write_part(part, set_columns(rows, {"embedding_hashes": pa.nulls(1, SCHEMA.field("rles").type)}))
    assert verify_dataset(embedded).problems == []
    one, _ = open_dataset(embedded).filter("mask_index is null and area > 1").rows()
    assert one["mask_embeddings"][0] == b"one.png/0/0" and one["embedding_hashes"] == [None] * 4
