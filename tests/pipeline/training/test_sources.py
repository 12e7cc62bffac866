import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from models.masks.rle import decode_masks, encode_masks
from models.sam.config import SAM_SIZES
from models.training.augment import AugmentSettings
from pipeline.sources.places import RECORDED
from pipeline.store.index import publish
from pipeline.store.lease import hold_lease
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder
from pipeline.training.data import ExampleSource
from pipeline.training.recipe import DataSource
from pipeline.training.sources import DatasetImages, LabelledImages, data_fingerprint, open_training_images
from stages.record import SCHEMA

LEFT, TOP = np.zeros((2, 24, 32), np.uint8)
LEFT[:, :12] = TOP[:6] = 1
WHOLE = np.ones((24, 32), np.uint8)


def _row(picture: Path, number: int, masks: list[tuple[np.ndarray, dict[str, Any]]]) -> dict[str, Any]:
    rles = encode_masks(np.stack([one for one, _ in masks])) if masks else []
    fields = {"source": "sam", "keep": True, "predicted_iou": 0.5, "stability_score": 0.8}
    return {
        "image_id": picture.name,
        "uri": str(picture),
        "content_sha256": hashlib.sha256(picture.read_bytes()).hexdigest(),
        "width": 32,
        "height": 24,
        "status": "annotated",
        "masks": [
            {"mask_id": f"{number}/{index}", "area": int(one.sum()), **fields, **changes}
            for index, (one, changes) in enumerate(masks)
        ],
        "rles": rles,
        "raw_rles": rles,
        "round": number,
        "decode": {"bands": [0, 1, 2]},
    }


def _commit(folder: Folder, number: int, parts: list[list[dict[str, Any]]], published: bool = True) -> None:
    for index, rows in enumerate(parts):
        Round(folder, number).write_part(index, pa.Table.from_pylist(rows, schema=SCHEMA))
    Round(folder, number).write_record({"round": number, RECORDED: [str(Path(folder.uri).parent)], "runs": []})
    if published:
        publish(folder, number)


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{name}.png" for name in "abc"]
    for index, path in enumerate(paths):
        Image.fromarray(np.full((24, 32, 3), 60 + index, np.uint8)).save(path)
    return paths


@pytest.fixture
def dataset(tmp_path: Path, pictures: list[Path]) -> Folder:
    """a: one kept mask of two; b: newer masks in round 1; c: nothing kept in its newest round. Round 2 is no reader's
    yet."""
    folder = Folder(str(tmp_path / "dataset"))
    a, b, c = pictures
    dropped = {"keep": False, "drop_reason": "predicted_iou"}
    _commit(
        folder, 0, [[_row(a, 0, [(LEFT, dropped), (TOP, {})])], [_row(b, 0, [(LEFT, {})]), _row(c, 0, [(TOP, {})])]]
    )
    _commit(folder, 1, [[_row(c, 1, []), _row(b, 1, [(TOP, {"source": "human", "predicted_iou": None}), (LEFT, {})])]])
    _commit(folder, 2, [[_row(a, 2, [(WHOLE, {})])]], published=False)
    return folder


def test_the_newest_published_round_of_each_image_with_its_kept_masks(dataset: Folder, pictures: list[Path]) -> None:
    (found,) = open_training_images([dataset.uri])
    assert isinstance(found, DatasetImages) and len(found) == 2
    a, b = sorted((found.read(index) for index in range(2)), key=lambda one: one.name)
    assert [a.name, b.name] == [str(path) for path in pictures[:2]]
    assert np.array_equal(decode_masks(a.rles, 24, 32), [TOP])
    assert a.weights == pytest.approx([0.4]), "the product of its scores"
    assert np.array_equal(decode_masks(b.rles, 24, 32), [TOP, LEFT])
    assert b.weights == pytest.approx([10, 0.4])
    assert a.pixels.shape == (24, 32, 3) and a.pixels[0, 0].tolist() == [60, 60, 60]


