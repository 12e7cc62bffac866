from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.store.plan import plan
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder
from stages.record import conform


def test_a_measured_run_is_the_yardstick(tmp_path: Path) -> None:
    target = Round(Folder(str(tmp_path)), 0)
    target.write_part(0, conform(pa.table({"image_id": [str(n) for n in range(12)], "status": ["ok"] * 12})))
    resources = {"sam_actors": 2, "device": "cuda"}
    run = {"images": 12, "failed": 2, "masks": 24, "stage_seconds": {"generate": 20.0}, "resources": resources}
    empty = run | {"images": 0, "failed": 0, "masks": 0}
    target.write_record({"runs": [run, empty]})
    found = plan(str(tmp_path), 36_000)
    assert (found.images_per_worker_second, found.worker_hours) == (0.5, 20.0)
    assert (found.workers, found.hours, found.masks) == (2, 10.0, 72_000)
    size = Path(target.part_path(0)).stat().st_size
    assert found.bytes == 3000 * size
    assert (plan(str(tmp_path), 36_000, hours=3).workers, plan(str(tmp_path), 36_000, hours=20).workers) == (7, 1)


def test_without_a_run_there_is_no_plan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no run that annotated anything"):
        plan(str(tmp_path), 10)
