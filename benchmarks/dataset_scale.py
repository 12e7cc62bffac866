"""The same question of the shards, of one COCO JSON through pycocotools, and of SA-1B's JSON files; and their sizes.

    python -m benchmarks.dataset_scale --masks 10000 100000 --work DIR

makes datasets of random masks (`random_dataset`), exports them, and measures each way in a process of its own.
"""

import argparse
import contextlib
import gzip
import io
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.random_dataset import write_random_dataset
from benchmarks.table import markdown_table

PREDICATE = "predicted_iou > .92 and area between 1000 and 50000 and tag = 'dog'"
REPEATS = 9
BILLION = 1.1e9  # masks in SA-1B
SA1B_FIELDS = ("id", "segmentation", "bbox", "area", "predicted_iou", "stability_score", "crop_box", "point_coords")


def ask_shards(folder: Path) -> dict[str, Any]:
    """Warm: the first of the repeats does not count. DuckDB takes as many threads as there are cores."""
    from pipeline.dataset import open_dataset
    from pipeline.queries.query import query

    dataset = open_dataset(str(folder / "dataset")).filter(PREDICATE)
    found = query(dataset)[0].num_rows
    return {"found": found} | _repeat(lambda: query(dataset)[0].num_rows, REPEATS)


def ask_coco(folder: Path) -> dict[str, Any]:
    """Loading is part of the question, as nothing stays in memory between two; what remains is told apart."""
    from pycocotools.coco import COCO

    started = time.process_time(), time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(folder / "coco" / "annotations.json"))
    dogs = {one["id"] for one in coco.cats.values() if one["name"] == "dog"}

    def ask() -> int:
        return sum(
            one["predicted_iou"] > 0.92 and 1000 <= one["area"] <= 50000 and one["category_id"] in dogs
            for one in coco.anns.values()
        )

    found = ask()
    whole = {"cpu": time.process_time() - started[0], "wall": time.perf_counter() - started[1]}
    again = _repeat(ask, 3)
    return {"found": found, **whole, "in_memory_cpu": again["cpu"], "peak_mb": _peak_mb()}


def ask_sa1b(folder: Path) -> dict[str, Any]:
    """Each file is opened and parsed."""

    def ask() -> int:
        found = 0
        for path in (folder / "sa1b").glob("*.json"):
            for one in json.loads(path.read_bytes())["annotations"]:
                tags = one["tags"]
                best = max(tags, key=lambda tag: tag["score"])["name"] if tags else None
                found += one["predicted_iou"] > 0.92 and 1000 <= one["area"] <= 50000 and best == "dog"
        return found

    return {"found": ask()} | _repeat(ask, 1)


def _repeat(ask: Callable[[], int], times: int) -> dict[str, float]:
    """The fastest, by the clock and in processor time of all threads; a busy machine only ever adds."""
    walls, cpus = [], []
    for _ in range(times):
        cpu, wall = time.process_time(), time.perf_counter()
        ask()
        cpus.append(time.process_time() - cpu)
        walls.append(time.perf_counter() - wall)
    return {"cpu": min(cpus), "wall": min(walls), "peak_mb": _peak_mb()}


def _peak_mb() -> float:
    # not the resource module's figure, which begins with that of the process that started this one
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def measure_sizes(folder: Path) -> dict[str, float]:
    """Bytes: the shards; SA-1B's own fields as JSON; those files each gzip'd."""
    plain = packed = 0
    for path in (folder / "sa1b").glob("*.json"):
        content = json.loads(path.read_bytes())
        content["annotations"] = [{name: one[name] for name in SA1B_FIELDS} for one in content["annotations"]]
        data = json.dumps(content, separators=(",", ":")).encode()
        plain += len(data)
        packed += len(gzip.compress(data, 6))
    shards = sum(path.stat().st_size for path in (folder / "dataset").rglob("part-*.parquet"))
    return {"shards": shards, "json": plain, "gzip": packed}


