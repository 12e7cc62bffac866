"""The quickstart on real photographs, up to 2250×1500; skipped without them."""

from pathlib import Path

import pytest

from pipeline.recipes.load_recipe import load_recipe
from pipeline.runs.run import run
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder
from pipeline.store.verify import verify_dataset

SIZES = {"cars.jpg": (2250, 1500), "dog.jpg": (800, 534), "groceries.jpg": (800, 534), "truck.jpg": (1800, 1200)}


@pytest.mark.usefixtures("ray_session")
def test_four_photographs_become_masks_that_hold(test_data: Path, tmp_path: Path) -> None:
    settings = [f"input={test_data / 'photos'}", f"output={tmp_path / 'out'}", "generate.points_per_side=6"]
    summary = run(load_recipe("quickstart", settings), quiet=True)
    assert (summary.tally.images, summary.tally.failed) == (4, 0) and summary.tally.masks > 0
    rows = Round(Folder(str(tmp_path / "out")), 0).read_part(0).to_pylist()
    assert {row["image_id"]: (row["width"], row["height"]) for row in rows} == SIZES
    assert verify_dataset(str(tmp_path / "out")).num_problems == 0
