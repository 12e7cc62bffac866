import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from models.evaluation.overlap import Overlap
from models.evaluation.prompts import PromptScores
from models.generator.candidates import Candidates
from models.masks.rle import areas, bounding_boxes, encode_masks
from models.sam2.build import build_sam2
from models.sam2.config import SAM2_SIZES
from models.sam2.weights import save_sam2
from pipeline.coco_labels import LabelledImage
from pipeline.evaluation.calibrate import calibrate
from pipeline.evaluation.choose_thresholds import (
    PREDICTED_IOU_GRID,
    STABILITY_GRID,
    Trial,
    best_trial,
    choose_thresholds,
    try_thresholds,
)
from pipeline.evaluation.evaluate import EvaluationTally, evaluate, kept_masks
from pipeline.evaluation.tables import calibration_table, choice_table, overlap_table, size_table
from pipeline.recipes.load_recipe import validate_recipe
from pipeline.recipes.recipe import Recipe
from pipeline.scenes.write import write_scenes
from stages.filter_settings import FilterSettings

HEIGHT, WIDTH = 100, 120


def recipe(checkpoint: str = "sam_tiny", **filters: float) -> Recipe:
    return validate_recipe(
        {
            "input": "unused",
            "output": "unused",
            "model": {"checkpoint": checkpoint},
            "generate": {"points_per_side": 6},
            "filter": {"pred_iou_thresh": 0.1, "stability_score_thresh": 0.3, **filters},
        }
    )


def rectangle(x0: int, y0: int, x1: int, y1: int) -> bytes:
    mask = np.zeros((1, HEIGHT, WIDTH), bool)
    mask[0, y0:y1, x0:x1] = True
    return encode_masks(mask)[0]


def labelled(segments: dict[int | str, list[bytes]]) -> LabelledImage:
    return LabelledImage(Path("x.png"), HEIGHT, WIDTH, segments)


def scores(rows: list[list[float]], num_outputs: int) -> PromptScores:
    values = np.array(rows).reshape(-1, num_outputs)
    return PromptScores(values, values)


def test_a_perfect_oracle_gets_one_everywhere() -> None:
    segments = [rectangle(3, 4, 4, 5), rectangle(10, 10, 60, 60), rectangle(0, 0, 120, 100)]
    tally = EvaluationTally()
    tally.add(labelled({0: segments[:2], 1: segments[2:]}), scores([[1] * 3] * 3, 3), scores([[1]] * 3, 1), segments)
    assert tally.chosen.counts() == {"all": 3, "small": 1, "medium": 1, "large": 1}
    for means in (tally.chosen, tally.best, tally.box, tally.by_size):
        assert set(means.means().values()) == {1.0}
    assert {value for sizes in tally.recall.average_recall().values() for value in sizes.values()} == {1.0}
    assert tally.overlaps == [Overlap(1.0, 1.0, 1.0, 1.0)]
    assert {one.calibration().error for one in tally.calibration.values()} == {0.0}
    assert tally.calibration["all"].calibration().num_masks == 12


def test_annotators_are_averaged_within_their_image() -> None:
    whole, half = rectangle(0, 0, 120, 100), rectangle(0, 0, 60, 100)
    tally = EvaluationTally()
    # the first person's one segment is found, of the second's two a quarter of the pixels are in the only mask
    image = labelled({0: [half], 1: [whole, rectangle(60, 0, 120, 100)]})
    tally.add(image, scores([[0.5] * 3] * 3, 3), scores([[0.5]] * 3, 1), [half])
    (one,) = tally.overlaps
    assert one.area_weighted_best == pytest.approx((1 + (12_000 * 0.5 + 6_000 * 0) / 18_000) / 2)
    assert one.mean_best == pytest.approx((1 + (0.5 + 0) / 2) / 2)
    assert tally.by_size.means()["all"] == pytest.approx((1 + 0.5 + 0) / 3)