WAYS = {"shards": ask_shards, "coco": ask_coco, "sa1b": ask_sa1b, "sizes": measure_sizes}


def measure(way: str, folder: Path) -> dict[str, Any]:
    """In a process of its own, so that its peak memory is its own."""
    command = [sys.executable, "-m", "benchmarks.dataset_scale", "--way", way, "--work", str(folder)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return dict(json.loads(answer.splitlines()[-1]))


def prepare(num_masks: int, folder: Path) -> float | None:
    """The dataset and its exports, unless they stand there; the seconds that making the dataset took."""
    from pipeline.dataset import open_dataset
    from pipeline.export.write import export

    seconds = None
    if not (folder / "dataset" / "_dataset.json").exists():
        seconds = write_random_dataset(str(folder / "dataset"), num_masks)
    dataset = open_dataset(str(folder / "dataset"))
    for layout in ("coco", "sa1b"):
        export(dataset, str(folder / layout), layout, pictures=False, quiet=True)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--masks", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--work", type=Path, required=True, help="a folder; about 1.3 kB a mask are written to it")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.way:
        print(json.dumps(WAYS[given.way](given.work)))
        return
    rows, sizes, results = [], [], []
    for count in given.masks:
        folder = given.work / str(count)
        seconds = prepare(count, folder)
        found = {way: measure(way, folder) for way in WAYS}
        results.append({"masks": count, "seconds": seconds, **found})
        print(json.dumps(results[-1]), file=sys.stderr, flush=True)
        assert found["shards"]["found"] == found["coco"]["found"] == found["sa1b"]["found"], "the answers differ"
        rows.append(_row(count, seconds, found))
        sizes.append([f"{count:,}", *(f"{found['sizes'][name] / count:.0f}" for name in ("shards", "json", "gzip"))])
    header = ["masks", "made in s", "found", "shards s", "CPU s", "peak MB", "COCO CPU s", "of ours", "peak MB",
              "in memory s", "SA-1B CPU s", "of ours"]  # fmt: skip
    print(markdown_table(header, rows))
    print(markdown_table(["masks", "shards, bytes a mask", "SA-1B JSON", "gzip'd"], sizes))
    if len(results) > 1:
        print(_projection(results[-2], results[-1]))


def _row(count: int, seconds: float | None, found: dict[str, Any]) -> list[str]:
    shards, coco, sa1b = found["shards"], found["coco"], found["sa1b"]
    return [
        f"{count:,}",
        "" if seconds is None else f"{seconds:.0f}",
        f"{shards['found']:,}",
        f"{shards['wall']:.3f}",
        f"{shards['cpu']:.3f}",
        f"{shards['peak_mb']:.0f}",
        f"{coco['cpu']:.2f}",
        f"{coco['cpu'] / shards['cpu']:.0f}×",
        f"{coco['peak_mb']:.0f}",
        f"{coco['in_memory_cpu']:.3f}",
        f"{sa1b['cpu']:.2f}",
        f"{sa1b['cpu'] / shards['cpu']:.0f}×",
    ]


def _projection(smaller: dict[str, Any], larger: dict[str, Any]) -> str:
    """Straight lines through the two largest sizes."""
    step = larger["masks"] - smaller["masks"]

    def at_billion(way: str, figure: str) -> float:
        slope = (larger[way][figure] - smaller[way][figure]) / step
        return float(larger[way][figure] + slope * (BILLION - larger["masks"]))

    return (
        f"1.1 billion masks: shards {at_billion('sizes', 'shards') / 1e9:,.0f} GB, SA-1B JSON "
        f"{at_billion('sizes', 'json') / 1e9:,.0f} GB; the question takes {at_billion('shards', 'cpu'):,.0f} CPU s of "
        f"the shards, {at_billion('sa1b', 'cpu'):,.0f} of SA-1B's JSON"
    )


if __name__ == "__main__":
    main()
