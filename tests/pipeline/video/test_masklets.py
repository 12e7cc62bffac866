"""Query, export, report and verify on masklets whose every mask is known."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.masks.rle import areas, decode_masks, encode_masks
from pipeline.export.records import stem
from pipeline.queries.sql import QueryError
from pipeline.scenes.write_clips import write_clips
from pipeline.sources.places import RECORDED
from pipeline.store.index import publish
from pipeline.store.masklet_round import KIND, MaskletRound
from pipeline.store.storage import Folder
from pipeline.store.verify import verify_dataset
from pipeline.video.export import export_masklets
from pipeline.video.masklets import Masklets, open_masklets
from pipeline.video.report import draw_frame, write_video_report
from stages.masklets import MASKLETS, masklet_table

HEIGHT, WIDTH, NUM_FRAMES = 64, 96, 4


def masklet(video: str, uri: str, number: int, key: int, xs: list[int | None], **changes: Any) -> dict[str, Any]:
    masks = np.zeros((len(xs), HEIGHT, WIDTH), np.uint8)
    for mask, x in zip(masks, xs, strict=True):
        if x is not None:
            mask[10:20, x : x + 10] = 1
    seen = [key + place for place, x in enumerate(xs) if x is not None]
    return {
        "masklet_id": f"{video}/0/{number}", "video_id": video, "uri": uri, "status": "ok", "width": WIDTH,
        "height": HEIGHT, "num_frames": NUM_FRAMES, "frame_times": [0.0, 0.1, 0.2, 0.3], "object_id": number,
        "key_frame": key, "predicted_iou": 0.9 - 0.1 * number, "stability_score": 0.8, "keep": True,
        "first_frame": seen[0], "last_frame": seen[-1], "num_visible": len(seen),
        "frame_indexes": list(range(key, NUM_FRAMES)), "visible": [x is not None for x in xs],
        "areas": [100 * (x is not None) for x in xs], "object_scores": [1.0] * len(xs),
        "stability_scores": [0.8] * len(xs), "rles": encode_masks(masks), "source": "auto", "stage": "automatic",
        "tags": [{"name": "ball", "score": 0.7}] if number == 0 else [], "round": 0, **changes,
    }  # fmt: skip


@pytest.fixture
def masklets(tmp_path: Path) -> Masklets:
    clips = write_clips(str(tmp_path / "clips"), 1, num_frames=NUM_FRAMES, width=WIDTH, height=HEIGHT, mp4=True)
    uri = f"file://{clips}/clip_00000000.mp4"
    rows = [
        masklet("a.mp4", uri, 0, 0, [5, 15, None, 35]),
        masklet("a.mp4", uri, 1, 1, [60, 61, 62]),
        masklet("a.mp4", uri, 2, 0, [5, 15, None, 35], keep=False, drop_reason="duplicate"),
        {
            "video_id": "b.mp4",
            "uri": "file:///b.mp4",
            "status": "failed",
            "error": "decode: ValueError: holds no frames",
        },
    ]
    target = MaskletRound(Folder(str(tmp_path / "out")), 0)
    target.write_part(0, masklet_table(rows))
    record = {"round": 0, "kind": KIND, "fingerprints": {"generate": "g"}, RECORDED: [str(clips)], "runs": []}
    target.write_record(record)
    publish(target.folder, 0)
    found = open_masklets(str(tmp_path / "out"))
    assert found is not None
    return found


def test_a_part_of_an_earlier_version_is_read_as_one_of_this(masklets: Masklets) -> None:
    target = MaskletRound(Folder(masklets.uri), 0)
    rows = target.read_part(0)
    fewer = [("generate", pa.string()), ("filter", pa.string())]
    place = rows.schema.get_field_index("fingerprints")
    marks = pa.array([{"generate": "g", "filter": "f"}] * rows.num_rows, pa.struct(fewer))
    older = rows.set_column(place, "fingerprints", marks).drop_columns(["caption"])
    sink = pa.BufferOutputStream()
    pq.write_table(older, sink)
    other = Folder(f"{masklets.uri}-older")
    other.write("round=000/part-000000.parquet", sink.getvalue().to_pybytes())
    again = MaskletRound(other, 0).read_part(0)
    assert again.schema.equals(MASKLETS) and again.drop_columns(["fingerprints"]).equals(
        rows.drop_columns(["fingerprints"])
    )
    marks = again["fingerprints"][0].as_py()
    assert (marks["generate"], marks["filter"], marks["text"]) == ("g", "f", None)
    target.write_part(0, again)


def test_a_masklet_with_lists_of_unequal_lengths_is_not_written(masklets: Masklets) -> None:
    target = MaskletRound(Folder(masklets.uri), 0)
    before = target.read_part(0)
    rows = before.to_pylist()
    row = next(row for row in rows if row["masklet_id"] is not None)
    row["areas"] = row["areas"][1:]
    with pytest.raises(ValueError, match=f"^masklet_id '{row['masklet_id']}': .* frame_indexes, but .* areas$"):
        target.write_part(0, masklet_table(rows))
    assert target.read_part(0).equals(before)


def test_questions(masklets: Masklets) -> None:
    ids = masklets.query("SELECT masklet_id FROM masklets WHERE num_visible > 2 ORDER BY 1")["masklet_id"]
    assert ids.to_pylist() == ["a.mp4/0/0", "a.mp4/0/1"]
    assert masklets.query("SELECT count(*) AS n FROM masklets", candidates=True)["n"].to_pylist() == [3]
    videos = masklets.query("SELECT video_id, status, num_masklets FROM videos ORDER BY 1").to_pylist()
    assert [tuple(row.values()) for row in videos] == [("a.mp4", "ok", 2), ("b.mp4", "failed", 0)]
    with pytest.raises(QueryError):
        masklets.query("COPY masklets TO '/tmp/x'")
    assert [[row["object_id"] for row in rows] for rows in masklets.videos("predicted_iou > .85")] == [[0]]


def test_sav(masklets: Masklets, tmp_path: Path) -> None:
    summary = export_masklets(masklets, str(tmp_path / "sav"), "sav")
    assert (summary.videos, summary.masklets) == (1, 2)
    record = json.loads((tmp_path / "sav" / f"{stem('a.mp4')}_auto.json").read_text())
    assert record["masklet_num"] == 2 and record["masklet_id"] == [0, 1]
    assert record["masklet_first_appeared_frame"] == [0.0, 1.0]
    assert record["masklet_frame_count"] == [3, 3] and record["masklet_visibility_changes"] == [2, 0]
    assert record["masklet_size_abs"] == [100.0, 100.0]
    assert len(record["masklet"]) == NUM_FRAMES
    pixels = [[int(areas([rle["counts"].encode()])[0]) for rle in frame] for frame in record["masklet"]]
    assert pixels == [[100, 0], [100, 100], [0, 100], [100, 100]]
    rle = record["masklet"][3][1]
    assert rle["size"] == [HEIGHT, WIDTH]
    assert decode_masks([rle["counts"].encode()], HEIGHT, WIDTH)[0, 10:20, 62:72].all()


def test_videos_whose_names_differ_by_their_folder_have_files_of_their_own(masklets: Masklets, tmp_path: Path) -> None:
    names = ["a/b.mp4", "a__b.mp4"]
    rows = [masklet(name, f"file:///{name}", 0, 0, [5, 15, None, 35]) for name in names]
    MaskletRound(Folder(masklets.uri), 0).write_part(0, masklet_table(rows))
    assert export_masklets(masklets, str(tmp_path / "sav"), "sav").videos == 2
    records = [json.loads(path.read_text()) for path in (tmp_path / "sav").iterdir()]
    assert sorted(record["video_id"] for record in records) == names


def test_youtube_vis(masklets: Masklets, tmp_path: Path) -> None:
    export_masklets(masklets, str(tmp_path / "vis"), "youtube-vis", "object_id = 0")
    content = json.loads((tmp_path / "vis" / "annotations.json").read_text())
    assert [video["length"] for video in content["videos"]] == [NUM_FRAMES]
    (found,) = content["annotations"]
    assert content["categories"] == [{"id": 1, "name": "ball"}] and found["category_id"] == 1
    assert found["bboxes"] == [[5, 10, 10, 10], [15, 10, 10, 10], None, [35, 10, 10, 10]]
    assert found["areas"] == [100, 100, None, 100] and found["segmentations"][2] is None


def test_the_report_shows_each_masklet_in_one_colour(masklets: Masklets, tmp_path: Path) -> None:
    summary = write_video_report(masklets, str(tmp_path / "page.html"))
    assert (summary.videos, summary.failed, summary.masklets, summary.strips) == (2, 1, 2, 1)
    page = (tmp_path / "page.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 1 and "holds no frames" in page
    (rows,) = masklets.videos()
    grey = np.full((HEIGHT, WIDTH, 3), 100, np.uint8)
    first, last = draw_frame(grey, rows, 0), draw_frame(grey, rows, 3)
    assert (first[15, 10] == last[15, 40]).all() and (first[15, 10] != 100).any()
    assert (first[15, 65] == 100).all() and (last[15, 67] != last[15, 40]).any()


def test_verify_finds_what_is_wrong(masklets: Masklets) -> None:
    checked = verify_dataset(masklets.uri)
    assert (checked.num_problems, checked.images, checked.failed, checked.masks) == (0, 2, 1, 2)
    target = MaskletRound(Folder(masklets.uri), 0)
    rows = target.read_part(0).to_pylist()
    rows[0]["areas"][1] = 7
    rows[1]["visible"] = [True, True]  # as no version that checks what it writes would have left it
    rows[2]["keep"] = True
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.store.rounds.refuse_unequal_lists", lambda *_: None)
        target.write_part(1, masklet_table(rows))
    problems = verify_dataset(masklets.uri).problems
    assert "round=000: video 'a.mp4' stands in two parts, 0 and 1" in problems
    assert "a.mp4/0/0: frame 1: area 7, its run lengths hold 100" in problems
    unequal = "a.mp4/0/1: its lists have unequal lengths: {'frame_indexes': 3, 'visible': 2, "
    assert any(problem.startswith(unequal) for problem in problems)
    assert "a.mp4/0/2: keep True and drop_reason 'duplicate' disagree" in problems


def test_where_there_is_nothing_there_are_no_masklets(tmp_path: Path) -> None:
    assert open_masklets(str(tmp_path)) is None
