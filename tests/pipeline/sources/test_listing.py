import os
from pathlib import Path

import pytest

from pipeline.sources.listing import list_images


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
