"""An evaluation, or a choice of thresholds, as tables for a person."""

from rich.table import Column, Table

from models.evaluation.sizes import SIZES, BySize
from pipeline.evaluation.choose_thresholds import ThresholdChoice
from pipeline.evaluation.evaluate import Evaluation


def size_table(found: Evaluation) -> Table:
    """The prompted and automatic measures, a column a size."""
    table = Table("", *(_right(size) for size in SIZES))
    table.add_row("labelled masks", *(f"{found.num_masks[size]:,}" for size in SIZES))
    rows: list[tuple[str, BySize]] = [
        ("1-point mIoU, by predicted IoU", found.point_miou),
        ("1-point mIoU, best output", found.point_miou_best),
        ("box mIoU", found.box_miou),
        *((f"average recall at {limit}", recall) for limit, recall in found.average_recall.items()),
        ("best overlap of a segment", found.best_overlap_by_size),
    ]
    for name, means in rows:
        table.add_row(name, *(_figure(means[size]) for size in SIZES))
    return table


def overlap_table(found: Evaluation) -> Table:
    """How well the kept automatic masks cover the labels: annotators, then images averaged."""
    headers = ("area-weighted best", "mean best", "recall .5", "recall .75", "masks an image")
    table = Table(*(_right(name) for name in headers))
    best = found.best_overlap
    figures = [None] * 4 if best is None else [best.area_weighted_best, best.mean_best, best.recall_50, best.recall_75]
    table.add_row(*(_figure(one) for one in figures), f"{found.masks_per_image:,.1f} (most {found.most_masks:,})")
    return table


def calibration_table(found: Evaluation) -> Table:
    """Predicted against true IoU: the expected calibration errors as title, the curve of all prompts as rows."""
    errors = ", ".join(f"{name} {_figure(one.error)}" for name, one in found.calibration.items())
    table = Table("predicted IoU", *(_right(name) for name in ("masks", "mean predicted", "mean true")))
    table.title = f"calibration error: {errors}"
    for one in found.calibration["all"].bins:
        row = (f"{one.low:.2f} to {one.high:.2f}", f"{one.num_masks:,}", _figure(one.mean_predicted))
        table.add_row(*row, _figure(one.mean_true))
    return table


def choice_table(choice: ThresholdChoice, num_rows: int = 10) -> Table:
    """The best pairs of thresholds that keep no more masks than the chosen one, best first."""
    headers = ("predicted IoU >", "stability ≥", "area-weighted best", "masks an image", "most")
    table = Table(*(_right(name) for name in headers))
    fitting = [trial for trial in choice.trials if trial.masks_per_image <= choice.chosen.masks_per_image]
    fitting.sort(key=lambda trial: (-trial.area_weighted_best, trial.masks_per_image))
    for trial in fitting[:num_rows]:
        thresholds = (f"{trial.pred_iou_thresh:g}", f"{trial.stability_score_thresh:g}")
        table.add_row(
            *thresholds, _figure(trial.area_weighted_best), f"{trial.masks_per_image:,.1f}", f"{trial.most_masks:,}"
        )
    return table


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _right(header: str) -> Column:
    return Column(header, justify="right")