def test_no_masks_found_and_an_image_whose_labels_are_empty() -> None:
    tally = EvaluationTally()
    tally.add(labelled({}), scores([], 3), scores([], 1), [rectangle(0, 0, 9, 9)])
    assert tally.overlaps == [] and tally.chosen.means()["all"] is None and tally.kept_counts == [1]
    tally.add(labelled({0: [rectangle(5, 5, 6, 6)]}), scores([[0.0] * 3], 3), scores([[0.0]], 1), [])
    assert tally.overlaps == [Overlap(0.0, 0.0, 0.0, 0.0)] and tally.kept_counts == [1, 0]
    assert tally.recall.average_recall()["10"]["small"] == 0.0 and tally.chosen.means()["all"] == 0.0


def printed(table: Table) -> str:
    console = Console(width=100)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(str(tmp_path_factory.mktemp("set") / "scenes"), 2, seed=40, width=128, height=96).parent


def test_a_real_model_on_real_scenes(scenes: Path) -> None:
    found = evaluate(recipe(), str(scenes), quiet=True)
    total = len(json.loads((scenes / "annotations.json").read_text())["annotations"])
    assert found.num_images == 2 and found.num_masks["all"] == total
    assert sum(found.num_masks[size] for size in ("small", "medium", "large")) == total
    for size, point in found.point_miou.items():
        best, box = found.point_miou_best[size], found.box_miou[size]
        assert (point is None) == (best is None) == (box is None) == (found.num_masks[size] == 0)
        assert point is None or (0 <= point <= best <= 1 and 0 <= box <= 1)
    # a trained model: its answers are far from chance, and a box says more than a point
    assert found.point_miou_best["all"] > 0.15 and found.box_miou["all"] > found.point_miou["all"] > 0.05
    ranked = [found.average_recall[limit]["all"] for limit in ("10", "100", "1000")]
    assert ranked == sorted(ranked)
    assert found.best_overlap is not None and 0 < found.best_overlap.area_weighted_best < 1
    assert 0 < found.masks_per_image <= found.most_masks
    calibration = found.calibration
    assert calibration["point"].num_masks == 3 * total and calibration["box"].num_masks == total
    assert calibration["all"].num_masks == 4 * total and 0 <= calibration["all"].error < 0.5
    assert json.loads(json.dumps(found.as_dict()))["num_images"] == 2
    assert f"box mIoU                       │ {found.box_miou['all']:.3f}" in printed(size_table(found))
    assert f"{found.masks_per_image:.1f} (most {found.most_masks})" in printed(overlap_table(found))
    shown = printed(calibration_table(found))
    assert f"calibration error: all {calibration['all'].error:.3f}" in shown
    assert shown.count(" to ") == len(calibration["all"].bins)

    again = evaluate(recipe(), str(scenes / "annotations.json"), images=str(scenes), limit=1, quiet=True)
    assert again.num_images == 1 and again.num_masks["all"] < total


