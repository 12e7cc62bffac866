from pathlib import Path

import pyarrow as pa
import pytest
from ray.data import DataContext

from pipeline.errors import RunError
from pipeline.recipes.load_recipe import validate_recipe
from pipeline.runs import in_flight
from pipeline.runs.chunks import Chunk
from pipeline.runs.in_flight import IMAGES_PER_ACTOR, Window, max_in_flight
from pipeline.runs.run import run


def chunk(num_images: int) -> Chunk:
    return Chunk(0, pa.table({"image_id": [str(index) for index in range(num_images)]}), exists=False)


def test_the_bound_holds_two_whole_chunks_whatever_their_size() -> None:
    assert max_in_flight([chunk(8)], 2) == 2 * IMAGES_PER_ACTOR + 16
    assert max_in_flight([chunk(8), chunk(1000), chunk(3)], 1) == IMAGES_PER_ACTOR + 2000


@pytest.mark.parametrize("limit", [8, 11, 20])
def test_blocks_are_begun_while_the_bound_allows(limit: int) -> None:
    rows = [3, 4, 1, 8, 2, 2, 5]
    window = Window(rows, limit)
    begun = 0
    while begun < len(rows):
        if window.admits(begun):
            begun += 1
            assert sum(rows[:begun]) - window.committed <= limit
        else:
            assert sum(rows[: begun + 1]) - window.committed > limit
            window.committed += 1
    assert window.admits(begun)


def test_a_dataset_asks_its_own_window() -> None:
    class Dataset:
        context = DataContext()

    class Operator:
        name = "MapBatches(DecodeImages)"

        class metrics:  # noqa: N801
            num_tasks_submitted = 1

    window = Window([2, 2], 3)
    window.bind(Dataset)
    policy = Dataset.context.copy().get_config("backpressure_policies.enabled")[-1](None, None, None)
    assert not policy.can_add_input(Operator)
    window.committed = 2
    assert policy.can_add_input(Operator)
    window.committed = 0
    Operator.name = "MapBatches(FilterMasks)"
    assert policy.can_add_input(Operator)


def test_a_ray_that_does_not_ask_ends_the_run_at_its_first_rows(
    photos: Path, tmp_path: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = validate_recipe(
        {
            "input": str(photos),
            "output": str(tmp_path / "out"),
            "model": {"checkpoint": "sam_tiny"},
            "generate": {"points_per_side": 1, "store_floor": {"predicted_iou": 0.05, "stability_score": 0.2}},
            "filter": {"pred_iou_thresh": 0.1, "stability_score_thresh": 0.3},
        }
    )
    with monkeypatch.context() as patch:
        patch.setattr(in_flight, "FIRST_STAGE", "as another Ray might call it")
        with pytest.raises(RunError, match=r"^ray 2\.\d+\.\d+: Ray Data does not ask .* constraints.txt names$"):
            run(recipe, quiet=True)
    assert run(recipe, quiet=True).total_images == 5
