from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from models.masks.rle import areas, bounding_boxes, encode_masks
from pipeline.recipes.vocabularies import read_vocabulary
from stages.caption_settings import CaptionSettings
from stages.captioning import read_captioning
from stages.embed_masks import Regions
from stages.masklets import masklet_table
from stages.name_masklets import NameMasklets, shown_on
from stages.tag_settings import TagSettings
from stages.tagging import read_tagging
from stages.video_settings import VideoSettings

TAG = TagSettings(checkpoint="clip_small", vocabulary="scenes", threshold=0.1)
COLOURS = {"red": (220, 20, 20), "blue": (20, 40, 220)}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKFOUNDRY_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def clip(tmp_path: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """Four frames on which a red square grows and a blue one shrinks, and their masks (4, H, W)."""
    rng, folder = np.random.default_rng(0), tmp_path / "clip"
    folder.mkdir()
    masks = {name: np.zeros((4, 96, 160), bool) for name in COLOURS}
    for frame in range(4):
        masks["red"][frame, 10 : 26 + 12 * frame, 10 : 26 + 12 * frame] = True
        masks["blue"][frame, 20 : 70 - 12 * frame, 90 : 150 - 12 * frame] = True
        image = rng.integers(110, 140, (96, 160, 3), dtype=np.uint8)
        for name, colour in COLOURS.items():
            image[masks[name][frame]] = colour
        Image.fromarray(image).save(folder / f"{frame}.png")
    return folder, masks


def row(folder: Path, masks: np.ndarray, number: int, key_frame: int = 0, keep: bool = True) -> dict[str, Any]:
    rles = encode_masks(masks[key_frame:])
    return {
        "masklet_id": f"clip/0/{number}", "video_id": "clip", "uri": str(folder), "status": "ok", "keep": keep,
        "height": 96, "width": 160, "num_frames": 4, "key_frame": key_frame, "predicted_iou": 0.5 + number / 10,
        "rles": rles, "areas": areas(rles).tolist(),
    }  # fmt: skip


def named(rows: list[dict[str, Any]], caption: CaptionSettings | None = None) -> tuple[NameMasklets, pa.Table]:
    tagging = read_tagging(TAG, read_vocabulary("scenes"))
    captioning = None if caption is None else read_captioning(caption, tagging)
    stage = NameMasklets(VideoSettings(), tagging, captioning, 8, "cpu", 1)
    return stage, stage(masklet_table(rows))


def test_each_is_named_by_the_frame_that_shows_it_largest(clip: tuple[Path, dict[str, np.ndarray]]) -> None:
    folder, masks = clip
    rows = [row(folder, masks["red"], 0), row(folder, masks["blue"], 1, key_frame=1)]
    assert [shown_on(one) for one in rows] == [3, 1]
    stage, table = named(rows)
    for one, frame, colour in zip(rows, (3, 1), ("red", "blue"), strict=True):
        place = rows.index(one)
        rle = one["rles"][frame - one["key_frame"]]
        image = np.asarray(Image.open(folder / f"{frame}.png"))
        encoded = stage.tagger.encoder.encode([Regions(image, [rle], bounding_boxes([rle], 96))])[0]
        expected = stage.tagger.tags(*encoded)[1][0]
        tags = table["tags"][place].as_py()
        assert [tag["name"] for tag in tags] == [name for name, _ in expected]
        assert [tag["score"] for tag in tags] == pytest.approx([score for _, score in expected], abs=1e-5)
        assert colour in [tag["name"] for tag in tags]
    assert table["caption"].null_count == 2 and table["error"].null_count == 2
    assert table.drop_columns(["tags"]).equals(masklet_table(rows).drop_columns(["tags"]))


def test_the_best_are_described(clip: tuple[Path, dict[str, np.ndarray]]) -> None:
    folder, masks = clip
    rows = [row(folder, masks["red"], 0), row(folder, masks["blue"], 1)]
    settings = CaptionSettings(templates=("something {colour}",), max_masks=1, by="predicted_iou", min_score=-1)
    _, table = named(rows, settings)
    assert table["caption"].to_pylist() == [None, "something blue"]


def test_what_is_rejected_empty_or_gone_stays_without_a_name(clip: tuple[Path, dict[str, np.ndarray]]) -> None:
    folder, masks = clip
    nothing = np.zeros_like(masks["red"])
    failed = {"video_id": "x", "uri": "x.mp4", "status": "failed", "error": "decode: no"}
    rows = [row(folder, masks["red"], 0, keep=False), row(folder, nothing, 1), failed]
    gone = row(folder, masks["red"], 2) | {"video_id": "gone", "uri": str(folder / "gone"), "masklet_id": "gone/0/2"}
    _, table = named([*rows, gone, row(folder, masks["red"], 3)])
    assert [len(tags) > 0 for tags in table["tags"].to_pylist()] == [False, False, False, False, True]
    errors = table["error"].to_pylist()
    assert errors[:3] == [None, None, "decode: no"] and errors[3].startswith("tag: ") and errors[4] is None
    assert table["status"].to_pylist() == ["ok", "ok", "failed", "ok", "ok"]
    assert named([failed])[1].num_rows == 1
