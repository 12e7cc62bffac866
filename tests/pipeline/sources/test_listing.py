import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.dataset import open_dataset
from pipeline.export.write import export
from pipeline.sources.listing import list_images
from pipeline.sources.notes import LITTER, MAX_SUFFIXES, OTHER_SUFFIXES, ListingNotes, lines


def test_a_folder_is_listed_recursively_by_relative_id(photos: Path) -> None:
    (photos / "notes.txt").write_text("not an image")
    (photos / "SHOUT.JPG").write_bytes(b"broken, but named as an image")
    listing = list_images(str(photos))
    assert listing["image_id"].to_pylist() == ["0.png", "1.png", "2.png", "3.png", "SHOUT.JPG", "more/4.png"]
    info = (photos / "0.png").stat()
    assert listing["source_etag"][0].as_py() == f"{info.st_size}-{info.st_mtime}"
    assert Path(listing["uri"][5].as_py().removeprefix("file://")) == photos / "more/4.png"


def test_globs_and_single_files(photos: Path) -> None:
    (photos / "odd.dat").write_bytes(b"matched by name, so it is taken")
    assert list_images(f"{photos}/[01].png")["image_id"].to_pylist() == ["0.png", "1.png"]
    assert list_images(f"{photos}/**/4.png")["image_id"].to_pylist() == ["more/4.png"]
    assert list_images(f"{photos}/*.dat")["image_id"].to_pylist() == ["odd.dat"]
    assert list_images(str(photos / "2.png"))["image_id"].to_pylist() == ["2.png"]


def test_awkward_names_survive(tmp_path: Path) -> None:
    names = ["with space.png", "new\nline.png", "日本.png", "a" * 251 + ".png", "per%20cent.png", "hash#1.png"]
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    listing = list_images(str(tmp_path))
    assert sorted(listing["image_id"].to_pylist()) == sorted(names)
    for uri in listing["uri"].to_pylist():
        assert Path(uri.removeprefix("file://")).read_bytes() == b"x"


@pytest.mark.parametrize("where", ["nowhere", "empty"])
def test_no_images_is_one_line(tmp_path: Path, where: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"^input: .*(does not exist|holds no images)"):
        list_images(str(tmp_path / where))
    with pytest.raises(ValueError, match="holds no images"):
        list_images(str(tmp_path / "empty" / "*.png"))


