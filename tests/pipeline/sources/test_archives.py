import io
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from pipeline.sources.listing import list_images
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
    listing = list_images(str(tmp_path / "sa_000.tar"))
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
    listing = list_images(f"{tmp_path}/*.tar")
    expected = [f"{number:02d}.tar!{index}.png" for number in range(12) for index in range(number)]
    assert listing["image_id"].to_pylist() == expected
    chosen = list_images(f"{tmp_path}/*.tar", include=["1*.tar!*", "00.tar!*"], exclude=["[1-9]*.png"])
    assert chosen["image_id"].to_pylist() == ["10.tar!0.png", "11.tar!0.png"]


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
