import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from models.masks.rle import encode_masks
from pipeline.audit.measure import measure_audit
from pipeline.audit.sample import choose, draw_sample
from pipeline.cli import app
from pipeline.dataset import open_dataset
from pipeline.export.brush import to_brush
from pipeline.imports.write import import_labels

MakeDataset = Callable[..., str]


def test_each_stratum_gives_its_share() -> None:
    names = [f"{index:03d}" for index in range(100)]
    strata = np.repeat([0, 4, 8], [70, 20, 10])
    drawn = choose(names, strata, 10, seed=1)
    counts = [sum(stratum == one for stratum in drawn.values()) for one in sorted(set(drawn.values()))]
    assert counts == [7, 2, 1]
    assert drawn == choose(names, strata, 10, seed=1) != choose(names, strata, 10, seed=2)
    assert len(choose(names, strata, 7, seed=0)) == 7 and len(choose(names, strata, 1000, seed=0)) == 100


def brush(region: dict[str, Any], mask: np.ndarray) -> dict[str, Any]:
    rle = to_brush(encode_masks(mask[None])[0], *mask.shape)
    return {**region, "value": {**region["value"], "rle": rle}}


def test_corrections_are_measured(tmp_path: Path, make_dataset: MakeDataset) -> None:
    """Four masks of 20×20: untouched, 19 of 20 columns, 16 of 20, 10 of 20; one taken away, one drawn anew."""
    masks = np.zeros((5, 60, 70), np.uint8)
    for index in range(5):
        masks[index, 10:30, 5 + index : 25 + index] = 1
    uri = make_dataset(tmp_path, {"a.png": masks, "b.png": masks[:2], "c'd.png": masks[:1, :40]})
    with pytest.raises(ValueError, match="no sample was drawn"):
        measure_audit(uri)
    drawn = draw_sample(open_dataset(uri), 2, str(tmp_path / "all"), pictures=False, seed=3, quiet=True)
    assert drawn.images == 2 and sum(drawn.strata.values()) == 2
    runner = CliRunner()
    result = runner.invoke(app, ["audit", uri, "-n", "500"])
    assert result.exit_code == 0 and "8 masks of 3 images" in result.output, result.output
    with pytest.raises(ValueError, match="no image of the sample has been corrected"):
        measure_audit(uri)
    tasks = [task for path in Path(f"{uri}-audit/tasks").iterdir() for task in json.loads(path.read_text())]
    by_name = {task["data"]["image_id"]: task for task in tasks}
    assert sorted(by_name) == ["a.png", "b.png", "c'd.png"]
    regions = by_name["a.png"]["predictions"][0]["result"]
    cut = masks.copy()
    for index, columns in ((1, 19), (2, 16), (3, 10)):
        cut[index, :, 5 + index + columns :] = 0
    made = [
        regions[0],
        *(brush(regions[index], cut[index]) for index in (1, 2, 3)),
        {**brush(regions[4], masks[4]), "id": "drawn"},
    ]
    answers = [
        {**by_name["a.png"], "annotations": [{"result": made}]},
        {**by_name["b.png"], "annotations": [{"result": by_name["b.png"]["predictions"][0]["result"]}]},
    ]
    (tmp_path / "back.json").write_text(json.dumps(answers))
    import_labels(str(tmp_path / "back.json"), uri, None, "human", quiet=True)
    found = measure_audit(uri)
    assert (found.sampled, found.images, found.removed, found.added) == (3, 2, 1, 1)
    assert found.all.pairs == 6 and found.all.above_90 == 4 / 6 and found.all.above_75 == 5 / 6
    assert found.by_size["small"].pairs == 6 and found.by_size["large"].above_90 is None
    assert found.interval_90 is not None and found.interval_90[0] <= 4 / 6 <= found.interval_90[1]
    shown = runner.invoke(app, ["audit", uri]).output
    assert "66.7%" in shown and "83.3%" in shown and "2 of 3 images have come back" in shown
    assert json.loads(runner.invoke(app, ["audit", uri, "--json"]).output)["all"]["pairs"] == 6
    # what people have corrected is not drawn again
    assert draw_sample(open_dataset(uri), 5, str(tmp_path / "more"), pictures=False, quiet=True).images == 1
