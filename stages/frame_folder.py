"""A folder of pictures as a video: one a frame, in the order of the numbers in their names."""

import re
from collections.abc import Iterable

import numpy as np

from stages.decode_pixels import DecodeSettings, TooManyPixelsError, decode_image
from stages.read_source import open_filesystem, read_source
from stages.retry import retried
from stages.video_settings import VideoSettings

FRAME_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
FRAMES_PER_SECOND = 24.0

_NUMBER = re.compile(r"[0-9]+")
_FRACTION = re.compile(r"(?<=[0-9])\.([0-9]+)")


class FrameFolder:
    """`times` (seconds) of the frames, 24 a second; `read(i)` is the i-th."""

    def __init__(self, uri: str, settings: VideoSettings) -> None:
        """Raises ValueError for names that do not tell in which order the frames come."""
        fs, path = open_filesystem(uri)
        infos = retried(lambda: fs.ls(path, detail=True))
        names = {info["name"].rpartition("/")[2]: info["name"] for info in infos}
        self._uris = [fs.unstrip_protocol(names[name]) for name in in_order(filter(is_frame, names))]
        self._settings = DecodeSettings(max_pixels=settings.max_pixels)
        self.times = [index / FRAMES_PER_SECOND for index in range(len(self._uris))]

    def read(self, index: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB, upright."""
        try:
            return decode_image(read_source(self._uris[index], None, None), self._settings).pixels
        except TooManyPixelsError as error:
            raise ValueError(str(error).replace("decode.", "video.")) from None

    def close(self) -> None:
        pass


def is_frame(name: str) -> bool:
    """Whether a file name (without its folder) is a picture's; `._x.png` is what a Mac says about x.png."""
    return name.lower().endswith(FRAME_SUFFIXES) and not name.startswith("._")


def in_order(names: Iterable[str]) -> list[str]:
    """File names sorted by the numbers in them, so that 2 comes before 10; a single one needs none.

    Raises ValueError where that is no order: names that differ in more than their numbers, two names of the same
    numbers, or fractions of different lengths, which may be decimals (.5 is more than .25) or counts.
    """
    stems = {name: name.rpartition(".")[0] for name in sorted(names)}
    first_of: dict[tuple[int, ...], str] = {}
    patterns: dict[str, str] = {}
    widths: dict[tuple[int, ...], str] = {}
    for name, stem in stems.items():
        patterns.setdefault(_NUMBER.sub("#", stem).casefold(), name)
        widths.setdefault(tuple(len(digits) for digits in _FRACTION.findall(stem)), name)
        other = first_of.setdefault(_numbers(stem), name)
        for seen in (patterns, widths):
            if len(seen) > 1:
                _refuse(*list(seen.values())[:2])
        if other != name:
            _refuse(other, name)
    return sorted(stems, key=lambda name: _numbers(stems[name]))


def _numbers(stem: str) -> tuple[int, ...]:
    return tuple(int(digits) for digits in _NUMBER.findall(stem))


def _refuse(one: str, other: str) -> None:
    raise ValueError(
        f"which frame comes first is not told by the names {one!r} and {other!r}; number the frames, in one way"
    )
