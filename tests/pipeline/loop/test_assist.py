import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from typer.testing import CliRunner

from models.masks.rle import areas, bounding_boxes, decode_masks, encode_masks
from models.training.oracle import OracleSettings
from pipeline.cli import app
from pipeline.dataset import open_dataset
from pipeline.loop.assist import assist
from pipeline.loop.rollback import restore
from pipeline.store.index import publish
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder
from pipeline.store.verify import verify_dataset
from stages.mask_columns import MaskColumns
from stages.record import SCHEMA, set_columns
from stages.row_masks import masks_of

LEFT, RIGHT = np.zeros((2, 48, 64), np.uint8)
LEFT[10:30, 8:28] = RIGHT[20:44, 36:60] = 1


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    """Two pictures of two squares; of `a` the model is sure of the left one and not of another mask, `b` has none."""
    rows, coco = [], {"images": [], "annotations": []}  # type: tuple[list[dict[str, Any]], dict[str, list[Any]]]
    for number, name in enumerate(("a.png", "b.png")):
        pixels = np.full((48, 64, 3), 40, np.uint8)
        pixels[LEFT > 0], pixels[RIGHT > 0] = (220, 60, 60), (60, 60, 220)
        Image.fromarray(pixels).save(tmp_path / name)
        masks = [(LEFT, 0.9), (np.ones((48, 64), np.uint8), 0.2)] if name == "a.png" else []
        rles = encode_masks(np.stack([one for one, _ in masks])) if masks else []
        boxes = bounding_boxes(rles, 48).tolist() if rles else []
        fields = {"source": "auto", "stage": "automatic", "keep": True, "iscrowd": False, "tags": []}
        rows.append(
            {
                "image_id": f"more/{name}",
                "uri": str(tmp_path / name),
                "width": 64,
                "height": 48,
                "status": "ok",
                "tags": [],
                "masks": [
                    {"mask_id": f"{name}/0/{i}", "bbox": box, "area": int(area), "predicted_iou": score, **fields}
                    for i, (box, area, (_, score)) in enumerate(zip(boxes, areas(rles), masks, strict=True))
                ],
                "rles": rles,
                "raw_rles": [None] * len(rles),
                "round": 0,
            }
        )
        coco["images"].append({"id": number, "file_name": name, "width": 64, "height": 48})
        for rle in encode_masks(np.stack([LEFT, RIGHT])):
            one = {"id": len(coco["annotations"]), "image_id": number, "iscrowd": 0}
            coco["annotations"].append({**one, "segmentation": {"size": [48, 64], "counts": rle.decode()}})
    rows[0]["masks"][0]["parent_id"] = rows[0]["masks"][1]["mask_id"]
    (tmp_path / "annotations.json").write_text(json.dumps(coco))
    folder = Folder(str(tmp_path / "out"))
    Round(folder, 0).write_part(0, pa.Table.from_pylist(rows, schema=SCHEMA))
    Round(folder, 0).write_record({"round": 0, "fingerprints": {}, "runs": []})
    publish(folder, 0)
    return folder.uri


def test_sure_masks_stay_and_people_add_what_is_missing(dataset: str, tmp_path: Path) -> None:
    found = assist(dataset, str(tmp_path), confident=0.8, quiet=True)
    assert (found.stage, found.round, found.images, found.confident, found.added) == ("semi_automatic", 1, 2, 1, 3)
    a, b = (row for row in open_dataset(dataset).rows())
    assert [(mask["source"], mask["stage"]) for mask in a["masks"]] == [
        ("auto", "automatic"),
        ("human", "semi_automatic"),
    ]
    assert np.array_equal(decode_masks(a["rles"], 48, 64), [LEFT, RIGHT])
    assert a["masks"][0]["parent_id"] is None and a["masks"][0]["mask_id"] == "a.png/0/0"
    assert np.array_equal(decode_masks(b["rles"], 48, 64), [LEFT, RIGHT])
    (dropped,) = next(open_dataset(dataset, candidates=True).rows())["masks"][1:2]
    assert dropped["drop_reason"] == "not_confident" and verify_dataset(dataset).num_problems == 0
    assert assist(dataset, str(tmp_path), confident=0.8, quiet=True).added == 0, "everything is covered now"


def test_the_masks_that_stay_keep_their_embeddings(dataset: str, tmp_path: Path) -> None:
    target = Round(Folder(dataset), 0)
    rows = target.read_part(0)
    masks = MaskColumns.of(rows).with_embeddings([b"left", b"whole"], np.array([True, False]))
    target.write_part(0, set_columns(rows, masks.columns()))
    assist(dataset, str(tmp_path), confident=0.8, quiet=True)
    a, b = (row for row in open_dataset(dataset, candidates=True).rows())
    assert a["mask_embeddings"] == [b"left", b"whole", None] and b["mask_embeddings"] is None
    a, b = (row for row in open_dataset(dataset).rows())
    assert [mask.embedding and mask.embedding.vector for mask in masks_of(a)] == [b"left", None]
    assert len(b["masks"]) == 2 and verify_dataset(dataset).problems == []


def test_assisted_by_hand_everything_comes_from_people(dataset: str, tmp_path: Path) -> None:
    answer = CliRunner().invoke(app, ["assist", dataset, "--labels", str(tmp_path)])
    assert answer.exit_code == 0
    assert answer.stdout.endswith("(assisted): 2 images, 0 masks of the model kept, 4 added\n")
    assert {mask["stage"] for row in open_dataset(dataset).rows() for mask in row["masks"]} == {"assisted"}
    answer = CliRunner().invoke(app, ["rollback", dataset])
    assert answer.exit_code == 0 and "readers see round 0" in answer.stdout and open_dataset(dataset).rounds == (0,)
    assert CliRunner().invoke(app, ["rollback", dataset, "--undo", "1"]).exit_code == 0
    assert open_dataset(dataset).rounds == (0, 1)
    with pytest.raises(ValueError, match=r"round: 0 of .* is not withheld"):
        restore(dataset, 0)


def test_the_oracle_clicks_like_a_person(dataset: str, tmp_path: Path) -> None:
    found = assist(dataset, str(tmp_path), 0.8, OracleSettings(least_iou=0.5), "sam_tiny", quiet=True)
    assert found.added + found.missed == 3 and found.added > 0 and found.clicks >= found.added
    for row in open_dataset(dataset).rows():
        for mask, rle in zip(row["masks"], decode_masks(row["rles"], 48, 64), strict=True):
            if mask["source"] == "human":
                best = max((rle & one).sum() / (rle | one).sum() for one in (LEFT, RIGHT))
                assert best >= 0.5 and len(mask["point"]) == 2


def test_mistakes_are_one_line(dataset: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--checkpoint: missing; the oracle clicks with a model"):
        assist(dataset, str(tmp_path), oracle=OracleSettings(), quiet=True)
    coco = json.loads((tmp_path / "annotations.json").read_text())
    (tmp_path / "other").mkdir()
    Image.new("RGB", (64, 48)).save(tmp_path / "other" / "z.png")
    coco["images"] = [{"id": 0, "file_name": "z.png", "width": 64, "height": 48}]
    coco["annotations"] = [one for one in coco["annotations"] if one["image_id"] == 0]
    (tmp_path / "other" / "annotations.json").write_text(json.dumps(coco))
    with pytest.raises(ValueError, match=r"none of the 1 images of .* is in"):
        assist(dataset, str(tmp_path / "other"), quiet=True)
    assert open_dataset(dataset).rounds == (0,)
