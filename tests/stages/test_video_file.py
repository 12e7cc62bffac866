from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from stages.read_video import VideoFrames, choose_frames
from stages.video_settings import VideoSettings

B_FRAMES = {"bf": "3", "g": "12", "x264-params": "b-adapt=0:scenecut=0", "crf": "4"}


def write_clip(
    path: Path, codec: str, muxer: str | None = None, options: dict[str, str] | None = None, num_frames: int = 24
) -> Path:
    """Frames 1/24 s apart, each of a level of grey that tells which it is; 176×144, as H.263 has no smaller size."""
    with av.open(str(path), "w", format=muxer) as container:
        stream = container.add_stream(codec, rate=24, options=options or {})
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 176, 144, "yuv420p", 4_000_000
        for index in range(num_frames):
            frame = av.VideoFrame.from_ndarray(level(index), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 24)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def level(index: int) -> np.ndarray:
    """Two digits to the base of sixteen as greys, side by side, far enough apart for a coarse codec."""
    pixels = np.empty((144, 176, 3), np.uint8)
    pixels[:, :88], pixels[:, 88:] = 20 + 13 * (index % 16), 20 + 13 * (index // 16)
    return pixels


def shown(frames: VideoFrames, order: Sequence[int]) -> list[int]:
    """Which of the written frames come."""
    halves = [(frames[index][:, :80].mean(), frames[index][:, 96:].mean()) for index in order]
    return [round((float(low) - 20) / 13) + 16 * round((float(high) - 20) / 13) for low, high in halves]


CLIPS: dict[str, tuple[str, str | None, dict[str, str] | None]] = {
    "h264.mp4": ("libx264", None, B_FRAMES),
    "h264.m4v": ("libx264", "mp4", B_FRAMES),
    "h264.mkv": ("libx264", None, B_FRAMES),
    "h264.avi": ("libx264", None, B_FRAMES),
    "h264.flv": ("libx264", None, B_FRAMES),
    "camera.MTS": ("libx264", "mpegts", B_FRAMES),
    "h264.ts": ("libx264", "mpegts", B_FRAMES),
    "xvid.avi": ("mpeg4", None, {"bf": "2", "g": "12"}),
    "plain.avi": ("mpeg4", None, None),
    "phone.3gp": ("mpeg4", "3gp", None),
    "dvd.mpg": ("mpeg2video", "mpeg", {"bf": "2", "g": "12"}),
    "dvd.vob": ("mpeg2video", "vob", {"bf": "2", "g": "12"}),
    "old.wmv": ("wmv2", "asf", None),
    "vp9.webm": ("libvpx-vp9", None, None),
    "vp8.ogv": ("vp8", "ogg", None),
}


@pytest.mark.parametrize("name", CLIPS)
def test_each_frame_comes_at_its_own_time_in_any_order(tmp_path: Path, name: str) -> None:
    path = write_clip(tmp_path / name, *CLIPS[name])
    with VideoFrames(str(path), VideoSettings()) as frames:
        np.testing.assert_allclose(frames.times, np.arange(24) / 24, atol=1e-3)
        for order in (range(24), [23, 0, 12, 11, 13, 5]):
            assert shown(frames, order) == list(order)


@pytest.mark.parametrize("name", CLIPS)
def test_a_lower_rate_takes_the_frames_of_its_times(tmp_path: Path, name: str) -> None:
    path = write_clip(tmp_path / name, *CLIPS[name])
    with VideoFrames(str(path), VideoSettings(fps=8.0)) as frames:
        np.testing.assert_allclose(frames.times, np.arange(8) / 8, atol=1e-3)
        assert shown(frames, range(8)) == [0, 3, 6, 9, 12, 15, 18, 21]


@pytest.mark.parametrize("name", ["long.mp4", "long.mkv", "long.avi"])
def test_far_frames_of_a_long_clip(tmp_path: Path, name: str) -> None:
    options = B_FRAMES | {"g": "30", "x264-params": "b-adapt=0:open-gop=1:keyint=30:min-keyint=30"}
    path = write_clip(tmp_path / name, "libx264", None, options, num_frames=250)
    order = [249, 0, 150, 149, 151, 29, 28, 30, 31, 89, 90, 88, 240, 180, 119, 118, 117, 121]
    with VideoFrames(str(path), VideoSettings()) as frames:
        assert len(frames) == 250 and shown(frames, order) == order


def test_what_an_edit_list_cuts_off_is_no_frame(tmp_path: Path) -> None:
    """As a cut without encoding leaves it: the packets before the cut are in the file, to be decoded and not shown."""
    long = write_clip(tmp_path / "long.mp4", "libx264", None, B_FRAMES)
    with av.open(str(long)) as source, av.open(str(tmp_path / "cut.mp4"), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        start = int(Fraction(5, 24) / stream.time_base)
        for packet in source.demux(stream):
            if packet.dts is not None:
                packet.pts -= start
                packet.dts -= start
                packet.stream = copy
                target.mux(packet)
    with VideoFrames(str(tmp_path / "cut.mp4"), VideoSettings()) as frames:
        assert len(frames) == 19
        np.testing.assert_allclose(frames.times, np.arange(19) / 24, atol=1e-3)
        assert shown(frames, [0, 18, 7, 1]) == [5, 23, 12, 6]


def test_equal_time_stamps_stay_two_frames(tmp_path: Path) -> None:
    path = tmp_path / "equal.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 176, 144, "yuvj420p"
        for index, stamp in enumerate([0, 40, 40, 80]):
            frame = av.VideoFrame.from_ndarray(level(index), format="rgb24").reformat(format="yuvj420p")
            frame.pts = index
            for packet in stream.encode(frame):
                packet.time_base, packet.pts, packet.dts = Fraction(1, 1000), stamp, None
                container.mux(packet)
    with VideoFrames(str(path), VideoSettings()) as frames:
        assert frames.times == [0.0, 0.04, 0.04, 0.08] and shown(frames, [3, 2, 1, 0]) == [3, 2, 1, 0]


def test_a_clock_that_goes_backward_is_refused(tmp_path: Path) -> None:
    recording = write_clip(tmp_path / "a.ts", "libx264", "mpegts", B_FRAMES).read_bytes()
    (tmp_path / "twice.ts").write_bytes(recording + recording)  # as recorders that begin anew leave it
    with pytest.raises(ValueError, match=r"^the time stamps go backward, so no frame's time is known; encode it anew"):
        VideoFrames(str(tmp_path / "twice.ts"), VideoSettings())


def test_a_gap_of_years_costs_nothing() -> None:
    year = 365 * 86400.0
    assert choose_frames([0.0, 0.04, 200 * year], 24.0) == [0, 1, 2]
    assert choose_frames([0.0, 0.04, 200 * year], 1 / year) == [0, 1, 2]


@pytest.mark.parametrize("fps", [0.5, 7.0, 24.0, 29.97, 1000.0])
def test_chosen_frames_are_those_that_one_sees(fps: float) -> None:
    rng = np.random.default_rng(int(fps))
    times = np.cumsum(rng.integers(1, 300, 60) / 1000)
    ticks = times[0] + np.arange(int((times[-1] - times[0]) * fps + 1e-6) + 1) / fps
    seen = {int(np.flatnonzero(times <= tick + 1e-6)[-1]) for tick in ticks}
    assert choose_frames(times.tolist(), fps) == sorted(seen)


def test_a_playlist_by_a_videos_name_opens_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_clip(tmp_path / "private.mp4", "libx264")
    scripts = {
        "concat.mp4": "ffconcat version 1.0\nfile private.mp4\n",
        "hls.mp4": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9.0,\nprivate.mp4\n#EXT-X-ENDLIST\n",
        "sdp.mp4": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
        "a=rtpmap:96 H264/90000\n",
    }
    for name, text in scripts.items():
        (tmp_path / name).write_text(text)
        with pytest.raises((ValueError, av.error.InvalidDataError), match=r"^is a playlist or of|Invalid data found"):
            VideoFrames(name, VideoSettings())
    with pytest.raises(ValueError, match=r"^is a playlist or of another kind that is not opened; give a video file$"):
        VideoFrames("concat.mp4", VideoSettings())


def test_large_frames_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", "libx264")
    with pytest.raises(ValueError, match=r"^176×144 is above video\.max_pixels=25343$"):
        VideoFrames(str(path), VideoSettings(max_pixels=25343))


def test_only_the_first_frames_are_looked_for(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.avi", "libx264", None, B_FRAMES)
    for settings in (VideoSettings(max_frames=5), VideoSettings(max_frames=5, fps=24.0)):
        with VideoFrames(str(path), settings) as frames:
            assert shown(frames, range(len(frames))) == [0, 1, 2, 3, 4]
            np.testing.assert_allclose(frames.times, np.arange(5) / 24)


def test_a_folder_named_as_a_video_is_a_folder(tmp_path: Path, png: Any) -> None:
    (tmp_path / "clip.mp4").mkdir()
    for index in range(3):
        png(tmp_path / "clip.mp4" / f"{index}.png", level(index))
    with VideoFrames(str(tmp_path / "clip.mp4"), VideoSettings()) as frames:
        assert shown(frames, [2, 0, 1]) == [2, 0, 1]


@pytest.fixture
def png() -> Any:
    from PIL import Image

    return lambda path, pixels: Image.fromarray(pixels).save(path)
