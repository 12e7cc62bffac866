import json
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from models.masks.rle import decode_masks
from pipeline.scenes.clip import Clip
from pipeline.scenes.motion import Motion, Wave
from pipeline.scenes.write_clips import write_clips


def test_a_frame_is_the_same_in_any_order_and_another_seed_is_another_clip() -> None:
    clip = Clip(3, 96, 64)
    frames = list(clip.frames(3))
    again = Clip(3, 96, 64).frame(2)
    assert (again.image == frames[2].image).all() and (again.owners == frames[2].owners).all()
    assert frames[0].image.shape == (64, 96, 3) and frames[0].image.dtype == np.uint8
    assert not (frames[0].image == frames[2].image).all()
    assert not (Clip(4, 96, 64).frame(2).image == again.image).all()


def test_objects_move_cover_each_other_leave_and_come_back() -> None:
    gone_and_back, partly, moved = 0, 0, 0
    for seed in range(12):
        clip = Clip(seed, 96, 96)
        seen = np.stack([frame.visibility for frame in clip.frames(40)])
        assert seen.shape == (40, len(clip.objects)) and seen.min() >= 0.0 and seen.max() <= 1.0
        there = seen > 0
        for column in there.T:
            changes = np.flatnonzero(column[1:] != column[:-1])
            gone_and_back += bool(len(changes) > 1 and column[changes[0]])
        partly += int(((seen > 0.1) & (seen < 0.7)).any(axis=0).sum())
        moved += sum(item.moves for item in clip.objects)
    assert moved >= 24
    assert gone_and_back >= 5
    assert partly >= 12


def test_visibility_is_the_seen_share_of_the_whole_silhouette() -> None:
    clip = Clip(0, 128, 128)
    for frame in clip.frames(6):
        seen = np.bincount(frame.owners.ravel() + 1, minlength=len(clip.objects) + 1)[1:]
        assert ((seen == 0) == (frame.visibility == 0)).all()
    whole = [v for frame in clip.frames(24) for v in frame.visibility.tolist()]
    assert max(whole) > 0.97


def test_a_motion_takes_the_origin_to_its_place_and_scales_around_it() -> None:
    motion = Motion(Wave(10.0, 4.0, 8.0), Wave(20.0, rate=1.0), Wave(np.pi / 2), Wave(np.log(2.0)), Wave(0.0))
    matrix = motion.matrix(2, (3.0, 5.0))  # a quarter of the period: 10 + 4
    np.testing.assert_allclose(matrix @ (3.0, 5.0, 1.0), (14.0, 22.0, 1.0), atol=1e-12)
    np.testing.assert_allclose(matrix @ (4.0, 5.0, 1.0), (14.0, 24.0, 1.0), atol=1e-12)


def test_frames_and_their_annotation_say_what_was_rendered(tmp_path: Path) -> None:
    folder = write_clips(str(tmp_path / "out"), 2, num_frames=4, seed=7, width=96, height=64)
    assert sorted(p.name for p in folder.iterdir()) == [
        "_scenes.json", "clip_00000007", "clip_00000007.json", "clip_00000008", "clip_00000008.json"
    ]  # fmt: skip
    record = json.loads((folder / "clip_00000007.json").read_text())
    clip = Clip(7, 96, 64)
    assert record["video_frame_count"] == len(record["masklet"]) == 4
    assert (record["video_height"], record["video_width"]) == (64, 96)
    for index, frame in enumerate(clip.frames(4)):
        stored = np.asarray(cv2.imread(str(folder / "clip_00000007" / f"{index:05d}.jpg")))[..., ::-1]
        assert np.abs(stored.astype(int) - frame.image).mean() < 8
        rles = record["masklet"][index]
        assert len(rles) == record["masklet_num"] == len(record["masklet_caption"])
        masks = decode_masks([rle["counts"].encode() for rle in rles], 64, 96)
        assert masks.sum(axis=0).max() <= 1
        left_out = (frame.owners >= 0).sum() - masks.sum()
        assert 0 <= left_out < 30 * len(clip.objects)
        there = masks.any(axis=(1, 2))
        assert (there == (np.array(record["masklet_visibility"][index]) > 0)).all()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    write_clips(str(folder), 2, num_frames=4, seed=7, width=96, height=64)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    with pytest.raises(ValueError, match=r"^output \S+ holds scenes with frames 4 instead of 5; choose another folder"):
        write_clips(str(folder), 2, num_frames=5, seed=7, width=96, height=64)


def test_an_mp4_holds_the_same_pictures(tmp_path: Path) -> None:
    folder = write_clips(str(tmp_path / "a"), 1, num_frames=5, seed=1, width=96, height=64, mp4=True, num_workers=2)
    clip = Clip(1, 96, 64)
    with av.open(str(folder / "clip_00000001.mp4")) as container:
        assert container.streams.video[0].average_rate == 24
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(pictures) == 5
    for picture, frame in zip(pictures, clip.frames(5), strict=True):
        assert np.abs(picture.astype(int) - frame.image).mean() < 12
    write_clips(str(tmp_path / "b"), 1, num_frames=5, seed=1, width=96, height=64, mp4=True)
    assert (tmp_path / "b/clip_00000001.mp4").read_bytes() == (folder / "clip_00000001.mp4").read_bytes()


def test_bad_requests_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^frames must be 1 or more, got 0; ask for at least one frame$"):
        write_clips(str(tmp_path / "out"), 1, num_frames=0)
    with pytest.raises(ValueError, match=r"^width and height must be even for mp4, got 65x64; choose even sides$"):
        write_clips(str(tmp_path / "out"), 1, width=65, height=64, mp4=True)
    assert not (tmp_path / "out").exists()
