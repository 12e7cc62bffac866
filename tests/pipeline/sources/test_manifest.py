from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.sources.listing import list_images
from pipeline.sources.notes import ListingNotes


def parquet(path: Path, **columns: list) -> str:
    pq.write_table(pa.table(columns), path)
    return str(path)


def test_relative_and_absolute_uris(tmp_path: Path) -> None:
    uris = ["a.jpg", "./b/c.jpg", "s3://bucket/key with space.jpg", "/data/x.jpg", f"{tmp_path}/d.jpg", "t.tar!m/1.jpg"]
    listing = list_images(parquet(tmp_path / "m.parquet", uri=uris))
    here = f"file://{tmp_path}/"
    assert listing["uri"].to_pylist() == [
        f"{here}a.jpg",
        f"{here}b/c.jpg",
        uris[2],
        "file:///data/x.jpg",
        f"{here}d.jpg",
        f"{here}t.tar!m/1.jpg",
    ]
    # whichever way a file below the manifest is spelled, it has one id
    assert listing["image_id"].to_pylist() == ["a.jpg", "b/c.jpg", uris[2], "file:///data/x.jpg", "d.jpg", uris[5]]
    assert listing["source_etag"].null_count == len(uris)


def test_other_columns_are_carried_as_text(tmp_path: Path) -> None:
    source = parquet(
        tmp_path / "m.parquet", uri=["b.jpg", "a.jpg"], licence=["CC0", None], year=[1999, 2001], source_etag=["1", "2"]
    )
    listing = list_images(source).to_pylist()
    assert [row["image_id"] for row in listing] == ["b.jpg", "a.jpg"]
    assert dict(listing[0]["extra"]) == {"licence": "CC0", "year": "1999"}
    assert dict(listing[1]["extra"]) == {"licence": None, "year": "2001"}
    assert [row["source_etag"] for row in listing] == ["1", "2"]


def test_rows_of_one_image_are_gathered(tmp_path: Path) -> None:
    """One row a box, as detectors and annotation tools write them."""
    (tmp_path / "m.csv").write_text(
        "uri,boxes,points,label,split\n"
        'b.jpg,"[[5,5,40,40]]",,cat,val\n'
        'a.jpg,"[[1,1,9,9]]",,dog,train\n'
        'b.jpg,"[[50,5,90,30]]",,dog,val\n'
        './b.jpg,,"[[7,8]]",,val\n'
        'b.jpg,"[[50,5,90,30]]",,dog,val\n'  # repeats a row in everything
        "c.jpg,,,,test\n"
    )
    notes = ListingNotes()
    b, a, c = list_images(str(tmp_path / "m.csv"), notes=notes).to_pylist()
    assert (b["image_id"], b["boxes"], b["points"]) == ("b.jpg", [[5, 5, 40, 40], [50, 5, 90, 30]], [[7, 8]])
    assert dict(b["extra"]) == {"label": '["cat", "dog", null]', "split": "val"}
    assert (a["boxes"], dict(a["extra"])) == ([[1, 1, 9, 9]], {"label": "dog", "split": "train"})
    assert (c["boxes"], c["points"], c["prompts_hash"]) == (None, None, None)
    assert (notes.gathered_rows, notes.differing_columns) == (3, {"label"})
    assert len({b["prompts_hash"], a["prompts_hash"], None}) == 3


@pytest.mark.parametrize("rows_at_once", [1, 3, 1000])
def test_gathering_in_pieces_gives_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_at_once: int) -> None:
    monkeypatch.setattr("pipeline.sources.gather.ROWS_AT_ONCE", rows_at_once)
    uris = [f"{index}.jpg" for index in np.random.default_rng(0).integers(0, 20, 70)]
    boxes = [[[float(index), 0.0, 99.0, 99.0]] for index in range(70)]
    listing = list_images(parquet(tmp_path / "m.parquet", uri=uris, boxes=boxes)).to_pylist()
    assert [row["uri"].rpartition("/")[2] for row in listing] == list(dict.fromkeys(uris))
    for row in listing:
        assert [box[0] for box in row["boxes"]] == [index for index in range(70) if uris[index] == row["image_id"]]


def test_csv_says_the_same(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(
        '\ufeffuri,boxes,points,note\n"a,1.jpg","[[0, 0, 5, 6.5]]",,"two\nlines"\n"b.jpg",,"[[1, 2], [3, 4]]",007\n',
        encoding="utf-8",
    )
    first, second = list_images(str(tmp_path / "m.csv")).to_pylist()
    assert (first["image_id"], first["boxes"], first["points"]) == ("a,1.jpg", [[0, 0, 5, 6.5]], None)
    assert (second["image_id"], second["boxes"], second["points"]) == ("b.jpg", None, [[1, 2], [3, 4]])
    assert [dict(row["extra"])["note"] for row in (first, second)] == ["two\nlines", "007"]


def test_prompts_of_a_parquet_manifest(tmp_path: Path) -> None:
    boxes = pa.array([[[1, 2, 3, 4]], [], None], pa.list_(pa.list_(pa.int32(), 4)))
    source = parquet(tmp_path / "m.parquet", uri=["a.jpg", "b.jpg", "c.jpg"], boxes=boxes)
    assert list_images(source)["boxes"].to_pylist() == [[[1, 2, 3, 4]], [], None]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"url": ["a.jpg"]}, r"no column `uri` \(it has url\)"),
        ({"uri": ["a.jpg", "x/../../b.jpg"]}, r"row 2: uri has a step `\.\.`"),
        ({"uri": ["a.jpg", None]}, "row 2: uri is empty"),
        ({"uri": ["ok.jpg", "https://me:secret@host/a.jpg"]}, "row 2: the URI holds credentials"),
        ({"uri": ["https://host/a.jpg?X-Amz-Signature=secret"]}, "row 1: the URI holds credentials"),
        ({"uri": ["a.jpg"], "boxes": [[[1.0, 2.0]]]}, r"column boxes: \[2\] numbers in one, give each 4"),
        ({"uri": ["a.jpg"], "points": ["[[1"]}, "column points: not lists of numbers"),
        ({"uri": ["a.jpg"], "tags": [["x"]]}, "column 'tags' is nested"),
        ({"uri": []}, "holds no images"),
    ],
)
def test_a_mistake_is_one_line_without_secrets(tmp_path: Path, columns: dict, message: str) -> None:
    columns = {name: pa.array(values, pa.string()) if name == "uri" else values for name, values in columns.items()}
    source = parquet(tmp_path / "m.parquet", **columns)
    with pytest.raises(ValueError, match=message) as caught:
        list_images(source)
    assert str(caught.value).startswith("input: ")
    assert "\n" not in str(caught.value) and "secret" not in str(caught.value)


def test_a_manifest_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "m.parquet").write_bytes(b"not parquet")
    (tmp_path / "m.csv").write_text("")
    for name in ("m.parquet", "m.csv", "none.parquet"):
        with pytest.raises(ValueError, match=r"^input: ") as caught:
            list_images(str(tmp_path / name))
        assert name in str(caught.value)
