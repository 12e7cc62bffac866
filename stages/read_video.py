"""Frames of a video, read as they are asked for: files that FFmpeg knows, and folders of pictures, of any store."""

from collections import OrderedDict
from contextlib import ExitStack

import numpy as np

from stages.frame_folder import FrameFolder
from stages.read_source import open_filesystem
from stages.retry import retried
from stages.video_file import VideoFile
from stages.video_settings import VideoSettings

_CACHED = 4  # frames, for one that is asked for again


class VideoFrames:
    """The chosen frames of one video: `frames[i]` is (H, W, 3) uint8 RGB, upright; `times[i]` its time in seconds.

    Nothing is decoded before it is asked for, and a few frames are held however long the video is. In order is
    cheapest; any other order seeks to the key frame before.
    """

    def __init__(self, uri: str, settings: VideoSettings) -> None:
        """Raises ValueError for a video without frames, with too large ones or whose order is not known, and FFmpeg's
        error for a broken one."""
        fs, path = open_filesystem(uri)
        is_folder = retried(lambda: fs.info(path))["type"] == "directory"
        source = FrameFolder(uri, settings) if is_folder else VideoFile(uri, settings)
        self._source: VideoFile | FrameFolder = source
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
    since = np.array(times) - times[0]
    first_look = np.ceil((since - 1e-6) * fps)  # of those at which the frame, or a later one, is seen
    next_look = np.append(first_look[1:], np.floor(since[-1] * fps + 1e-6) + 1)
    return np.flatnonzero(first_look < next_look).tolist()
