import contextlib
import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from pipeline.scenes.scene import render_scene
from pipeline.scenes.write import write_scenes


def load(path: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


# pycocotools' compiled decoder has not followed NumPy 2's rule for __array__.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_coco_loads_what_is_written_and_finds_the_rendered_masks(tmp_path: Path) -> None:
    seen: list[int] = []
    path = write_scenes(str(tmp_path / "out"), 2, seed=5, width=128, height=96, progress=seen.append)
    assert path == tmp_path / "out" / "annotations.json"
    assert seen == [1, 2]
    coco = load(path)
    assert [image["seed"] for image in coco.loadImgs(coco.getImgIds())] == [5, 6]
    for image in coco.loadImgs(coco.getImgIds()):
        scene = render_scene(image["seed"], 128, 96)
        assert image["file_name"] == f"images/scene_{image['seed']:08d}.jpg"
        assert (image["width"], image["height"], image["caption"]) == (128, 96, scene.caption)
        stored = np.asarray(cv2.imread(str(tmp_path / "out" / image["file_name"])))[..., ::-1]
        assert np.abs(stored.astype(int) - scene.image).mean() < 6
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=image["id"]))
        assert len(annotations) == len(scene.objects)
        first = annotations[0]["id"]
        for annotation, item in zip(annotations, scene.objects, strict=True):
            assert (coco.annToMask(annotation).astype(bool) == item.mask).all()
            assert isinstance(annotation["segmentation"]["counts"], str)
            assert annotation["area"] == item.mask.sum() == coco_mask.area(annotation["segmentation"])
            assert annotation["bbox"] == coco_mask.toBbox(annotation["segmentation"]).tolist()
            assert annotation["iscrowd"] == 0
            assert annotation["parent_id"] == (None if item.parent is None else first + item.parent)
            assert coco.loadCats(annotation["category_id"])[0]["name"] == item.shape == annotation["shape"]
            words = tuple(annotation[key] for key in ("caption", "colour", "pattern", "relation"))
            assert words == (item.caption, item.colour, item.pattern, item.relation)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_running_again_changes_nothing_and_workers_write_the_same_bytes(tmp_path: Path) -> None:
    write_scenes(str(tmp_path / "a"), 3, width=64, height=48)
    before = contents(tmp_path / "a")
    assert set(before) == {"_scenes.json", "annotations.json", *(f"images/scene_0000000{k}.jpg" for k in range(3))}
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*")}
    seen: list[int] = []
    write_scenes(str(tmp_path / "a"), 3, width=64, height=48, progress=seen.append)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*")} == times
    assert seen == [3]
    write_scenes(str(tmp_path / "b"), 3, width=64, height=48, num_workers=2)
    assert contents(tmp_path / "b") == before


def test_an_interrupted_output_is_finished(tmp_path: Path) -> None:
    def stop(done: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_scenes(str(tmp_path / "a"), 3, width=64, height=48, progress=stop)
    assert not (tmp_path / "a" / "annotations.json").exists()
    path = write_scenes(str(tmp_path / "a"), 3, width=64, height=48)
    write_scenes(str(tmp_path / "b"), 3, width=64, height=48)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert len(json.loads(path.read_text())["images"]) == 3


def test_another_outputs_folder_is_refused(tmp_path: Path) -> None:
    write_scenes(str(tmp_path / "a"), 1, width=64, height=48)
    with pytest.raises(ValueError, match=r"^output \S+ holds scenes with count 1 instead of 2, seed 0 instead of 4;"):
        write_scenes(str(tmp_path / "a"), 2, seed=4, width=64, height=48)
    (tmp_path / "b" / "images").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"^output \S+ holds images or annotations that are no scenes; choose another"):
        write_scenes(str(tmp_path / "b"), 1, width=64, height=48)
    (tmp_path / "c").write_text("")
    with pytest.raises(ValueError, match=r"^output \S+ is a file; name a folder$"):
        write_scenes(str(tmp_path / "c"), 1, width=64, height=48)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"count": 0}, r"^count must be 1 or more, got 0; ask for at least one scene$"),
        ({"seed": -2}, r"^seed must be 0 or more, got -2; choose a non-negative seed$"),
        ({"width": 8}, r"^width must be 32 to 4096 pixels, got 8; choose a side in between$"),
        ({"num_workers": 0}, r"^num_workers must be 1 or more, got 0; use 1 to render in this process$"),
        (
            {"output": "s3://bucket/x"},
            r"^output must be a local folder, got s3://bucket/x; write to a folder",
        ),
    ],
)
def test_bad_arguments_leave_nothing_behind(tmp_path: Path, changed: dict[str, object], message: str) -> None:
    arguments = {"output": str(tmp_path / "out"), "count": 1, "width": 64, "height": 48, **changed}
    with pytest.raises(ValueError, match=message):
        write_scenes(**arguments)
    assert not (tmp_path / "out").exists()
