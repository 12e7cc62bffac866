"""How soon does a run over a manifest of a million rows finish its first image, by the clock and in processor time, and
how much memory does its driver take? The run is ended, as by Ctrl-C, once the first part is there. Starting Ray and the
model is in it: --rows 400 tells how much that is."""

import argparse
import json
import os
import signal
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

import pipeline.runs.run
from benchmarks.stub import stub_recipe, write_pictures, write_stub_model

NUM_PICTURES = 2000  # that exist; more than are read before the first part is there
COMMIT_EVERY = 8  # each commit is a chunk of its own to plan and to hold: with 1 the first graph takes 20 s to build


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_pictures(root / "in", NUM_PICTURES, 32)
        names = [f"in/{index // 1000:03d}/{index:06d}.png" for index in range(arguments.rows)]
        pq.write_table(pa.table({"uri": names, "split": ["train"] * len(names)}), root / "m.parquet")
        del names
        pa.default_memory_pool().release_unused()
        recipe = stub_recipe(str(root / "m.parquet"), str(root / "out"), write_stub_model(root), COMMIT_EVERY)
        times: dict[str, float] = {}
        watch_ray(times)
        before = psutil.Process().memory_info().rss
        before_cpu = cpu_seconds()
        peak: list[int] = []
        watcher = threading.Thread(target=watch, args=(root / "out/round=000", times, peak))
        started = time.time()
        watcher.start()
        try:
            summary = pipeline.runs.run.run(recipe, quiet=True)
        finally:
            times["ended"] = time.time()
            watcher.join()
        assert "first_part" in times, "the run ended before its first image"
        ray_seconds = times["ray_up"] - times["ray_began"]
        first = times["first_part"] - started
        result = {
            "rows": arguments.rows,
            "status": summary.status,
            "seconds_to_first_image": round(first, 1),
            "of_which_ray_started_in": round(ray_seconds, 1),
            "listing_seconds": round(times["ray_began"] - started, 1),
            "from_ray_up_to_first_image": round(times["first_part"] - times["ray_up"], 1),
            "cpu_seconds_to_first_image": round(times["cpu_at_first_part"] - before_cpu, 1),
            "driver_mb_before": round(before / 1e6),
            "driver_mb_peak": round(max(peak) / 1e6),
        }
        print(json.dumps(result, indent=2))


def watch_ray(times: dict[str, float]) -> None:
    real = pipeline.runs.run.connected_ray

    @contextmanager
    def timed(*arguments: Any) -> Any:
        times["ray_began"] = time.time()
        with real(*arguments) as nodes:
            times["ray_up"] = time.time()
            yield nodes

    pipeline.runs.run.connected_ray = timed


def watch(round_folder: Path, times: dict[str, float], peak: list[int]) -> None:
    me = psutil.Process()
    while not list(round_folder.glob("part-*.parquet")):
        if "ended" in times:
            return
        peak.append(me.memory_info().rss)
        time.sleep(0.05)
    times["first_part"] = time.time()
    times["cpu_at_first_part"] = cpu_seconds()
    os.kill(os.getpid(), signal.SIGINT)


def cpu_seconds() -> float:
    """Of this process and all that it started and that live."""
    total = 0.0
    for process in (me := psutil.Process(), *me.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


if __name__ == "__main__":
    main()
