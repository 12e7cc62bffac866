from pathlib import Path

import pytest

from pipeline.sources.notes import LITTER, ListingNotes
from pipeline.sources.videos import list_videos


def write(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.mp4", "more/b.MOV", "more/c.gif", "frames/0.jpg", "frames/1.jpg", "notes.txt", "more/deep/0.png"):
        write(tmp_path / "in" / name)
    return tmp_path / "in"


def test_files_and_folders_of_pictures_are_videos(folder: Path) -> None:
    listing = list_videos(str(folder))
    assert listing["image_id"].to_pylist() == ["a.mp4", "frames", "more/b.MOV", "more/c.gif", "more/deep"]
    assert listing["uri"].to_pylist()[1] == f"file://{folder}/frames"
    tags = dict(zip(listing["image_id"].to_pylist(), listing["source_etag"].to_pylist(), strict=True))
    write(folder / "frames" / "2.jpg")
    changed = list_videos(str(folder))["source_etag"].to_pylist()
    assert changed[1] != tags["frames"] and changed[0] == tags["a.mp4"]


def test_globs_single_videos_lists_and_filters(folder: Path) -> None:
    assert list_videos(f"{folder}/**/*.gif")["image_id"].to_pylist() == ["more/c.gif"]
    assert list_videos(f"{folder}/a.mp4")["image_id"].to_pylist() == ["a.mp4"]
    assert list_videos(f"{folder}/frames")["image_id"].to_pylist() == ["frames"]
    both = list_videos([f"{folder}/a.mp4", f"{folder}/frames"])["image_id"].to_pylist()
    assert both == [f"file://{folder}/a.mp4", f"file://{folder}/frames"]
    assert list_videos(str(folder), include=["more/**"], exclude=["**.gif"])["image_id"].to_pylist() == [
        "more/b.MOV",
        "more/deep",
    ]


def test_every_common_suffix_is_taken_and_others_are_counted(tmp_path: Path) -> None:
    taken = [
        "a.MTS",
        "b.mpg",
        "c.wmv",
        "d.3gp",
        "e.ts",
        "f.flv",
        "g.ogv",
        "h.m4v",
        "i.webm",
        "j.m2ts",
        "k.mkv",
        "l.vob",
    ]
    for name in (*taken, "m.rm", "n.srt", "._a.MTS", "frames/0.jpg", "frames/._0.jpg", "__MACOSX/a.mp4"):
        write(tmp_path / name)
    notes = ListingNotes()
    assert list_videos(str(tmp_path), notes=notes)["image_id"].to_pylist() == sorted([*taken, "frames"])
    assert notes.not_taken == {".rm": 1, ".srt": 1, LITTER: 3}


def test_from_a_bucket(s3_server: Path) -> None:
    write(s3_server / "clips" / "x" / "a.mp4")
    write(s3_server / "clips" / "x" / "frames" / "0.jpg")
    assert list_videos("s3://clips/x")["image_id"].to_pylist() == ["a.mp4", "frames"]


def test_nothing_is_one_line(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"^input: '\S+/none' does not exist; give a folder, a glob or a video$"):
        list_videos(f"{folder}/none")
    with pytest.raises(ValueError, match=r"^input: '\S+' holds no videos \(\.mp4, "):
        list_videos(str(folder), include=["z*"])
