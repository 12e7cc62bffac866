import gzip
import io
import tarfile
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.sources.listing import list_images
from pipeline.sources.notes import COMPRESSED, LITTER, ListingNotes
from stages.read_source import read_source


def png(colour: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (4, 4), colour).save(file, "PNG")
    return file.getvalue()


def archive(path: Path, members: dict[str, bytes]) -> bytes:
    with tarfile.open(path, "w") as file:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path.read_bytes()


def test_an_archive_gives_its_images_in_order(tmp_path: Path) -> None:
    archive(tmp_path / "sa_000.tar", {"./b.png": png(1), "b.json": b"{}", "sub/A.PNG": png(2), "notes.txt": b""})
    notes = ListingNotes()
    listing = list_images(str(tmp_path / "sa_000.tar"), notes=notes)
    assert notes.not_taken == {".json": 1, ".txt": 1}
    assert listing["image_id"].to_pylist() == ["sa_000.tar!b.png", "sa_000.tar!sub/A.PNG"]
    info = (tmp_path / "sa_000.tar").stat()
    for row, colour in zip(listing.to_pylist(), (1, 2), strict=True):
        assert row["uri"] == f"file://{tmp_path}/{row['image_id']}"
        assert row["source_etag"] == f"{info.st_size}-{info.st_mtime}"
        assert read_source(row["uri"], row["offset"], row["size"]) == png(colour)


def test_many_archives_and_repeated_members(tmp_path: Path) -> None:
    for number in range(12):
        archive(tmp_path / f"{number:02d}.tar", {f"{index}.png": png(index) for index in range(number)})
    with tarfile.open(tmp_path / "01.tar", "a") as file:
        info = tarfile.TarInfo("0.png")
        info.size = 3
        file.addfile(info, io.BytesIO(b"new"))
    notes = ListingNotes()
    listing = list_images(f"{tmp_path}/*.tar", notes=notes)
    expected = [f"{number:02d}.tar!{index}.png" for number in range(12) for index in range(number)]
    assert listing["image_id"].to_pylist() == expected
    assert notes.not_taken == {"copies in archives that later ones of the same name replace": 1}
    first = listing.slice(0, 1).to_pylist()[0]
    assert read_source(first["uri"], first["offset"], first["size"]) == b"new"
    assert read_source(first["uri"], None, None) == b"new", "a run and an export read the same copy"
    chosen = list_images(f"{tmp_path}/*.tar", include=["1*.tar!*", "00.tar!*"], exclude=["[1-9]*.png"])
    assert chosen["image_id"].to_pylist() == ["10.tar!0.png", "11.tar!0.png"]


def test_archives_of_any_case_and_compressed_ones(tmp_path: Path) -> None:
    archive(tmp_path / "BIG.TAR", {"a.png": png(1), "._a.png": b"\0\5\x16\7", "__MACOSX/a.png": b"x"})
    (tmp_path / "z.tar.gz").write_bytes(gzip.compress((tmp_path / "BIG.TAR").read_bytes()))
    (tmp_path / "named.tar").write_bytes((tmp_path / "z.tar.gz").read_bytes())
    notes = ListingNotes()
    listing = list_images(f"{tmp_path}/*", notes=notes).to_pylist()
    assert [row["image_id"] for row in listing] == ["BIG.TAR!a.png", "named.tar"]
    assert read_source(listing[0]["uri"], None, None) == png(1)
    assert notes.not_taken == {LITTER: 2, COMPRESSED: 1}
    with pytest.raises(ValueError, match=r"compressed \(gzip\)"):
        read_source(listing[1]["uri"], None, None)
    with pytest.raises(ValueError, match=r"^input: '\S+z\.tar\.gz' is a compressed archive, .*; unpack it, or make a"):
        list_images(f"{tmp_path}/z.tar.gz")


def test_a_folder_named_as_an_archive_or_a_manifest_is_a_folder(tmp_path: Path) -> None:
    for name in ("a.tar", "b.csv", "c.parquet"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_bytes(png(1))
        [row] = list_images(str(tmp_path / name)).to_pylist()
        assert (row["image_id"], read_source(row["uri"], None, None)) == ("x.png", png(1))


PART = st.text("ab.!é Z_", min_size=1, max_size=6).filter(lambda text: text.strip(".") and not text.startswith("._"))
NAMES = st.lists(st.sampled_from(["", "tar!", ".tar!", "x.tar!", "d/"]) | PART, min_size=1, max_size=4).map("".join)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(NAMES.map(lambda name: f"{name.strip('/')}.png"), st.binary(max_size=8), max_size=5))
def test_whatever_is_listed_is_read_by_its_name(contents: dict[str, bytes]) -> None:
    """Names that hold dots, marks of archives and folders, as files and as members of an archive."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "files").mkdir()
        for file, data in contents.items():
            with suppress(FileExistsError, NotADirectoryError, IsADirectoryError):
                (folder / "files" / file).parent.mkdir(parents=True, exist_ok=True)
                (folder / "files" / file).write_bytes(data)
        archive(folder / "t.tar", contents)
        written = {path.relative_to(folder / "files").as_posix() for path in (folder / "files").rglob("*.png")}
        for source, names in ((folder / "files", written), (folder / "t.tar", contents.keys())):
            listing = list_images(str(source)).to_pylist() if names else []
            assert len(listing) == len(names)
            for row in listing:
                data = contents[row["image_id"].removeprefix("t.tar!")]
                assert read_source(row["uri"], row["offset"], row["size"]) == data
                assert read_source(row["uri"], None, None) == data


def test_a_folder_of_archives_says_how_to_name_them(tmp_path: Path) -> None:
    archive(tmp_path / "a.tar", {"a.png": png(0)})
    with pytest.raises(ValueError, match=r"name archives as FOLDER/\*\.tar"):
        list_images(str(tmp_path))


def test_damage_costs_only_what_it_hit(tmp_path: Path) -> None:
    data = archive(tmp_path / "whole.tar", {f"{index}.png": png(index) for index in range(4)})
    cuts = {"data": data[:2600], "header": data[:2200], "border": data[:2048], "other": b"P" * 700, "empty": b""}
    for name, cut in cuts.items():
        (tmp_path / f"{name}.tar").write_bytes(cut)
    (tmp_path / "flip.tar").write_bytes(data[:1030] + b"\xff\xff" + data[1032:])
    listing = list_images(f"{tmp_path}/*.tar").to_pylist()
    ids = {row["image_id"] for row in listing}
    for name in cuts:
        assert f"{name}.tar" in ids, "the damage has a row of its own"
        with pytest.raises(ValueError, match="cut short or damaged"):
            read_source(f"file://{tmp_path}/{name}.tar", None, None)
    assert {f"data.tar!{index}.png" for index in range(2)} <= ids and "flip.tar" in ids
    good = [row for row in listing if row["image_id"].startswith(("whole", "data.tar!0", "flip.tar!0"))]
    for row in good:
        assert read_source(row["uri"], row["offset"], row["size"]) == png(int(row["image_id"][-5]))
