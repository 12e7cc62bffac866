import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from models.masks.rle import bounding_boxes, encode_masks
from models.sam.build import build_sam
from models.sam.config import SAM_SIZES
from models.weights import load_sam, save_sam
from pipeline.cli import app
from pipeline.dataset import open_dataset
from pipeline.imports.write import import_labels
from pipeline.loop.refresh import RefreshPlan, refresh
from pipeline.loop.rollback import restore, rollback
from pipeline.loop.settings import GateSettings
from pipeline.recipes.load_recipe import validate_recipe
from pipeline.replays.refilter import refilter
from pipeline.runs.run import run
from pipeline.store.index import read_index, withhold
from pipeline.store.lease import hold_lease
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder
from pipeline.store.verify import verify_dataset

pytestmark = pytest.mark.usefixtures("ray_session")

SMALL: dict[str, Any] = {
    "model": {"checkpoint": "sam_tiny"},
    "generate": {"points_per_side": 4, "store_floor": {"predicted_iou": 0.05, "stability_score": 0.2}},
    "filter": {"pred_iou_thresh": 0.1, "stability_score_thresh": 0.3},
    "run": {"commit_every": 2},
    "resources": {"sam_actors": 1},
}


@pytest.fixture(scope="module")
def made(drawn_photos: Path, tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Path:
    """A folder with a dataset of the five pictures, other weights of the same sizes, and a held-out set."""
    folder = tmp_path_factory.mktemp("refresh")
    run(validate_recipe({"input": str(drawn_photos), "output": str(folder / "out"), **SMALL}), quiet=True)
    sam, _ = load_sam("sam_tiny")
    torch.manual_seed(0)
    state = {name: value + 0.002 * torch.randn_like(value) for name, value in sam.state_dict().items()}
    save_sam(folder / "better.safetensors", state, sam.config, torch.float16)
    worse = {name: 0.5 * value + 0.1 * torch.randn_like(value) for name, value in sam.state_dict().items()}
    save_sam(folder / "worse.safetensors", worse, sam.config, torch.float16)
    label(folder / "held", ["0.png", "1.png"], drawn_photos)
    return folder


def label(folder: Path, names: list[str], pictures: Path) -> None:
    """A person's masks of the two coloured squares of each picture."""
    folder.mkdir()
    coco: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
    for index, name in enumerate(names):
        shutil.copy(pictures / name, folder / name)
        with Image.open(folder / name) as picture:
            width, height = picture.size
        masks = np.zeros((2, height, width), np.uint8)
        masks[0, 10:30, 8:28] = masks[1, 20:44, 36:60] = 1
        coco["images"].append({"id": index, "file_name": name, "width": width, "height": height})
        for part, rle in enumerate(encode_masks(masks)):
            one = {"id": 2 * index + part, "image_id": index, "category_id": 1, "iscrowd": 0}
            coco["annotations"].append(one | {"segmentation": {"size": [height, width], "counts": rle.decode()}})
    (folder / "annotations.json").write_text(json.dumps(coco))


@pytest.fixture
def output(made: Path, tmp_path: Path) -> str:
    return str(shutil.copytree(made / "out", tmp_path / "out"))


def plan(made: Path, output: str, weights: str = "better", max_fall: float = 1.0, **more: Any) -> RefreshPlan:
    gate = GateSettings(data=str(made / "held"), max_fall=max_fall)
    return RefreshPlan(output, str(made / f"{weights}.safetensors"), gate, **more)


def add_person(output: str) -> str:
    """One mask made by a person in the row of 0.png; its id."""
    target = Round(Folder(output), 0)
    for part in target.parts():
        rows = target.read_part(part).to_pylist()
        for row in rows:
            if row["image_id"] == "0.png":
                mask = np.zeros((1, row["height"], row["width"]), np.uint8)
                mask[0, 11:30, 8:28] = 1
                (rle,) = encode_masks(mask)
                (bbox,) = bounding_boxes([rle], row["height"]).tolist()
                own = {
                    "mask_id": "0.png/person",
                    "source": "human",
                    "stage": "assisted",
                    "keep": True,
                    "iscrowd": False,
                }
                row["masks"].append({**own, "bbox": bbox, "area": int(mask.sum()), "tags": []})
                row["rles"].append(rle)
                row["raw_rles"].append(None)
        target.write_part(part, pa.Table.from_pylist(rows, schema=target.read_part(part).schema))
    return "0.png/person"


def test_a_refresh_publishes_a_round_with_peoples_masks_and_rollback_takes_it_back(made: Path, output: str) -> None:
    person = add_person(output)
    before = {row["image_id"]: row for row in open_dataset(output).rows()}
    found = refresh(plan(made, output), quiet=True)
    assert (found.status, found.round, found.images, found.failed) == ("published", 1, 5, 0)
    rows = {row["image_id"]: row for row in open_dataset(output).rows()}
    assert rows.keys() == before.keys() and {row["round"] for row in rows.values()} == {1}
    (kept,) = [mask for mask in rows["0.png"]["masks"] if mask["source"] == "human"]
    assert kept == before["0.png"]["masks"][-1] and kept["mask_id"] == person
    assert rows["0.png"]["rles"][-1] == before["0.png"]["rles"][-1]
    own = [mask for row in rows.values() for mask in row["masks"] if mask["source"] == "auto"]
    matched = [mask for mask in own if mask["previous_id"] is not None]
    churn = found.churn
    assert churn is not None and churn["human"] == 1
    assert churn["kept"] + churn["changed"] == len(matched) > 0
    assert churn["kept"] + churn["changed"] + churn["new"] == len(own) == found.masks
    assert sum(churn["iou_histogram"]) == len(matched)
    assert all(mask["previous_id"].split("/")[-2] == "0" for mask in matched)

    record = Round(Folder(output), 1).read_record()
    assert record is not None and record["refresh"]["churn"] == churn
    assert record["refresh"]["of"] == 0 and record["weights"]["checkpoint"].endswith("better.safetensors")
    assert verify_dataset(output).num_problems == 0
    assert refresh(plan(made, output), quiet=True).status == "unchanged"

    assert rollback(output) == (1, 0)
    assert {row["image_id"]: row for row in open_dataset(output).rows()} == before
    assert open_dataset(output).rounds == (0,)
    with pytest.raises(ValueError, match="only round 0 published"):
        rollback(output)
    # a plain run goes on with what readers see, and the refresh finds its round again
    recipe = validate_recipe(Round(Folder(output), 0).read_record()["recipe"])  # type: ignore[index]
    assert run(recipe, quiet=True).round == 0
    restore(output, 1)
    assert open_dataset(output).rounds == (0, 1)

    stored = refilter(output, ["filter.pred_iou_thresh=0.99"], quiet=True)
    assert stored["round"] == 1
    left = [mask["mask_id"] for row in open_dataset(output).rows() for mask in row["masks"]]
    assert left == [person], "filters are for the model's masks"


def test_only_the_images_that_a_predicate_picks(made: Path, output: str) -> None:
    add_person(output)
    found = refresh(plan(made, output, where="source = 'human'"), quiet=True)
    assert (found.status, found.images) == ("published", 1)
    assert {row["image_id"]: row["round"] for row in open_dataset(output).rows()} == {
        "0.png": 1,
        "1.png": 0,
        "2.png": 0,
        "3.png": 0,
        "more/4.png": 0,
    }
    with pytest.raises(ValueError, match=r"where: .* holds no mask for which 'area > 1e9' is true"):
        refresh(plan(made, output, where="area > 1e9"), quiet=True)
    with pytest.raises(ValueError, match="there is no column 'aera'; did you mean 'area'"):
        refresh(plan(made, output, where="aera > 1"), quiet=True)


def test_the_gate_refuses_worse_weights_and_nothing_is_written(made: Path, output: str) -> None:
    files = sorted(str(path) for path in Path(output).rglob("*"))
    found = refresh(plan(made, output, "worse", 0.02), quiet=True)
    assert found.status == "refused" and found.round is None and "point_miou" in found.gate["fell"]
    assert found.gate["before"]["point_miou"] - found.gate["after"]["point_miou"] > 0.02
    assert sorted(str(path) for path in Path(output).rglob("*")) == files
    # the round's own figures are kept, so that they are measured once
    record = Round(Folder(output), 0).read_record()
    assert record is not None and record["evaluation"]["figures"] == found.gate["before"]
    arguments = ["refresh", output, "--checkpoint", str(made / "worse.safetensors"), "--held-out", str(made / "held")]
    answer = CliRunner().invoke(app, arguments)
    assert answer.exit_code == 1 and "refused: point_miou" in answer.stdout and "fell" in answer.stdout


def _run_ids(output: str) -> dict[str, str]:
    """Which run made each row of round 1."""
    target = Round(Folder(output), 1)
    rows = pa.concat_tables([target.read_part(part) for part in target.parts()])
    return dict(zip(rows["image_id"].to_pylist(), rows["run_id"].to_pylist(), strict=True))


def test_a_killed_refresh_is_invisible_and_goes_on(made: Path, output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    withhold(Folder(output), 1)  # as if killed before the round had a record
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.loop.refresh.carry_round", killed)
        with pytest.raises(KeyboardInterrupt):
            refresh(plan(made, output), quiet=True)
    assert open_dataset(output).rounds == (0,) and read_index(Folder(output)).withheld == (1,)
    with pytest.raises(ValueError, match="was never finished"):
        restore(output, 1)
    made_by = _run_ids(output)
    found = refresh(plan(made, output), quiet=True)
    assert (found.status, found.round, found.images) == ("published", 1, 5)
    assert _run_ids(output) == made_by, "its images were not annotated again"


def test_an_import_is_refreshed_with_a_recipe(made: Path, tmp_path: Path) -> None:
    output = str(tmp_path / "imported")
    import_labels(str(made / "held"), output, None, "human", quiet=True)
    with pytest.raises(ValueError, match=r"names none \(it is an import\); add --recipe"):
        refresh(plan(made, output), quiet=True)
    with pytest.raises(ValueError, match="is an import; use `maskfoundry refresh`"):
        run(validate_recipe({"input": str(made / "held"), "output": output, **SMALL}), quiet=True)
    found = refresh(plan(made, output, recipe=SMALL, max_fall=0), quiet=True)
    assert found.status == "published" and found.gate["before"] is None
    assert found.churn is not None and found.churn["human"] == 4 and found.masks > 0
    assert verify_dataset(output).num_problems == 0


def test_mistakes_are_one_line(made: Path, output: str, tmp_path: Path) -> None:
    debug = SAM_SIZES["debug"]
    save_sam(tmp_path / "debug.safetensors", build_sam(debug), debug, torch.float32)
    gate = GateSettings(data=str(made / "held"))
    other = RefreshPlan(output, str(tmp_path / "debug.safetensors"), gate)
    with pytest.raises(ValueError, match=r"checkpoint: .*debug.safetensors has image_size 64, the weights of round 0"):
        refresh(other, quiet=True)
    with pytest.raises(ValueError, match=r"gate.data: '/nowhere' holds no labels"):
        refresh(RefreshPlan(output, str(made / "better.safetensors"), GateSettings(data="/nowhere")), quiet=True)
    with pytest.raises(ValueError, match="holds no published round"):
        refresh(plan(made, str(tmp_path / "nothing")), quiet=True)
    with (
        hold_lease(Round(Folder(output), 0), "a run"),
        pytest.raises(ValueError, match=r"round=000 is still being written by run a run \(process"),
    ):
        refresh(plan(made, output), quiet=True)
    answer = CliRunner().invoke(app, ["refresh", output, "--checkpoint", "sam_tiny"])
    assert answer.exit_code == 1 and str(answer.exception).startswith("--held-out: missing; the gate needs labelled")
    assert list(Path(output).glob("round=*")) == [Path(output) / "round=000"]
