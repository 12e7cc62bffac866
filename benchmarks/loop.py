"""Does the loop make a model better? Rounds of masks without labels, and what helps: filters, score weights, people.

    python -m benchmarks.loop --weights SHORT.safetensors --scenes SCENES --photos BSDS --held-out HELD_OUT --work WORK

From weights that were trained short: round 0 annotates scenes (their labels are not looked at) and the photographs of
odd index; two rounds of training on the kept masks and annotating again follow. Each is measured on held-out scenes and
on people's segments of the photographs of even index. Then, each one training on the masks of round 0: all candidates
instead of the filtered masks, every mask weighted alike, and the semi-automatic stage, in which an oracle clicks the
scenes' objects that no confident mask covers. The gate is open, so that a fall shows.

Everything goes on where it was stopped. One thread; processor time is what the table tells.
"""

import argparse
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.table import markdown_table
from models.training.oracle import OracleSettings
from models.weight_files import read_metadata
from pipeline.coco_labels import read_coco
from pipeline.evaluation.evaluate import evaluate
from pipeline.loop.assist import assist
from pipeline.loop.gate import figures_of
from pipeline.loop.refresh import RefreshPlan, refresh
from pipeline.loop.settings import GateSettings
from pipeline.recipes.load_recipe import validate_recipe, validate_train_recipe
from pipeline.replays.refilter import refilter
from pipeline.runs.ray_runtime import connected_ray
from pipeline.runs.run import run
from pipeline.store.index import read_index
from pipeline.store.storage import Folder
from pipeline.training.files import WEIGHTS
from pipeline.training.worker import train_on

FILTER = {"pred_iou_thresh": 0.4, "stability_score_thresh": 0.7}
FLOOR = {"predicted_iou": 0.2, "stability_score": 0.3}
CONFIDENT = 0.6
NO_FILTER = [
    f"filter.pred_iou_thresh={FLOOR['predicted_iou']}",
    f"filter.stability_score_thresh={FLOOR['stability_score']}",
    "filter.box_nms_thresh=null",
    "filter.duplicate_iou=null",
    "filter.duplicate_containment=null",
    "filter.max_cover=null",
    "filter.min_component_area=0",
    "filter.max_hole_area=0",
]
MEASURES = ("point_miou", "average_recall_100", "best_overlap")
SETS = ("scenes", "photographs")