def test_a_predicate_a_round_and_weights_choose_the_masks(dataset: Folder, pictures: list[Path]) -> None:
    path = dataset.uri
    (people,) = open_training_images([DataSource(path=path, where="source = 'human'", human_weight=3)])
    assert len(people) == 1 and people.read(0).name == str(pictures[1])
    assert people.read(0).weights.tolist() == [3] and np.array_equal(decode_masks(people.read(0).rles, 24, 32), [TOP])
    (first,) = open_training_images([DataSource(path=path, round=0, score_weights=False)])
    assert sorted(first.read(index).name for index in range(len(first))) == [str(one) for one in pictures]
    assert first.read(0).weights.tolist() == [1]
    with pytest.raises(ValueError, match=r"none of the 3 images of .* has a mask for which 'area > 1000' is true"):
        open_training_images([DataSource(path=path, where="area > 1000")])
    with pytest.raises(ValueError, match="round: 7 is not in"):
        open_training_images([DataSource(path=path, round=7)])
    with (
        hold_lease(Round(dataset, 1), "a run"),
        pytest.raises(ValueError, match=r"data: .*round=001 is still being written by run a run"),
    ):
        open_training_images([path])


def test_crowds_are_left_out_of_a_dataset_as_out_of_labels(tmp_path: Path, pictures: list[Path]) -> None:
    folder, crowd = Folder(str(tmp_path / "crowds")), {"iscrowd": True}
    rows = [_row(pictures[0], 0, [(LEFT, crowd), (TOP, {})]), _row(pictures[1], 0, [(WHOLE, crowd)])]
    _commit(folder, 0, [rows])
    (found,) = open_training_images([folder.uri])
    assert len(found) == 1 and np.array_equal(decode_masks(found.read(0).rles, 24, 32), [TOP])
    assert len(found.read(0).weights) == 1 and found.notes.counts == {"left out: crowd region": 2}


def test_the_fingerprint_is_of_the_masks_and_not_of_the_files(dataset: Folder, tmp_path: Path) -> None:
    before = data_fingerprint(open_training_images([dataset.uri]))
    target = Round(dataset, 0)
    target.write_part(2, pa.concat_tables([target.read_part(part) for part in (1, 0)]))
    for part in (0, 1):
        dataset.remove(f"{target.name}/part-{part:06d}.parquet")
    assert data_fingerprint(open_training_images([dataset.uri])) == before
    assert data_fingerprint(open_training_images([DataSource(path=dataset.uri, where="area > 200")])) != before
    publish(dataset, 2)
    assert data_fingerprint(open_training_images([dataset.uri])) != before


def test_a_picture_that_changed_or_vanished_is_named(dataset: Folder, pictures: list[Path]) -> None:
    (found,) = open_training_images([dataset.uri])
    Image.fromarray(np.zeros((24, 32, 3), np.uint8)).save(pictures[0])
    pictures[1].unlink()
    for index in range(2):
        with pytest.raises(ValueError, match=r"a\.png: .*has changed since|b\.png: cannot be read"):
            found.read(index)


def test_a_dataset_without_kept_masks_is_refused(tmp_path: Path, pictures: list[Path]) -> None:
    folder = Folder(str(tmp_path / "empty"))
    _commit(folder, 0, [[_row(pictures[0], 0, []), _row(pictures[1], 0, [(TOP, {"keep": False})])]])
    with pytest.raises(ValueError, match=r"none of the 2 images of .* has a kept mask"):
        open_training_images([folder.uri])
    with pytest.raises(ValueError, match="is no dataset, and only those have `where`"):
        open_training_images([DataSource(path=str(pictures[0].parent), where="area > 1")])


def test_sets_are_mixed_and_each_epoch_shows_every_image_once(
    dataset: Folder, pictures: list[Path], tmp_path: Path
) -> None:
    from pipeline.coco_labels import LabelledImage

    labels = LabelledImages([LabelledImage(pictures[2], 24, 32, {0: encode_masks(LEFT[None])})])
    sets = [*open_training_images([dataset.uri]), labels]
    source = ExampleSource(sets, SAM_SIZES["debug"], AugmentSettings(min_scale=1, max_scale=1, flip=0), 5, 3)
    for step in range(3):
        examples = source(step)
        assert sorted(example.name for example in examples) == [str(path) for path in pictures]
        for example in examples:
            assert len(example.weights) == len(example.masks) > 0

    often = ExampleSource(
        sets, SAM_SIZES["debug"], AugmentSettings(min_scale=1, max_scale=1, flip=0), 5, 4, repeats=[1, 2]
    )
    names = [example.name for step in range(2) for example in often(step)]
    assert sorted(names) == sorted([*map(str, pictures), str(pictures[2])] * 2), "the labelled image twice an epoch"