def test_a_list_names_images_by_their_whole_uri_and_takes_each_once(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("uri,split\nphotos/0.png,val\nphotos/7.png,val\n")
    listing = list_images([f"{photos}/[01].png", str(photos), f"{tmp_path}/m.csv"])
    names = ["0.png", "1.png", "2.png", "3.png", "more/4.png", "7.png"]
    assert listing["image_id"].to_pylist() == [f"file://{photos}/{name}" for name in names]
    assert listing["uri"].to_pylist() == listing["image_id"].to_pylist()
    assert list_images([str(photos)]) == list_images(str(photos))


def test_include_and_exclude(photos: Path) -> None:
    def ids(**patterns: list[str]) -> list[str]:
        return list_images(str(photos), **patterns)["image_id"].to_pylist()

    assert ids(include=["[0-2].png"]) == ["0.png", "1.png", "2.png"]
    assert ids(include=["*.png"], exclude=["more/**", "1.*"]) == ["0.png", "2.png", "3.png"]
    assert ids(include=["more/*", "0.png"]) == ["0.png", "more/4.png"]
    with pytest.raises(ValueError, match="no images that include and exclude leave"):
        ids(exclude=["*"])


def test_links_to_files_count_and_links_to_folders_do_not(photos: Path) -> None:
    (photos / "link.png").symlink_to(photos / "0.png")
    (photos / "more" / "loop").symlink_to(photos)
    (photos / "dangling.png").symlink_to(photos / "nothing.png")
    os.mkfifo(photos / "pipe.png")
    assert list_images(str(photos))["image_id"].to_pylist() == [
        *("0.png", "1.png", "2.png", "3.png", "link.png", "more/4.png")
    ]


def test_a_folder_whose_name_looks_like_a_pattern(tmp_path: Path) -> None:
    (tmp_path / "trip [2024]").mkdir()
    (tmp_path / "trip [2024]" / "a.png").write_bytes(b"x")
    assert list_images(f"{tmp_path}/trip [2024]")["image_id"].to_pylist() == ["a.png"]
    assert list_images(f"{tmp_path}/trip [[]2024]/*.png")["image_id"].to_pylist() == ["trip [2024]/a.png"]


def test_credentials_are_refused_without_repeating_them() -> None:
    with pytest.raises(ValueError, match=r"^input: the URI holds credentials") as caught:
        list_images("https://me:hunter2@example.org/photos")
    assert "hunter2" not in str(caught.value)


def test_what_is_seen_and_not_taken_is_counted(tmp_path: Path) -> None:
    """A folder as a phone, a Mac and a Synology leave it."""
    names = ["IMG_1.JPG", "IMG_2.HEIC", "IMG_3.heic", "IMG_4.DNG", "scan.jxl", "notes.txt", "Makefile", "old.zip"]
    litter = [
        "._IMG_1.JPG",
        ".DS_Store",
        "__MACOSX/IMG_1.JPG",
        "@eaDir/IMG_1.JPG/SYNOPHOTO_THUMB_M.jpg",
        "sub/Thumbs.db",
    ]
    for name in names + litter:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(b"x")
    notes = ListingNotes()
    assert list_images(str(tmp_path / "in"), notes=notes)["image_id"].to_pylist() == ["IMG_1.JPG"]
    assert notes.not_taken == {
        LITTER: 5,
        **{".heic": 2, ".dng": 1, ".jxl": 1, ".txt": 1, "no suffix": 1, "compressed archives": 1},
    }
    assert lines(notes.as_dict())[0].startswith(f"seen in the input and not taken: 5 × {LITTER}, 2 × .heic, ")
    (tmp_path / "in" / "IMG_1.JPG").unlink()
    with pytest.raises(ValueError, match=r"holds no images \(.*\); seen in the input and not taken: .*2 × \.heic"):
        list_images(str(tmp_path / "in"))


def test_many_suffixes_do_not_make_many_counts(tmp_path: Path) -> None:
    for index in range(MAX_SUFFIXES + 30):
        (tmp_path / f"a.{index}").write_bytes(b"x")
    for name in ("a.png", "a.\x1b[31m", "a.and so on, which is no suffix"):
        (tmp_path / name).write_bytes(b"x")
    notes = ListingNotes()
    list_images(str(tmp_path), notes=notes)
    assert notes.not_taken.total() == MAX_SUFFIXES + 32 and notes.not_taken[OTHER_SUFFIXES] >= 32
    assert len(notes.not_taken) <= MAX_SUFFIXES + 1 and all(map(str.isprintable, notes.not_taken))


def test_links_that_lead_nowhere_are_counted_and_the_rest_is_listed(photos: Path) -> None:
    (photos / "itself.png").symlink_to(photos / "itself.png")
    (photos / "dangling.png").symlink_to(photos / "nothing.png")
    (photos / "more" / "up").symlink_to(photos)
    (photos / "outside.png").symlink_to(photos.parent / "elsewhere.png")
    (photos.parent / "elsewhere.png").write_bytes((photos / "0.png").read_bytes())
    os.mkfifo(photos / "pipe.png")
    notes = ListingNotes()
    ids = list_images(str(photos), notes=notes)["image_id"].to_pylist()
    assert ids == ["0.png", "1.png", "2.png", "3.png", "more/4.png", "outside.png"]
    assert notes.not_taken == {"links that lead nowhere": 2, "links to folders": 1, "pipes, devices and sockets": 1}


@pytest.mark.parametrize("pattern", ["", "/**/*.png"])
def test_a_dataset_or_export_inside_the_input_is_no_input(photos: Path, make_dataset: Any, pattern: str) -> None:
    uri = make_dataset(photos / "results", {"a.png": np.ones((1, 8, 8), np.uint8)})
    (photos / "results" / "dataset" / "pictures").mkdir()
    (photos / "results" / "dataset" / "pictures" / "x.png").write_bytes(b"x")
    export(open_dataset(uri), str(photos / "export"), "coco", pictures=True, quiet=True)
    assert list(photos.glob("export/images/*.png"))
    notes = ListingNotes()
    ids = list_images(f"{photos}{pattern}", notes=notes)["image_id"].to_pylist()
    taken = ["0.png", "1.png", "2.png", "3.png", "more/4.png"]
    assert sorted(ids) == sorted([*taken, "results/pictures/a.png"])
    assert notes.not_taken["pictures of datasets and exports"] == 2
    # named itself, an export is an input like any other
    assert list_images(str(photos / "export"))["image_id"].to_pylist()


def test_a_bucket_says_what_it_holds_besides(s3_server: Path) -> None:
    for name in ("a.png", "b.HEIC", "._a.png", "out/_dataset.json", "out/pictures/x.png"):
        (s3_server / "phone" / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (s3_server / "phone" / "in" / name).write_bytes(b"{}")
    notes = ListingNotes()
    assert list_images("s3://phone/in", notes=notes)["image_id"].to_pylist() == ["a.png"]
    assert notes.not_taken == {".heic": 1, LITTER: 1, ".json": 1, "pictures of datasets and exports": 1}
