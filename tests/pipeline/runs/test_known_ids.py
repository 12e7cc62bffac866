import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.runs.chunks import plan_chunks
from pipeline.runs.known_ids import with_known_ids
from pipeline.sources.listing import list_images
from pipeline.sources.notes import ListingNotes
from pipeline.sources.videos import list_videos
from pipeline.store.masklet_round import MaskletRound
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder
from stages.masklets import MASKLETS
from stages.record import conform


@pytest.fixture
def dataset(photos: Path, tmp_path: Path) -> Folder:
    """Round 0 holds what `input: photos` lists."""
    folder = Folder(str(tmp_path / "out"))
    commit(folder, list_images(str(photos)), 0)
    return folder


def commit(folder: Folder, listing: pa.Table, number: int) -> None:
    status = pa.array(["ok"] * listing.num_rows)
    Round(folder, number).write_part(
        0, conform(listing.select(["image_id", "uri", "source_etag"]).append_column("status", status))
    )


def new_images(folder: Folder, source: str | list[str]) -> tuple[list[str], int]:
    """Ids of what a run would still annotate, and how many images were given the ids that are known."""
    notes = ListingNotes()
    listing = with_known_ids(list_images(source), folder, notes)
    plan = plan_chunks(listing, Round(folder, 0).committed(), 64, retry_failed=False)
    assert plan.redo.num_rows == 0
    return plan.new["image_id"].to_pylist(), notes.known_ids


def test_the_same_files_are_annotated_once_however_they_are_named(
    dataset: Folder, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m.csv").write_text("uri\n" + "".join(f"photos/{index}.png\n" for index in range(4)))
    (tmp_path / "absolute.csv").write_text(f"uri\n{photos}/more/4.png\n")
    monkeypatch.chdir(tmp_path)
    known = {
        str(tmp_path / "photos"): 0,
        "photos/": 0,
        str(photos / "more"): 1,
        str(tmp_path): 5,
        f"{tmp_path}/*/*.png": 4,
        str(photos / "more" / "4.png"): 1,
        "m.csv": 4,
        "absolute.csv": 1,
    }
    for source, count in known.items():
        assert new_images(dataset, source) == ([], count), source


def test_a_list_that_grows_adds_what_is_new(dataset: Folder, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "others").mkdir()
    shutil.copy(photos / "0.png", tmp_path / "others" / "0.png")
    assert new_images(dataset, [str(photos), str(tmp_path / "others")]) == ([f"file://{tmp_path}/others/0.png"], 5)


def test_later_rounds_and_imports_with_plain_paths_count(dataset: Folder, photos: Path, tmp_path: Path) -> None:
    (photos / "new.png").write_bytes(b"x")
    listing = list_images(str(photos / "new.png"))
    plain = listing.set_column(1, "uri", pa.array([str(photos / "new.png")]))
    commit(dataset, plain.set_column(0, "image_id", pa.array(["labelled"])), 1)
    found = with_known_ids(list_images(str(photos)), dataset, ListingNotes())["image_id"].to_pylist()
    assert found == ["0.png", "1.png", "2.png", "3.png", "more/4.png", "labelled"]


def test_an_image_that_the_dataset_holds_twice_keeps_both_ids(dataset: Folder, photos: Path) -> None:
    twice = list_images(str(photos / "more"))
    commit(dataset, twice, 1)
    assert with_known_ids(twice, dataset, ListingNotes()) is twice


def test_two_files_under_one_id_are_refused(dataset: Folder, photos: Path, tmp_path: Path) -> None:
    """The parent folder holds the dataset's 0.png as photos/0.png, and a 0.png of its own."""
    shutil.copy(photos / "1.png", tmp_path / "0.png")
    with pytest.raises(ValueError, match=r"^input: \S+/0\.png and \S+/0\.png would both be .0\.png. in \S+; name"):
        with_known_ids(list_images(str(tmp_path)), dataset, ListingNotes())


def test_videos_too(tmp_path: Path) -> None:
    for name in ("clips/a.mp4", "clips/b.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    listing, folder, notes = list_videos(str(tmp_path / "clips")), Folder(str(tmp_path / "out")), ListingNotes()
    rows = pa.table({"video_id": listing["image_id"], "uri": listing["uri"]})
    MaskletRound(folder, 0).write_part(0, conform(rows, MASKLETS))
    found = with_known_ids(list_videos(str(tmp_path)), folder, notes, "video_id")
    assert (found["image_id"].to_pylist(), notes.known_ids) == (["a.mp4", "b.mp4"], 2)
    assert with_known_ids(listing, folder, ListingNotes()) is listing, "images, where the dataset holds videos"


def test_a_new_dataset_takes_the_listing_as_it_is(photos: Path, tmp_path: Path) -> None:
    listing = list_images(str(photos))
    assert with_known_ids(listing, Folder(str(tmp_path / "none")), ListingNotes()) is listing
