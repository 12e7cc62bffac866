from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from stages.frame_folder import in_order
from stages.read_video import VideoFrames
from stages.video_settings import VideoSettings


@pytest.mark.parametrize(
    "names",
    [
        [f"{index}.png" for index in range(120)],
        [f"frame_{index:05d}.jpg" for index in range(120)],
        [f"Clip 3 ({index}).PNG" for index in (0, 1, 2, 9, 10, 11, 100)],
        ["2024-01-02_9.png", "2024-01-02_10.png", "2024-02-01_1.png", "2024-10-01_1.png"],
        ["1.jpg", "2.png", "10.jpeg"],
        ["IMG_9.png", "img_10.png"],
        ["0.04.png", "0.08.png", "0.12.png", "10.00.png"],
        ["cover.png"],
        [],
    ],
)
def test_frames_come_by_their_numbers(names: list[str]) -> None:
    assert in_order(sorted(names)) == names == in_order(reversed(names))


@pytest.mark.parametrize(
    "names",
    [
        ["0.png", "1.png", "cover.png"],
        ["left_1.png", "right_1.png"],
        ["a.png", "b.png"],
        ["1.png", "01.png"],
        ["1.png", "1.jpg"],
        ["-1.png", "0.png", "1.png"],
        ["0.5.png", "0.25.png"],  # as decimals the other way round than as counts
        ["shot1a.png", "shot1b.png"],
    ],
)
def test_names_that_tell_no_order_are_refused(names: list[str]) -> None:
    with pytest.raises(ValueError, match=r"^which frame comes first is not told by the names '.+' and '.+'; number"):
        in_order(names)


@given(
    numbers=st.lists(st.integers(0, 10**18), unique=True, max_size=30),
    before=st.text("abcABC é_-", max_size=5),
    after=st.text("xyz _-", max_size=3),
    padding=st.integers(0, 8),
)
def test_any_numbers_in_any_names(numbers: list[int], before: str, after: str, padding: int) -> None:
    names = {number: f"{before}{number:0{padding}d}{after}.png" for number in numbers}
    assert in_order(names.values()) == [names[number] for number in sorted(numbers)]


@given(st.lists(st.text("019.ab_", min_size=1, max_size=6).map(lambda stem: f"{stem}.png"), unique=True, max_size=5))
def test_the_order_is_that_of_the_numbers_or_none(names: list[str]) -> None:
    """Whatever the names: sorted, the same from any beginning, and never two orders that could both be meant."""
    try:
        found = in_order(names)
    except ValueError:
        return
    assert sorted(found) == sorted(names) and found == in_order(reversed(names))


def test_a_folder_is_read_in_that_order_without_what_a_mac_adds(tmp_path: Path) -> None:
    for index in range(12):
        Image.fromarray(np.full((8, 8, 3), 20 * index, np.uint8)).save(tmp_path / f"{index}.png")
    (tmp_path / "._3.png").write_bytes(b"\0\5\x16\7" + bytes(60))
    with VideoFrames(str(tmp_path), VideoSettings(fps=8.0)) as frames:
        assert [int(frames[index][0, 0, 0]) for index in range(len(frames))] == [0, 60, 120, 180]
    with pytest.raises(ValueError, match=r"8×8 is above video\.max_pixels=63$"):
        VideoFrames(str(tmp_path), VideoSettings(max_pixels=63))
