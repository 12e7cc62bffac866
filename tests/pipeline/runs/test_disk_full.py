"""A disk that fills up under a run."""

import errno
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import RunError, StoreError
from pipeline.recipes.load_recipe import validate_recipe
from pipeline.runs.run import run
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder
from pipeline.store.verify import verify_dataset

NUM_IMAGES = 10


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(disk: Path, leave: int) -> Path:
    """All but `leave` bytes."""
    ballast = disk / "ballast"
    with pytest.raises(OSError) as full, open(ballast, "wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    assert full.value.errno == errno.ENOSPC
    with open(ballast, "r+b") as file:
        file.truncate(ballast.stat().st_size - leave)
    return ballast


@pytest.mark.slow
def test_a_run_ends_in_one_line_and_goes_on_once_there_is_room(
    small_disk: Path, tmp_path: Path, ray_session: None
) -> None:
    (tmp_path / "in").mkdir()
    for index in range(NUM_IMAGES):
        pixels = np.random.default_rng(index).integers(0, 255, (20, 30, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "in" / f"{index}.png")
    output = small_disk / "out"
    recipe = validate_recipe(
        {
            "input": str(tmp_path / "in"),
            "output": str(output),
            "model": {"checkpoint": "sam_tiny"},
            "generate": {"points_per_side": 1, "store_floor": {"predicted_iou": 0.05, "stability_score": 0.2}},
            "filter": {"pred_iou_thresh": 0.1, "stability_score_thresh": 0.3},
            "run": {"commit_every": 1},
            "resources": {"sam_actors": 1},
        }
    )
    ballast = fill(small_disk, leave=80 << 10)
    with pytest.raises(RunError, match=r"part-\d+\.parquet cannot be written \(No space left on device\); ") as end:
        run(recipe, quiet=True)
    said = re.search(r"; (\d+) images are committed: .*, then run the same command to go on$", str(end.value))
    assert said and "\n" not in str(end.value)
    committed = int(said[1])
    assert 0 < committed < NUM_IMAGES
    assert verify_dataset(str(output)).images == committed and verify_dataset(str(output)).num_problems == 0
    left = sorted(path.name for path in (output / "round=000").iterdir())
    assert left[0] == "_run.json" and all(name.startswith("part-") for name in left[1:]) and len(left) == 1 + committed

    ballast.unlink()
    again = run(recipe, quiet=True)
    assert (again.tally.images, again.total_images) == (NUM_IMAGES - committed, NUM_IMAGES)
    found = Round(Folder(str(output)), 0).committed()["image_id"].to_pylist()
    assert sorted(found) == [f"{index}.png" for index in range(NUM_IMAGES)]
    assert verify_dataset(str(output)).num_problems == 0


def test_no_room_at_all_is_the_output_s_fault(small_disk: Path) -> None:
    folder = Folder(str(small_disk))
    folder.write("kept.json", b"before")
    fill(small_disk, leave=0)
    with pytest.raises(StoreError, match="No space left"):
        folder.write("kept.json", bytes(8192))
    with pytest.raises(OSError, match="No space left"):
        folder.create("new.json", bytes(8192))
    assert (small_disk / "kept.json").read_bytes() == b"before"
    assert sorted(path.name for path in small_disk.iterdir()) == ["ballast", "kept.json"]
