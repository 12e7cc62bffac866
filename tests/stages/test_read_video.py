from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from stages.read_video import VideoFrames, choose_frames
from stages.video_settings import VideoSettings


def picture(index: int, width: int = 64, height: int = 48) -> np.ndarray:
    """A grey level that tells the frame, and a bright top left corner."""
    out = np.full((height, width, 3), 10 + 3 * index, np.uint8)
    out[: height // 4, : width // 4] = 250
    return out


def write_video(path: Path, times: list[int], rotation: int | None = None) -> Path:
    """Frames at `times`, in hundredths of a second."""
    codec = "gif" if path.suffix == ".gif" else "libx264"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=100, options={} if codec == "gif" else {"crf": "4", "g": "10"})
        stream.width, stream.height = 64, 48
        stream.pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
        stream.codec_context.time_base = Fraction(1, 100)
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for index, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(picture(index), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def levels(frames: VideoFrames, order: list[int]) -> list[int]:
    """Which of the written frames came."""
    return [round((float(frames[index][-8:, -8:].mean()) - 10) / 3) for index in order]


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mov", "clip.mkv"])
def test_any_order_gives_the_same_frames(tmp_path: Path, name: str) -> None:
    path = write_video(tmp_path / name, [4 * index for index in range(70)])
    with VideoFrames(str(path), VideoSettings()) as frames:
        assert len(frames) == 70 and (frames.height, frames.width) == (48, 64)
        order = [0, 1, 2, 40, 41, 3, 69, 0, 69, 68, 10]
        assert levels(frames, order) == order
        assert levels(frames, list(range(70))) == list(range(70))
        np.testing.assert_allclose(frames.times[:3], [0.0, 0.04, 0.08], atol=1e-6)
        with pytest.raises(IndexError, match=r"^frame 70 of 70$"):
            frames[70]


def test_a_gif_is_a_video(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.gif", [0, 10, 20, 60])
    with VideoFrames(str(path), VideoSettings()) as frames:
        assert len(frames) == 4
        assert frames[3].shape == (48, 64, 3)
        np.testing.assert_allclose(frames.times, [0.0, 0.1, 0.2, 0.6], atol=1e-6)


def test_a_variable_rate_is_sampled_by_its_time_stamps(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", [0, 10, 20, 30, 100, 110, 200])
    with VideoFrames(str(path), VideoSettings(fps=2.0)) as frames:
        assert levels(frames, list(range(len(frames)))) == [0, 3, 4, 5, 6]
    with VideoFrames(str(path), VideoSettings(fps=2.0, max_frames=2)) as frames:
        assert len(frames) == 2
    assert choose_frames([5.0, 5.5, 6.0], 1.0) == [0, 2]
    assert choose_frames([0.0, 1.0], 24.0) == [0, 1]
    assert choose_frames([3.0], 24.0) == [0]


@pytest.mark.parametrize(("rotation", "corner"), [(90, "bottom left"), (-90, "top right"), (180, "bottom right")])
def test_a_rotation_flag_turns_the_frames(tmp_path: Path, rotation: int, corner: str) -> None:
    path = write_video(tmp_path / "clip.mp4", [0, 4, 8], rotation)
    with VideoFrames(str(path), VideoSettings()) as frames:
        shape = (48, 64) if rotation == 180 else (64, 48)
        assert (frames.height, frames.width) == shape and frames[1].shape == (*shape, 3)
        row = 4 if "top" in corner else shape[0] - 5
        column = 4 if "left" in corner else shape[1] - 5
        assert frames[1][row, column].min() > 200


def test_a_folder_of_pictures_goes_by_their_names(tmp_path: Path) -> None:
    for index in (2, 0, 1):
        cv2.imwrite(str(tmp_path / f"{index:05d}.png"), picture(index))
    (tmp_path / "notes.txt").write_text("no frame")
    with VideoFrames(str(tmp_path), VideoSettings()) as frames:
        assert levels(frames, [0, 1, 2]) == [0, 1, 2]


def test_from_a_bucket(s3_server: Path) -> None:
    (s3_server / "filmed").mkdir()
    write_video(s3_server / "filmed" / "clip.mp4", [4 * index for index in range(12)])
    with VideoFrames("s3://filmed/clip.mp4", VideoSettings()) as frames:
        assert levels(frames, [0, 5, 11, 2]) == [0, 5, 11, 2]


def test_broken_and_too_large_videos_say_why(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", [0, 4])
    with pytest.raises(ValueError, match=r"^64×48 is above video\.max_pixels=1000$"):
        VideoFrames(str(path), VideoSettings(max_pixels=1000))
    (tmp_path / "broken.mp4").write_bytes(path.read_bytes()[:200])
    with pytest.raises(av.error.FFmpegError):
        VideoFrames(str(tmp_path / "broken.mp4"), VideoSettings())
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"^holds no frames$"):
        VideoFrames(str(tmp_path / "empty"), VideoSettings())


def test_the_shared_clips(test_data: Path) -> None:
    for path in sorted((test_data / "video").glob("*.mp4")):
        with VideoFrames(str(path), VideoSettings(fps=2.0)) as frames:
            assert len(frames) > 2
            assert frames[len(frames) - 1].shape == (frames.height, frames.width, 3)
