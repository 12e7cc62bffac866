from pathlib import Path

import pytest
import torch

from models.precision import resolve_precision
from pipeline.recipes.load_recipe import validate_recipe
from pipeline.recipes.recipe import Recipe
from pipeline.runs.run import run
from pipeline.runs.settle import settled
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder

pytestmark = pytest.mark.usefixtures("ray_session")


def recipe(photos: Path, output: Path, precision: str) -> Recipe:
    return validate_recipe(
        {
            "input": str(photos),
            "output": str(output),
            "model": {"checkpoint": "sam_tiny"},
            "generate": {"points_per_side": 2, "precision": precision},
            "resources": {"sam_actors": 1},
        }
    )


def test_automatic_precision_is_known_before_the_fingerprint(drawn_photos: Path, tmp_path: Path) -> None:
    """So that a dataset begun with `auto` goes on where the same precision is named, and tells which one it was."""
    here = resolve_precision("auto", torch.device("cpu"))
    assert run(recipe(drawn_photos, tmp_path / "out", "auto"), quiet=True).tally.images == 5
    record = Round(Folder(str(tmp_path / "out")), 0).read_record()
    assert record is not None and record["settings"]["generate"]["generate.precision"] == here
    assert run(recipe(drawn_photos, tmp_path / "out", here), quiet=True).tally.images == 0
    other = "fp32" if here == "bf16" else "bf16"
    with pytest.raises(ValueError, match=f"generate.precision: '{here}' → '{other}'"):
        run(recipe(drawn_photos, tmp_path / "out", other), quiet=True)


def test_a_named_precision_stays(tmp_path: Path) -> None:
    named = recipe(tmp_path, tmp_path, "fp16")
    with settled(named) as found:
        assert found is named