def main() -> None:
    """Runs what is not there yet, and prints the table."""
    arguments = _arguments()
    torch.set_num_threads(1)
    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    _collect(arguments, work)
    with connected_ray(num_cpus=2):
        rows = _rounds(arguments, work) + _variants(arguments, work)
    headers = ["masks trained on", *(f"{one}: {name}" for one in SETS for name in MEASURES)]
    print(
        markdown_table(
            headers, [[name, *(_text(found[one][m]) for one in SETS for m in MEASURES)] for name, found in rows]
        )
    )
    (work / "table.json").write_text(json.dumps(dict(rows), indent=2) + "\n", encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--weights", type=Path, required=True, help="a SAM that was trained short")
    add("--scenes", type=Path, required=True, help="labelled scenes; only the oracle sees their labels")
    add("--photos", type=Path, required=True, help="labelled photographs (annotations.json and images/)")
    add("--held-out", type=Path, required=True, help="labelled scenes for measuring")
    add("--work", type=Path, required=True)
    add("--num-scenes", type=int, default=60)
    add("--num-photos", type=int, default=40)
    add("--num-measured", type=int, default=30, help="of held-out scenes, and of photographs")
    add("--steps", type=int, default=60, help="of each training")
    return parser.parse_args()


def _collect(arguments: argparse.Namespace, work: Path) -> None:
    """`images/`: scenes and odd photographs; `even.json`: the labels of even photographs."""
    coco = read_coco(arguments.photos / "annotations.json")
    names = sorted(one["file_name"] for one in coco["images"])
    odd, even = names[1::2][: arguments.num_photos], set(names[0::2])
    (work / "images").mkdir(exist_ok=True)
    scenes = sorted((arguments.scenes / "images").iterdir())[: arguments.num_scenes]
    for path in [*scenes, *(arguments.photos / "images" / name for name in odd)]:
        if not (work / "images" / path.name).exists():
            shutil.copy(path, work / "images" / path.name)
    images = [one for one in coco["images"] if one["file_name"] in even]
    ids = {one["id"] for one in images}
    kept = [one for one in coco["annotations"] if one["image_id"] in ids]
    (work / "even.json").write_text(json.dumps({**coco, "images": images, "annotations": kept}), encoding="utf-8")


def _recipe(work: Path, dataset: Path, weights: Path) -> dict[str, Any]:
    return {
        "input": str(work / "images"),
        "output": str(dataset),
        "preset": "default",
        "model": {"checkpoint": str(weights)},
        "generate": {"points_per_side": 12, "store_floor": {**FLOOR, "max_candidates": 200}},
        "filter": FILTER,
        "resources": {"num_cpus": 1, "sam_actors": 1},
    }


def _rounds(arguments: argparse.Namespace, work: Path) -> list[tuple[str, Any]]:
    """Two automatic rounds; a copy of the dataset after round 0 stays for the variants."""
    dataset, weights = work / "auto", arguments.weights.resolve()
    if not (work / "round-0").exists():
        _timed("annotate 0", lambda: run(validate_recipe(_recipe(work, dataset, weights)), quiet=True))
        shutil.copytree(dataset, work / "round-0")
    rows = [("round 0 (none)", _measure(arguments, work, "round 0", weights))]
    for number in (1, 2):
        weights = _train(arguments, work, f"round-{number}", dataset, weights)
        gate = GateSettings(data=str(arguments.held_out), limit=6, max_fall=1.0)
        if number not in read_index(Folder(str(dataset))).published:
            plan = RefreshPlan(str(dataset), str(weights), gate)
            found = _timed(f"refresh {number}", lambda plan=plan: refresh(plan, quiet=True))
            print(json.dumps(found.churn), flush=True)
        rows.append(
            (f"round {number} (round {number - 1}, filtered)", _measure(arguments, work, f"round {number}", weights))
        )
    return rows


def _variants(arguments: argparse.Namespace, work: Path) -> list[tuple[str, Any]]:
    start = arguments.weights.resolve()
    unfiltered, clicked, drawn = work / "unfiltered", work / "semi", work / "semi-drawn"
    if not unfiltered.exists():
        shutil.copytree(work / "round-0", unfiltered)
        _timed("refilter", lambda: refilter(str(unfiltered), NO_FILTER, quiet=True))
    for semi, oracle in (
        (clicked, OracleSettings(max_clicks=6)),
        (drawn, OracleSettings(max_clicks=6, draw=True, max_objects=20)),
    ):
        if not semi.exists():
            shutil.copytree(work / "round-0", semi)
            data = (str(semi), str(arguments.scenes), CONFIDENT, oracle, str(start))
            found = _timed("assist", lambda data=data: assist(*data, quiet=True))
            print(json.dumps(found.as_dict()), flush=True)
    rows = []
    for name, label, dataset, choice in (
        ("semi", "round 0, semi-automatic on the scenes, clicks only", clicked, {}),
        ("semi-drawn", "round 0, semi-automatic on the scenes, clicks and brush", drawn, {}),
        ("unfiltered", "round 0, all candidates", unfiltered, {}),
        ("unweighted", "round 0, filtered, all weighted alike", work / "round-0", {"score_weights": False}),
    ):
        weights = _train(arguments, work, name, dataset, start, choice)
        rows.append((label, _measure(arguments, work, name, weights)))
    return rows


def _train(
    arguments: argparse.Namespace,
    work: Path,
    name: str,
    dataset: Path,
    start: Path,
    choice: dict[str, Any] | None = None,
) -> Path:
    output = work / "trainings" / name
    weights = output / WEIGHTS
    if weights.is_file() and read_metadata(str(weights)).get("steps") == str(arguments.steps):
        return weights
    recipe = validate_train_recipe(
        {
            "data": [{"path": str(dataset), **(choice or {})}],
            "output": str(output),
            "start": str(start),
            "images_per_step": 6,
            "checkpoint_every": 20,
            "training": {
                "num_steps": arguments.steps,
                "seed": 1,
                "images_per_pass": 6,
                "clicks_every": 8,
                "bf16": True,
                "prompts": {"num_prompts": 12, "box_share": 0.3, "num_clicks": 1, "num_refinements": 0},
                "loss": {"focal": 6.0, "dice": 3.0, "iou": 3.0},
                "optim": {
                    "learning_rate": 0.0004,
                    "weight_decay": 0.05,
                    "layer_decay": 1.0,
                    "warmup_steps": 5,
                    "final_share": 0.05,
                    "ema_decay": 0.95,
                    "muon": True,
                },
            },
            "augment": {"min_scale": 0.8, "max_scale": 2.0},
        }
    )
    _timed(f"train {name}", lambda: train_on(recipe, torch.device("cpu")))
    return weights


def _measure(arguments: argparse.Namespace, work: Path, name: str, weights: Path) -> dict[str, Any]:
    """Figures on both held-out sets, kept in a file."""
    kept = work / f"measured-{name.replace(' ', '-')}.json"
    if kept.exists():
        return dict(json.loads(kept.read_text(encoding="utf-8")))
    recipe = validate_recipe(_recipe(work, work / "none", weights))
    sets = {
        "scenes": (str(arguments.held_out), None),
        "photographs": (str(work / "even.json"), str(arguments.photos / "images")),
    }
    found = {}
    for one, (data, images) in sets.items():
        result = _timed(
            f"measure {name} on {one}",
            lambda data=data, images=images: evaluate(recipe, data, images, arguments.num_measured, quiet=True),
        )
        found[one] = figures_of(result) | {
            "masks_per_image": result.masks_per_image,
            "by_size": asdict(result)["point_miou"],
        }
    print(name, json.dumps(found), flush=True)
    kept.write_text(json.dumps(found), encoding="utf-8")
    return found


def _timed(name: str, action: Callable[[], Any]) -> Any:
    started, clock = time.process_time(), time.time()
    result = action()
    print(
        f"{name}: {time.process_time() - started:.0f} s of processor time here, {time.time() - clock:.0f} s", flush=True
    )
    return result


def _text(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
