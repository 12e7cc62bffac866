"""Does a long run stay as it began? 20,000 tiny images through the whole graph with a model of debug size: the
driver's memory, the images/s and the CPU seconds of each tenth of the run, or of what was done by Ctrl-C. On a machine
that does other work besides, the CPU seconds are the ones to look at."""

import argparse
import json
import os
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from benchmarks.stub import stub_recipe, write_pictures, write_stub_model
from pipeline.runs.run import run
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder

SAMPLE_SECONDS = 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--side", type=int, default=32, help="pixels")
    parser.add_argument("--commit-every", type=int, default=64)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_pictures(root / "in", arguments.images, arguments.side)
        recipe = stub_recipe(str(root / "in"), str(root / "out"), write_stub_model(root), arguments.commit_every)
        samples: list[Sample] = []
        ended = threading.Event()
        sampler = threading.Thread(target=sample_memory, args=(samples, ended))
        sampler.start()
        try:
            summary = run(recipe, quiet=True)
        finally:
            ended.set()
            sampler.join()
        target = Round(Folder(recipe.output), 0)
        commits = sorted(
            (os.stat(target.part_path(part)).st_mtime, target.count_images(part)) for part in target.parts()
        )
        assert summary.status == "interrupted" or summary.total_images == arguments.images
        assert summary.tally.failed == 0
        counted = {"images": summary.total_images}
        print(json.dumps(counted | report(commits, samples, summary.seconds), indent=2))


class Sample(NamedTuple):
    """`driver_bytes`: resident memory of this process; `cpu_seconds`: of it and all it started, since their start."""

    time: float
    driver_bytes: int
    cpu_seconds: float


def sample_memory(samples: list[Sample], ended: threading.Event) -> None:
    me = psutil.Process()
    spent: dict[int, float] = {}  # by process, so that those that have ended still count
    while not ended.wait(SAMPLE_SECONDS):
        for process in (me, *me.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                spent[process.pid] = times.user + times.system
        samples.append(Sample(time.time(), me.memory_info().rss, sum(spent.values())))


def report(commits: list[tuple[float, int]], samples: list[Sample], seconds: float) -> dict[str, object]:
    """Tenths are of the images between the first commit and the last, so that starting Ray counts in none of them."""
    total = sum(images for _, images in commits[1:])
    tenths: list[dict[str, float]] = []
    start, held = commits[0][0], 0
    for when, images in commits[1:]:
        held += images
        if held * 10 >= total * (len(tenths) + 1):
            done = held - sum(int(tenth["images"]) for tenth in tenths)
            within = [sample for sample in samples if start <= sample.time <= when] or samples[-1:]
            cpu_seconds = within[-1].cpu_seconds - within[0].cpu_seconds
            tenths.append(
                {
                    "images": done,
                    "images_per_second": round(done / (when - start), 1),
                    "cpu_seconds_per_1000": round(1000 * cpu_seconds / done, 2),
                    "driver_mb": round(max(sample.driver_bytes for sample in within) / 1e6),
                }
            )
            start = when
    return {
        "seconds": round(seconds, 1),
        "tenths": tenths,
        "last_to_first_rate": round(tenths[-1]["images_per_second"] / tenths[0]["images_per_second"], 3),
        "first_to_last_cpu": round(tenths[0]["cpu_seconds_per_1000"] / tenths[-1]["cpu_seconds_per_1000"], 3),
        "driver_growth_mb": tenths[-1]["driver_mb"] - tenths[0]["driver_mb"],
    }


if __name__ == "__main__":
    main()
