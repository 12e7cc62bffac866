import json
import xml.etree.ElementTree
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from models.masks.rle import decode_masks, encode_masks
from pipeline.cli import app
from pipeline.dataset import open_dataset
from pipeline.export.brush import to_brush
from pipeline.export.write import export
from pipeline.imports.write import import_labels
from pipeline.store.index import change_index
from pipeline.store.storage import Folder
from pipeline.store.verify import verify_dataset

MakeDataset = Callable[..., str]


def exported(uri: str, out: Path, pictures: bool = False) -> list[dict[str, Any]]:
    export(open_dataset(uri), str(out), "label-studio", pictures=pictures, quiet=True)
    return [task for path in sorted((out / "tasks").iterdir()) for task in json.loads(path.read_text())]


def corrected(task: dict[str, Any], result: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    return {"id": 1, "data": task["data"], "annotations": [{"id": 5, "result": result, **fields}]}


def save(folder: Path, tasks: Any) -> str:
    path = folder / "corrected.json"
    path.write_text(json.dumps(tasks))
    return str(path)


def test_the_tasks_are_what_label_studio_takes(tmp_path: Path, make_dataset: MakeDataset, shapes: np.ndarray) -> None:
    uri = make_dataset(tmp_path, {"a/one.png": shapes, "two.png": shapes[1:3, :30]})
    first, second = exported(uri, tmp_path / "out", pictures=True)
    prediction = first["predictions"][0]
    assert prediction["score"] == 0.75 and len(prediction["result"]) == 6
    region = prediction["result"][0]
    assert (region["type"], region["original_width"], region["original_height"]) == ("brushlabels", 50, 40)
    assert region["value"]["brushlabels"] == ["tabby"] and region["value"]["format"] == "rle"
    assert len({one["id"] for task in (first, second) for one in task["predictions"][0]["result"]}) == 8
    for task in (first, second):
        _, mark, file = task["data"]["image"].partition("/data/local-files/?d=")
        assert mark and (tmp_path / "out" / file).is_file()
    config = xml.etree.ElementTree.parse(tmp_path / "out" / "label_config.xml")
    (brush,) = config.iter("BrushLabels")
    assert (brush.get("name"), brush.get("toName")) == (region["from_name"], region["to_name"])
    assert [label.get("value") for label in brush] == ["segment", "tabby"]
    referenced = exported(uri, tmp_path / "other")
    assert referenced[0]["data"]["image"] == str(tmp_path / "pictures" / "a/one.png")


def test_corrections_become_the_next_round(tmp_path: Path, make_dataset: MakeDataset, shapes: np.ndarray) -> None:
    uri = make_dataset(tmp_path, {"one.png": shapes, "two.png": shapes[1:3, :30]})
    first, second = exported(uri, tmp_path / "out")
    regions = first["predictions"][0]["result"]
    smaller = shapes[3].copy()
    smaller[5:8] = 0
    changed = {**regions[3], "value": {**regions[3]["value"], "rle": to_brush(encode_masks(smaller[None])[0], 40, 50)}}
    drawn = {
        **{name: regions[0][name] for name in ("from_name", "to_name", "original_width", "original_height")},
        **{"id": "new", "type": "polygonlabels", "image_rotation": 0},
        "value": {"points": [[20, 25], [60, 25], [60, 75], [20, 75]], "polygonlabels": ["door"]},
    }
    choice = {"id": "x", "type": "choices", "value": {"choices": ["blurred"]}}
    tasks = [
        corrected(first, [regions[0], regions[1], regions[2], changed, drawn, choice]),
        corrected(second, [], was_cancelled=True),
    ]
    summary = import_labels(save(tmp_path, tasks), uri, None, "human", quiet=True)
    assert (summary.round, summary.images, summary.corrected, summary.failed, summary.masks) == (1, 1, 1, 0, 4)
    rows = {row["image_id"]: row for row in open_dataset(uri).rows()}
    assert (rows["one.png"]["round"], rows["two.png"]["round"]) == (1, 0)
    row = rows["one.png"]
    assert row["rles"][:3] == encode_masks(np.stack([shapes[1], shapes[2], smaller]))
    assert summary.notes.counts["left out: mask without a pixel"] == 1, "the first, which was empty before"
    assert np.array_equal(decode_masks(row["rles"][3:], 40, 50)[0][10:30, 10:30], np.ones((20, 20)))
    assert row["masks"][3]["area"] == 400
    assert {mask["source"] for mask in row["masks"]} == {"human"}
    assert [mask["predicted_iou"] for mask in row["masks"]] == [0.75, 0.75, None, None], "scores of what stayed"
    assert [[tag["name"] for tag in mask["tags"]] for mask in row["masks"]] == [[], [], [], ["door"]]
    assert [mask["mask_id"] for mask in row["masks"]] == [f"one.png/1/{index}" for index in range(4)]
    extra = dict(row["extra"])
    assert json.loads(extra["corrects"]) == ["one.png/0/1", "one.png/0/2", "one.png/0/3", None]
    assert verify_dataset(uri).problems == []
    again = import_labels(save(tmp_path, tasks), uri, None, "human", quiet=True)
    assert again.round == 2 and again.corrected == 1
    change_index(Folder(uri), lambda index: replace(index, rounds=(0, 1), published=(0, 1)))  # as killed in the third
    assert import_labels(save(tmp_path, tasks), uri, None, "human", quiet=True).round == 2
    (Path(uri) / "round=002" / "_run.json").unlink()  # lost, but the round is listed
    assert import_labels(save(tmp_path, tasks), uri, None, "human", quiet=True).round == 3


def test_what_cannot_be_used_leaves_the_dataset_as_it_was(
    tmp_path: Path, make_dataset: MakeDataset, shapes: np.ndarray
) -> None:
    uri = make_dataset(tmp_path, {f"{name}.png": shapes[1:3] for name in "abcd"})
    tasks = exported(uri, tmp_path / "out")
    results = [task["predictions"][0]["result"] for task in tasks]
    rectangle = {**results[0][0], "type": "rectanglelabels", "value": {"x": 1, "y": 1, "width": 5, "height": 5}}
    turned = {**results[1][0], "image_rotation": 90}
    broken = {**results[2][0], "value": {"rle": [1, 2], "format": "rle"}}
    other = {**results[3][0], "original_width": 51, "value": {"points": [[0, 0], [9, 0], [9, 9]]}}
    made = [corrected(task, [one]) for task, one in zip(tasks, (rectangle, turned, broken, other), strict=True)]
    summary = import_labels(save(tmp_path, made), uri, None, "human", quiet=True)
    assert (summary.images, summary.failed, summary.masks) == (4, 4, 0)
    for failure, reason in zip(
        summary.failures, ("is no mask", "was turned", "rle is broken", "its labels say 51 x 40"), strict=True
    ):
        assert reason in failure
    assert all(row["round"] == 0 and len(row["masks"]) == 2 for row in open_dataset(uri).rows())
    for content, message in (
        ("[1]", "not Label Studio's JSON"),
        ('[{"data": {"image": "x"}, "label": []}]', "not Label Studio's JSON"),
        ("[", "broken JSON"),
    ):
        (tmp_path / "x.json").write_text(content)
        with pytest.raises(ValueError, match=message):
            import_labels(str(tmp_path / "x.json"), uri, None, "human", quiet=True)
    with pytest.raises(ValueError, match="stands in it twice"):
        import_labels(save(tmp_path, [made[0], made[0]]), uri, None, "human", quiet=True)
    assert verify_dataset(uri).problems == []
    result = CliRunner().invoke(app, ["import", save(tmp_path, made[:1]), uri])
    assert result.exit_code == 1 and "0 corrected, 0 added, 1 failed" in result.output and "is no mask" in result.output


def test_a_dataset_of_its_own(tmp_path: Path, make_dataset: MakeDataset, shapes: np.ndarray) -> None:
    uri = make_dataset(tmp_path, {"one.png": shapes[2:]})
    (task,) = exported(uri, tmp_path / "out", pictures=True)
    del task["data"]["image_id"]
    path = tmp_path / "out" / "corrected.json"
    path.write_text(json.dumps([corrected(task, task["predictions"][0]["result"])]))
    summary = import_labels(str(path), str(tmp_path / "own"), None, "human", quiet=True)
    assert (summary.round, summary.images, summary.failed, summary.failures) == (0, 1, 0, [])
    (row,) = open_dataset(str(tmp_path / "own")).rows()
    assert row["rles"] == encode_masks(shapes[2:]) and row["image_id"].startswith("one-")