def test_a_sam_2_is_measured_alike(scenes: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_sam2(tmp_path / "debug.safetensors", build_sam2(SAM2_SIZES["debug"]), torch.float32)
    found = evaluate(recipe(str(tmp_path / "debug.safetensors")), str(scenes), quiet=True)
    assert found.num_masks["all"] > 10 and found.calibration["point"].num_masks == 3 * found.num_masks["all"]
    assert 0 <= (found.point_miou["all"] or 0) <= (found.point_miou_best["all"] or 0) < 1


def test_thresholds_that_let_nothing_through_are_measured_too(scenes: Path) -> None:
    found = evaluate(recipe(pred_iou_thresh=1.0), str(scenes), limit=1, quiet=True)
    assert found.masks_per_image == 0 and found.average_recall["1000"]["all"] == 0.0
    assert found.best_overlap == Overlap(0.0, 0.0, 0.0, 0.0)
    assert "0.0 (most 0)" in printed(overlap_table(found))


def test_chosen_thresholds_are_those_that_evaluation_confirms(scenes: Path) -> None:
    choice = choose_thresholds(recipe(), str(scenes), max_masks=12, quiet=True)
    chosen = choice.chosen
    assert choice.num_images == 2 and len(choice.trials) == len(PREDICTED_IOU_GRID) * len(STABILITY_GRID)
    assert 0 < chosen.masks_per_image <= 12
    best_row = printed(choice_table(choice)).splitlines()[3]
    assert f"{chosen.pred_iou_thresh:g} " in best_row and f" {chosen.area_weighted_best:.3f} " in best_row
    allowed = [trial.area_weighted_best for trial in choice.trials if trial.masks_per_image <= 12]
    assert chosen.area_weighted_best == max(allowed)
    thresholds = {name: getattr(chosen, name) for name in ("pred_iou_thresh", "stability_score_thresh")}
    confirmed = evaluate(recipe(**thresholds), str(scenes), quiet=True)
    assert confirmed.best_overlap is not None
    assert confirmed.best_overlap.area_weighted_best == pytest.approx(chosen.area_weighted_best)
    assert (confirmed.masks_per_image, confirmed.most_masks) == (chosen.masks_per_image, chosen.most_masks)


@pytest.mark.parametrize("two_crops", [False, True])
def test_every_pair_is_what_the_filters_themselves_say(two_crops: bool) -> None:
    rng = np.random.default_rng(5)
    corners = [(x, y, x + w, y + h) for x, y, w, h in rng.integers([0, 0, 9, 9], [70, 50, 50, 50], (40, 4)).tolist()]
    rles = [rectangle(*corner) for corner in corners]
    crops = np.tile([[0, 0, WIDTH, HEIGHT]], (40, 1)).astype(np.int32)
    if two_crops:
        crops[20:] = [0, 0, 80, HEIGHT]
    found = Candidates(
        height=HEIGHT,
        width=WIDTH,
        number=np.arange(40),
        bbox=bounding_boxes(rles, HEIGHT),
        area=areas(rles),
        predicted_iou=rng.random(40).astype(np.float32),
        stability_score=rng.random(40).astype(np.float32),
        point=np.zeros((40, 2), np.float32),
        crop_box=crops,
        crop_layer=np.zeros(40, np.int8),
        mask_index=np.zeros(40, np.int8),
        rles=rles,
    )
    filters = FilterSettings(box_nms_thresh=0.4, crop_nms_thresh=0.3, crop_edge_tolerance=None, duplicate_iou=0.5)
    covered, counts = try_thresholds(labelled({0: [rectangle(20, 20, 60, 60)]}), found, filters)
    assert covered.shape == counts.shape == (len(STABILITY_GRID), len(PREDICTED_IOU_GRID))
    for row, stability in enumerate(STABILITY_GRID):
        for column in range(0, len(PREDICTED_IOU_GRID), 7):
            update = {"pred_iou_thresh": PREDICTED_IOU_GRID[column], "stability_score_thresh": stability}
            assert counts[row, column] == len(kept_masks(found, filters.model_copy(update=update)))
    assert counts[0, 0] > counts[0, -1] and covered[0, 0] >= covered[0, -1]


def test_the_best_pair_under_a_cap() -> None:
    many, few, twin = (
        Trial(0.1, 0.5, 0.7, 400.0, 500),
        Trial(0.2, 0.5, 0.6, 200.0, 310),
        Trial(0.2, 0.6, 0.6, 150.0, 160),
    )
    assert best_trial([many, few, twin], 400) is many
    assert best_trial([many, few, twin], 300) is twin
    with pytest.raises(ValueError, match=r"max_masks: every pair .* more than 100 .* allow 150"):
        best_trial([many, few, twin], 100)


def test_wrong_labels_are_refused_before_the_model_is_loaded(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"annotations.json: cannot be read"):
        evaluate(recipe(), str(tmp_path), quiet=True)


def test_a_calibrated_model_predicts_what_comes_true(scenes: Path, tmp_path: Path) -> None:
    calibrated = tmp_path / "calibrated.safetensors"
    data = write_scenes(str(tmp_path / "data"), 10, seed=60, width=96, height=64).parent
    fit = calibrate("sam_tiny", str(data), calibrated, quiet=True)
    assert fit.error_after < fit.error_before and fit.chosen_after <= fit.best
    before = evaluate(recipe(), str(scenes), quiet=True)
    after = evaluate(recipe(checkpoint=str(calibrated)), str(scenes), quiet=True)
    assert after.box_miou == before.box_miou and after.point_miou_best == before.point_miou_best
    errors = [one.calibration["all"].error or 0.0 for one in (before, after)]
    assert errors[1] < min(errors[0], 0.05)
