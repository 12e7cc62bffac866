"""Frames of a video, read as they are asked for: files that FFmpeg knows, and folders of pictures, of any store."""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import av
import numpy as np

from stages.decode_pixels import DecodeSettings, decode_image
from stages.read_source import open_filesystem, read_source
from stages.retry import retried
from stages.video_settings import VideoSettings

VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".gif")
FRAME_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_CACHED = 4  # frames, for one that is asked for again
_LONGEST_WALK = 64  # frames to decode and pass over, before it is better to seek


class VideoFrames:
    """The chosen frames of one video: `frames[i]` is (H, W, 3) uint8 RGB, upright; `times[i]` its time in seconds.

    Nothing is decoded before it is asked for, and a few frames are held however long the video is. In order is
    cheapest; any other order seeks to the key frame before.
    """

    def __init__(self, uri: str, settings: VideoSettings) -> None:
        """Raises ValueError for a video without frames or with too large ones, and FFmpeg's error for a broken one."""
        source = _File(uri) if uri.lower().endswith(VIDEO_SUFFIXES) else _Folder(uri)
        self._source: _File | _Folder = source
        self._chosen = choose_frames(source.times, settings.fps)[: settings.max_frames]
        self.times = [source.times[index] - source.times[0] for index in self._chosen]
        self._cache: OrderedDict[int, np.ndarray] = OrderedDict()
        with ExitStack() as undo:
            undo.callback(self.close)
            if not self._chosen:
                raise ValueError("holds no frames")
            self.height, self.width = self[0].shape[:2]
            if self.height * self.width > settings.max_pixels:
                raise ValueError(f"{self.width}×{self.height} is above video.max_pixels={settings.max_pixels}")
            undo.pop_all()

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> np.ndarray:
        if not 0 <= index < len(self._chosen):
            raise IndexError(f"frame {index} of {len(self._chosen)}")
        if index not in self._cache:
            self._cache[index] = self._source.read(self._chosen[index])
            if len(self._cache) > _CACHED:
                self._cache.popitem(last=False)
        return self._cache[index]

    def close(self) -> None:
        self._source.close()

    def __enter__(self) -> "VideoFrames":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def choose_frames(times: list[float], fps: float | None) -> list[int]:
    """Of ascending times in seconds the frames that one sees at 0, 1/fps, 2/fps … after the first, each once; all
    without `fps`."""
    if fps is None or len(times) < 2:
        return list(range(len(times)))
    count = int(np.floor((times[-1] - times[0]) * fps + 1e-6)) + 1
    wanted = times[0] + np.arange(count) / fps
    return np.unique(np.searchsorted(times, wanted + 1e-6, side="right") - 1).tolist()


class _File:
    """A video file. Frames go by their time stamps, so a variable rate is what the file says it is."""

    def __init__(self, uri: str) -> None:
        fs, path = open_filesystem(uri)
        self._handle: Any = retried(lambda: fs.open(path, "rb"))
        with ExitStack() as undo:
            undo.callback(self._handle.close)
            self._container: Any = av.open(self._handle)
            if not self._container.streams.video:
                raise ValueError("holds no video stream")
            self._stream = self._container.streams.video[0]
            stamps = {packet.pts for packet in self._container.demux(self._stream) if packet.pts is not None}
            undo.pop_all()
        self._stamps = sorted(stamps)
        self.times = [float(stamp * self._stream.time_base) for stamp in self._stamps]
        self._decoded: Iterator[Any] = iter(())
        self._place: int | None = None  # of the frame that was decoded last

    def read(self, index: int) -> np.ndarray:
        stamp = self._stamps[index]
        if self._place is None or not self._place < index <= self._place + _LONGEST_WALK:
            self._container.seek(stamp, stream=self._stream, backward=True)
            self._decoded = self._container.decode(self._stream)
        self._place = None
        for frame in self._decoded:
            if frame.pts == stamp:
                self._place = index
                return _upright(frame)
        raise ValueError(f"frame {index} at {self.times[index]:.2f} s cannot be decoded")

    def close(self) -> None:
        self._container.close()
        self._handle.close()


def _upright(frame: Any) -> np.ndarray:
    """`rotation` is how far to turn the picture against the clock, in degrees, for a viewer."""
    pixels = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90) % 4))


class _Folder:
    """Pictures in the order of their names, one a frame, 24 a second."""

    def __init__(self, uri: str) -> None:
        fs, path = open_filesystem(uri)
        infos = retried(lambda: fs.ls(path, detail=True))
        self._uris = sorted(
            fs.unstrip_protocol(info["name"]) for info in infos if info["name"].lower().endswith(FRAME_SUFFIXES)
        )
        self.times = [index / 24.0 for index in range(len(self._uris))]

    def read(self, index: int) -> np.ndarray:
        return decode_image(read_source(self._uris[index], None, None), DecodeSettings()).pixels

    def close(self) -> None:
        pass
