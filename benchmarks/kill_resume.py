"""Does a run survive SIGKILL? Five times, at random moments, the whole process tree of a run is killed and the run
started again; then it is let finish. Checked: each image stands in the dataset once, nothing that was committed is done
again, and of the rest at most the chunks in flight. With --s3, input and output go through `rclone serve s3`."""

import argparse
import json
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa

from benchmarks.stub import stub_recipe, write_pictures, write_stub_model
from pipeline.recipes.recipe import Recipe
from pipeline.runs.chunks import Chunk
from pipeline.runs.in_flight import max_in_flight
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder
from pipeline.store.verify import verify_dataset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--commit-every", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--s3", action="store_true")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)  # one run, in a process of its own
    parser.add_argument("--pause", type=float, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.work, arguments.pause)
        return
    with tempfile.TemporaryDirectory() as folder:
        server = serve_s3(Path(folder)) if arguments.s3 else None
        try:
            print(json.dumps(measure(Path(folder), arguments), indent=2))
        finally:
            if server:
                server.terminate()
                server.wait()


def measure(root: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    write_pictures(root / "bucket/in", arguments.images, 32)
    where = "s3://bucket" if arguments.s3 else str(root / "bucket")
    recipe = stub_recipe(f"{where}/in", f"{where}/out", write_stub_model(root), arguments.commit_every)
    (root / "recipe.json").write_text(recipe.model_dump_json())
    moments = random.Random(arguments.seed)
    kills = []
    per_run = arguments.images // (arguments.kills + 1)
    while len(kills) < arguments.kills:
        before = committed(recipe)
        run = start(root)
        # a random share of what is left for this run, counted in images, so that every kill comes in the middle
        wait_for(root, run, len(before) + moments.randrange(per_run), arguments.commit_every)
        time.sleep(moments.random() * 0.5)
        kill_tree(run)
        after = committed(recipe)
        begun = Counter((root / "begun.txt").read_text().split())
        (root / "begun.txt").write_text("")
        kills.append(
            {
                "committed_before": len(before),
                "committed_after": len(after),
                "begun_and_lost": len(set(begun) - after),
                "begun_though_committed": len(set(begun) & before),
                "left_over_files": left_over(root),
            }
        )
    final = start(root)
    output, _ = final.communicate()
    assert final.returncode == 0, "the last run failed"
    found = Round(Folder(recipe.output), 0).committed()["image_id"].to_pylist()
    result = json.loads(output.splitlines()[-1])
    chunk = Chunk(0, pa.table({"image_id": ["x"] * arguments.commit_every}), exists=False)
    bound = max_in_flight([chunk], result["resources"]["sam_actors"])
    checks = {
        "each image once": sorted(found) == sorted(set(found)) and len(found) == arguments.images,
        "verify finds no problem": verify_dataset(recipe.output).num_problems == 0,
        "nothing committed was redone": all(kill["begun_though_committed"] == 0 for kill in kills),
        "lost at most the chunks in flight": all(kill["begun_and_lost"] <= bound for kill in kills),
        "no file left over": left_over(root) == [],
    }
    return {"images": arguments.images, "bound": bound, "kills": kills, "checks": checks}


def start(root: Path, pause: float = 0) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "benchmarks.kill_resume", "--work", str(root), "--pause", str(pause)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def work(root: Path, pause: float) -> None:
    """One run, whose model writes down each image before it begins it; `pause` seconds a batch make it last."""
    import pipeline.runs.graph
    from pipeline.runs.run import run
    from stages.generate_masks import GenerateMasks

    log = str(root / "begun.txt")

    class Logged(GenerateMasks):
        def __call__(self, batch: Any) -> Any:
            with open(log, "a") as file:
                file.write("".join(f"{name}\n" for name in batch["image_id"].to_pylist()))
            time.sleep(pause)
            return super().__call__(batch)

    pipeline.runs.graph.GenerateMasks = Logged  # type: ignore[misc]
    recipe = Recipe.model_validate_json((root / "recipe.json").read_text())
    run(recipe, quiet=True)
    record = Round(Folder(recipe.output), 0).read_record()
    assert record is not None
    print(json.dumps({"resources": record["runs"][-1]["resources"]}))


def committed(recipe: Recipe) -> set[str]:
    return set(Round(Folder(recipe.output), 0).committed()["image_id"].to_pylist())


def wait_for(root: Path, run: "subprocess.Popen[str]", count: int, commit_every: int) -> None:
    """Until more than `count` images are committed; counted in part files, which cost the run nothing to look at."""
    while len(list((root / "bucket/out").glob("round=000/part-*.parquet"))) * commit_every <= count:
        assert run.poll() is None, "the run ended before it was killed"
        time.sleep(0.1)


def kill_tree(run: "subprocess.Popen[str]") -> None:
    """The run and all it started, at once; some of its children live in sessions of their own."""
    tree = [psutil.Process(run.pid), *psutil.Process(run.pid).children(recursive=True)]
    for process in tree:
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(tree)
    run.wait()


def left_over(root: Path) -> list[str]:
    names = (path.name for path in (root / "bucket/out").rglob("*") if path.is_file())
    known = ("_dataset.json", "_run.json", "_lease.json")
    return sorted(name for name in names if name not in known and not name.startswith("part-"))


def serve_s3(root: Path) -> "subprocess.Popen[bytes]":
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    key, secret = secrets.token_hex(10), secrets.token_hex(20)
    command = [str(Path(sys.executable).parent / "rclone"), "serve", "s3", "--addr", address]
    command += ["--auth-key", f"{key},{secret}", "--vfs-cache-mode", "off", str(root)]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    os.environ |= {
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_ENDPOINT_URL": f"http://{address}",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
    }
    while server.poll() is None:
        try:
            socket.create_connection((address.split(":")[0], int(address.split(":")[1])), timeout=1).close()
            return server
        except OSError:
            time.sleep(0.05)
    raise RuntimeError("the S3 server did not start")


if __name__ == "__main__":
    main()
