import hashlib
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from pipeline.scenes.scene import MIN_AREA, Scene, render_scene

ROOT = Path(__file__).parents[3]
SIZES = [(320, 240), (64, 48), (60, 400), (400, 33), (32, 32)]


def digest(scene: Scene) -> str:
    """Everything a scene consists of, as one hash."""
    whole = hashlib.sha256(scene.image.tobytes())
    for item in scene.objects:
        whole.update(np.packbits(item.mask).tobytes())
        whole.update(repr((item.parent, item.colour, item.pattern, item.shape, item.caption, item.relation)).encode())
    whole.update(scene.caption.encode())
    return whole.hexdigest()


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [render_scene(seed, 320, 240) for seed in range(24)]


def test_the_same_seed_gives_the_same_scene(scenes: list[Scene]) -> None:
    np.random.seed(123)
    assert digest(render_scene(3, 320, 240)) == digest(scenes[3])
    assert digest(scenes[3]) != digest(scenes[4])


def test_another_process_with_one_thread_gives_the_same_scene(scenes: list[Scene]) -> None:
    program = (
        "import sys, cv2; sys.path[:0] = sys.argv[1:]; cv2.setNumThreads(1)\n"
        "from test_scene import digest; from pipeline.scenes.scene import render_scene\n"
        "print(digest(render_scene(7, 320, 240)))"
    )
    command = [sys.executable, "-c", program, str(ROOT), str(Path(__file__).parent)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert result.stdout.strip() == digest(scenes[7])


def test_siblings_never_overlap_and_parts_lie_within_their_parent(scenes: list[Scene]) -> None:
    num_parts = 0
    for scene in scenes:
        taken: dict[int | None, np.ndarray] = {}
        for index, item in enumerate(scene.objects):
            others = taken.setdefault(item.parent, np.zeros_like(item.mask))
            assert not (others & item.mask).any()
            others |= item.mask
            if item.parent is not None:
                num_parts += 1
                assert item.parent < index
                assert not (item.mask & ~scene.objects[item.parent].mask).any()
                assert item.mask.sum() < scene.objects[item.parent].mask.sum()
    assert num_parts > 300


def test_segments_are_many_and_cover_the_image(scenes: list[Scene]) -> None:
    for scene in scenes:
        areas = np.array([item.mask.sum() for item in scene.objects])
        assert 20 <= len(scene.objects) <= 120
        assert areas.min() >= MIN_AREA
        assert areas.max() <= 0.9 * 320 * 240
        assert np.any([item.mask for item in scene.objects], axis=0).mean() >= 0.95
    counts = [len(scene.objects) for scene in scenes]
    assert max(counts) - min(counts) > 20


def test_pictures_have_the_contrast_and_spectrum_of_photographs(scenes: list[Scene]) -> None:
    slopes, deviations = [], []
    for scene in scenes:
        grey = scene.image[:, 40:280].mean(axis=2)
        window = np.hanning(240)
        power = np.abs(np.fft.fft2((grey - grey.mean()) * window * window[:, None])) ** 2
        frequency = np.hypot(np.fft.fftfreq(240)[:, None], np.fft.fftfreq(240))
        bands = np.geomspace(4 / 240, 0.4, 12)
        means = [power[(frequency >= a) & (frequency < b)].mean() for a, b in pairwise(bands)]
        slopes.append(np.polyfit(np.log(np.sqrt(bands[1:] * bands[:-1])), np.log(means), 1)[0])
        deviations.append(grey.std() / 255)
    assert -3.4 < np.mean(slopes) < -1.8
    assert 0.13 < np.mean(deviations) < 0.28


def test_words_describe_the_segments(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert scene.caption.startswith(("a ", "an "))
        for item in scene.objects:
            assert item.shape in item.caption
            assert item.caption.startswith((f"a {item.colour} ", f"an {item.colour} "))
            assert item.caption.endswith(item.relation)
            if item.parent is not None:
                assert item.relation.startswith("of the ")
                assert item.relation.endswith(scene.objects[item.parent].shape)
    colours = {item.colour for scene in scenes for item in scene.objects}
    assert {"red", "green", "blue", "brown", "grey", "white", "black"} <= colours
    assert len({item.shape for scene in scenes for item in scene.objects}) > 60
    assert len({item.pattern for scene in scenes for item in scene.objects}) >= 15


def test_the_side_in_a_relation_is_the_side_in_the_picture(scenes: list[Scene]) -> None:
    num_checked = 0
    for scene in scenes:
        tops = [item for item in scene.objects if item.parent is None]
        for item in tops:
            side, _, words = item.relation.partition(" of the ")
            named = [other for other in tops if f" {words} " in f" {other.caption} " and other.caption.find(words) <= 3]
            if side not in ("left", "right") or len(named) != 1:
                continue
            here, there = np.nonzero(item.mask)[1].mean(), np.nonzero(named[0].mask)[1].mean()
            assert (here < there) == (side == "left")
            num_checked += 1
    assert num_checked > 20


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_any_shape_of_picture(width: int, height: int) -> None:
    for seed in range(3):
        scene = render_scene(seed, width, height)
        assert scene.image.shape == (height, width, 3)
        assert scene.image.dtype == np.uint8
        assert len(scene.objects) >= 1
        assert all(item.mask.shape == (height, width) and item.mask.dtype == np.bool_ for item in scene.objects)


@pytest.mark.parametrize(
    ("seed", "width", "height", "message"),
    [
        (-1, 64, 64, r"^seed must be 0 or more, got -1; choose a non-negative seed$"),
        (0, 31, 64, r"^width must be 32 to 4096 pixels, got 31; choose a side in between$"),
        (0, 64, 5000, r"^height must be 32 to 4096 pixels, got 5000; choose a side in between$"),
    ],
)
def test_bad_arguments(seed: int, width: int, height: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        render_scene(seed, width, height)
