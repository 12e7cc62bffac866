"""A video file: which frames its decoder gives, at what times, and each of them when it is asked for."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import av
import numpy as np

from stages.read_source import open_filesystem
from stages.retry import retried
from stages.video_settings import VideoSettings

VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".3gp", ".3g2", ".mkv", ".webm", ".avi", ".gif", ".wmv", ".asf", ".flv", ".ogv"),
    *(".mpg", ".mpeg", ".vob", ".ts", ".mts", ".m2ts"),
)
# FFmpeg goes by content, not by suffix. Its playlists (HLS, DASH, concat scripts, SDP) would open other files and
# addresses.
_CONTAINERS = "mov,matroska,avi,gif,asf,flv,ogg,mpeg,mpegts"
_INDEXED = ("mov", "matroska")  # keep presentation times, and an index of key frames by which a seek finds its own
_LONGEST_WALK = 64  # frames to decode and pass over, before it is better to seek


_Stamps = tuple[int | None, int | None]  # of a packet: presentation, decoding


class VideoFile:
    """`times` (seconds, ascending) of the frames that decoding the file from its beginning gives; `read(i)` is the
    i-th of them.

    To know them the file is decoded once as it is opened: packets say neither how many frames there are (those before
    an edit list's cut are to be thrown away) nor, without presentation times as in AVI, which time is whose.
    """

    def __init__(self, uri: str, settings: VideoSettings) -> None:
        """Raises ValueError for a file of no container in _CONTAINERS, without a video stream or with too large frames,
        or whose clock goes backward, and FFmpeg's error for one that is broken."""
        fs, path = open_filesystem(uri)
        self._max_pixels = settings.max_pixels
        self._handle: Any = retried(lambda: fs.open(path, "rb"))
        with ExitStack() as undo:
            undo.callback(self._handle.close)
            self._open()
            undo.callback(self._container.close)
            self._stamps, packets = self._scan(None if settings.fps else settings.max_frames)
            self.times = self._times(packets)
            self._can_seek = self._tells_times(packets)
            undo.pop_all()
        self._decoded: Iterator[Any] = iter(())
        self._next: int | None = None  # index of the frame that the decoder gives next

    def read(self, index: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB, turned as the file's rotation flag says. Raises ValueError rather than give a frame of
        another time."""
        if self._next is None or not self._next <= index <= self._next + _LONGEST_WALK:
            frame = self._sought(index) if self._can_seek and index > _LONGEST_WALK else None
            if frame is not None:
                self._next = index + 1
                return _upright(frame)
            self._restart()
        assert self._next is not None
        place, self._next = self._next, None
        for frame in self._decoded:
            if place == index:
                if frame.pts != self._stamps[index]:
                    break
                self._next = index + 1
                return _upright(frame)
            place += 1
        raise ValueError(f"frame {index} at {self.times[index]:.2f} s does not come again where it was; encode it anew")

    def close(self) -> None:
        self._container.close()
        self._handle.close()

    def _open(self) -> None:
        self._handle.seek(0)
        try:
            self._container: Any = av.open(self._handle, container_options={"format_whitelist": _CONTAINERS})
        except av.error.ArgumentError:
            raise ValueError("is a playlist or of another kind that is not opened; give a video file") from None
        self._stream: Any = self._container.streams.best("video")
        if self._stream is None:
            self._container.close()
            raise ValueError("holds no video stream")

    def _restart(self) -> None:
        """From the first frame on: not by a seek, which some containers take for somewhere near."""
        self._container.close()
        self._open()
        self._decoded, self._next = self._container.decode(self._stream), 0

    def _sought(self, index: int) -> Any:
        """The frame, decoded from the key frame before it; None where that does not lead to it."""
        stamp = self._stamps[index]
        self._container.seek(stamp, stream=self._stream, backward=True)
        self._decoded = self._container.decode(self._stream)
        for count, frame in enumerate(self._decoded):
            if (count == 0 and not frame.key_frame) or frame.is_corrupt or frame.pts is None or frame.pts > stamp:
                return None
            if frame.pts == stamp:
                return frame
        return None

    def _scan(self, max_frames: int | None) -> tuple[list[int | None], list[_Stamps]]:
        """Presentation time stamps of the frames in the order in which they come, and both of the packets for them."""
        self._check_size(self._stream.codec_context)
        stamps: list[int | None] = []
        packets: list[_Stamps] = []
        for packet in self._container.demux(self._stream):
            if packet.size and not packet.is_discard:
                packets.append((packet.pts, packet.dts))
            for frame in packet.decode():
                self._check_size(frame)
                stamps.append(frame.pts)
            if max_frames is not None and len(stamps) >= max_frames:
                break
        return stamps[:max_frames], packets

    def _times(self, packets: list[_Stamps]) -> list[float]:
        base = self._stream.time_base
        if _ascends(self._stamps):
            return [float(stamp * base) for stamp in self._stamps if stamp is not None]
        # a container of decoding times alone, such as AVI: its frames follow each other in those
        decoding = [stamp for _, stamp in packets if stamp is not None]
        if len(decoding) == len(packets) >= len(self._stamps) and len(set(decoding)) == len(decoding):
            return [float(stamp * base) for stamp in sorted(decoding)[: len(self._stamps)]]
        raise ValueError("the time stamps go backward, so no frame's time is known; encode it anew (ffmpeg -i IN OUT)")

    def _tells_times(self, packets: list[_Stamps]) -> bool:
        """Whether a frame has the same time stamp wherever decoding begins. Without presentation times the decoder
        guesses them by what came before."""
        if not _ascends(self._stamps) or len(set(self._stamps)) < len(self._stamps):
            return False
        guessed = self._stream.codec_context.has_b_frames and all(one == other for one, other in packets)
        return not guessed and any(name in _INDEXED for name in self._container.format.name.split(","))

    def _check_size(self, frame: Any) -> None:
        if frame.width * frame.height > self._max_pixels:
            raise ValueError(f"{frame.width}×{frame.height} is above video.max_pixels={self._max_pixels}")


def _ascends(stamps: list[int | None]) -> bool:
    known = [stamp for stamp in stamps if stamp is not None]
    return len(known) == len(stamps) and known == sorted(known)


def _upright(frame: Any) -> np.ndarray:
    """`rotation` is how far to turn the picture against the clock, in degrees, for a viewer."""
    pixels = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90) % 4))
