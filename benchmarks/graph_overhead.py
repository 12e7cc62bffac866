"""What does the graph cost? Synthetic scenes through `maskfoundry run`, and through a bare loop in one process that
does the same reading, generating, filtering and writing on the same cores; in turns."""

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from contextlib import suppress
from typing import Any

import psutil

from pipeline.recipes.load_recipe import load_recipe
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder

KINDS = ("loop", "graph")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--points-per-side", type=int, default=8)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("-o", "--override", action="append", default=[], help="of any field of the recipe")
    parser.add_argument("--images", help="a folder to take instead of making scenes")
    arguments = parser.parse_args()
    from pipeline.scenes.write import write_scenes

    with tempfile.TemporaryDirectory() as folder:
        if arguments.images is None:
            write_scenes(f"{folder}/scenes", arguments.scenes)
        turns: list[dict[str, Any]] = []
        for turn in range(arguments.turns):
            for kind, function in zip(KINDS, (bare_loop, graph), strict=True):
                output = f"{folder}/{kind}{turn}"
                overrides = [
                    f"input={arguments.images or f'{folder}/scenes/images'}",
                    f"output={output}",
                    "model.checkpoint=sam_tiny",
                    f"generate.points_per_side={arguments.points_per_side}",
                    "run.commit_every=8",
                    "tag=null",
                    "caption=null",
                    *arguments.override,
                ]
                # each in a process of its own, which leaves nothing behind for the next
                process = multiprocessing.get_context("spawn").Process(target=function, args=(overrides,))
                started = time.time()
                process.start()
                cpu_seconds = measure_cpu(process.pid)
                process.join()
                assert process.exitcode == 0, f"the {kind} failed"
                turn_result = {"kind": kind, **throughput(output, started), "cpu_seconds": round(cpu_seconds, 1)}
                print(turn_result, file=sys.stderr, flush=True)
                turns.append(turn_result)
        result: dict[str, Any] = {"turns": turns}
        for name in ("rate", "rate_with_start", "cpu_seconds"):
            loop, graph_ = (statistics.mean(one[name] for one in turns if one["kind"] == kind) for kind in KINDS)
            result[f"{name}_graph_to_loop"] = round(graph_ / loop, 3)
        print(json.dumps(result, indent=2))


def measure_cpu(pid: int) -> float:
    """Of a process and all it starts, until it ends."""
    spent: dict[int, float] = {}  # by process, so that those that have ended still count
    while psutil.pid_exists(pid):
        with suppress(psutil.NoSuchProcess):
            first = psutil.Process(pid)
            if first.status() == psutil.STATUS_ZOMBIE:
                break
            for process in (first, *first.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    times = process.cpu_times()
                    spent[process.pid] = times.user + times.system
        time.sleep(0.5)
    return sum(spent.values())


def throughput(output: str, started: float) -> dict[str, float]:
    """Images/s between the first commit and the last; what comes before the first is the start, which only
    `rate_with_start` counts."""
    target = Round(Folder(output), 0)
    commits = sorted((os.stat(target.part_path(part)).st_mtime, target.count_images(part)) for part in target.parts())
    seconds = commits[-1][0] - commits[0][0]
    return {
        "first_commit": round(commits[0][0] - started, 2),
        "seconds": round(seconds, 2),
        "rate": sum(images for _, images in commits[1:]) / seconds,
        "rate_with_start": sum(images for _, images in commits) / (commits[-1][0] - started),
    }


def graph(overrides: list[str]) -> None:
    from pipeline.runs.run import run

    run(load_recipe("quickstart", overrides), quiet=True)


def bare_loop(overrides: list[str]) -> None:
    """One image after the other, the model's layers on all cores."""
    import pyarrow as pa

    from models.generator.settings import GenerateSettings
    from pipeline.runs.chunks import plan_chunks
    from pipeline.runs.commit import Committer
    from pipeline.runs.resolve import resolve
    from pipeline.sources.listing import list_images
    from pipeline.sources.places import input_places
    from stages.allowed_places import AllowedPlaces
    from stages.attempts import AttemptCounts
    from stages.decode_image import DecodeImages
    from stages.filter_masks import FilterMasks, StoredScores
    from stages.generate_masks import GenerateMasks

    recipe = load_recipe("quickstart", overrides)
    settings: GenerateSettings = recipe.generate
    attempts = AttemptCounts()
    decode = DecodeImages(recipe.decode, attempts, None, places=AllowedPlaces(named=input_places(recipe.input)))
    generate = GenerateMasks(
        weights=resolve(recipe).weights,
        image_size=recipe.model.image_size,
        settings=settings,
        min_predicted_iou=recipe.min_predicted_iou,
        min_stability=recipe.min_stability,
        points_per_batch=64,
        crops_per_batch=1,
        device="cpu",
        num_threads=len(os.sched_getaffinity(0)),
        round_number=0,
        attempts=attempts,
        image_timeout=None,
    )
    choose = FilterMasks(recipe.filter, StoredScores(settings.store_floor, recipe.min_predicted_iou))
    target = Round(Folder(recipe.output), 0)
    committer = Committer(target, "loop", {"generate": "", "filter": ""})
    for chunk in plan_chunks(list_images(recipe.input), target.committed(), recipe.run.commit_every, False):
        committer.expect([chunk])
        for index in range(chunk.images.num_rows):
            row = chunk.images.slice(index, 1).append_column("part", pa.array([chunk.part], pa.int32()))
            committer.add(choose(generate(decode(row))))


if __name__ == "__main__":
    main()
