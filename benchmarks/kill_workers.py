"""What does a run lose to workers that die under it? Five times, at random moments of one run, an actor that holds the
model is killed, or, with --nodes, all of one of the two nodes of a Ray cluster on this machine, which another then
replaces. Checked: the run ends well without being started again, each image stands in the dataset once, and what was
begun again is at most what may be in flight, a kill."""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa

from benchmarks.kill_resume import committed, kill_tree, left_over, start, wait_for
from benchmarks.stub import stub_recipe, write_pictures, write_stub_model
from pipeline.runs.chunks import Chunk
from pipeline.runs.in_flight import max_in_flight
from pipeline.store.verify import verify_dataset

ACTOR = "ray::MapWorker(MapBatches(Logged"  # the class in `kill_resume.work`
PAUSE = 0.2  # seconds a batch, so that a run outlasts its kills: a new actor is up after many
NODE = {"num_cpus": 2, "object_store_memory": 128 << 20}

Run = subprocess.Popen[str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--commit-every", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--nodes", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = on_a_cluster(Path(folder), arguments) if arguments.nodes else on_one_machine(Path(folder), arguments)
    print(json.dumps(result, indent=2))
    sys.exit(0 if all(result["checks"].values()) else 1)


def on_one_machine(root: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    moments = random.Random(arguments.seed)
    return measure(root, arguments, moments, lambda run: kill_an_actor(run, moments))


def on_a_cluster(root: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **NODE})
    nodes = [cluster.add_node(**NODE)]
    cluster.wait_for_nodes()

    def kill_a_node(run: Run) -> None:
        cluster.remove_node(nodes.pop(), allow_graceful=False)
        nodes.append(cluster.add_node(**NODE))

    try:
        sections = {"ray": {"address": cluster.address}, "resources": {"sam_actors": 2}}
        return measure(root, arguments, random.Random(arguments.seed), kill_a_node, **sections)
    finally:
        cluster.shutdown()


def measure(
    root: Path, arguments: argparse.Namespace, moments: random.Random, kill: Callable[[Run], None], **sections: Any
) -> dict[str, Any]:
    write_pictures(root / "bucket/in", arguments.images, 32)
    where = str(root / "bucket/in"), str(root / "bucket/out")
    recipe = stub_recipe(*where, write_stub_model(root), arguments.commit_every, **sections)
    (root / "recipe.json").write_text(recipe.model_dump_json())
    run = start(root, PAUSE)
    begun_again: list[int] = []
    per_kill = arguments.images // (arguments.kills + 1)
    try:
        for index in range(arguments.kills):
            wait_for(root, run, index * per_kill + moments.randrange(per_kill), arguments.commit_every)
            time.sleep(moments.random() * 0.5)
            begun_again.append(num_begun_again(root))
            kill(run)
        output, _ = run.communicate()
    finally:
        if run.poll() is None:
            kill_tree(run)
    assert run.returncode == 0, "the run failed"
    begun_again.append(num_begun_again(root))
    found = committed(recipe)
    problems = verify_dataset(recipe.output).num_problems
    sam_actors = json.loads(output.splitlines()[-1])["resources"]["sam_actors"]
    chunk = Chunk(0, pa.table({"image_id": ["x"] * arguments.commit_every}), exists=False)
    bound = max_in_flight([chunk], sam_actors)
    per_kill_begun = [after - before for before, after in pairwise(begun_again)]
    checks = {
        "each image once": len(found) == arguments.images and problems == 0,
        "begun again at most what may be in flight": all(count <= bound for count in per_kill_begun),
        "no file left over": left_over(root) == [],
    }
    return {"images": arguments.images, "bound": bound, "begun_again": per_kill_begun, "checks": checks}


def num_begun_again(root: Path) -> int:
    """How many beginnings of images, so far, were not an image's first."""
    log = root / "begun.txt"
    begun = Counter(log.read_text().split()) if log.exists() else Counter[str]()
    return begun.total() - len(begun)


def kill_an_actor(run: Run, moments: random.Random) -> None:
    """Any one that holds the model, by SIGKILL, as soon as there is one."""
    while True:
        assert run.poll() is None, "the run ended before its actor was killed"
        tree = psutil.Process(run.pid).children(recursive=True)
        actors = [process for process in tree if is_actor(process)]
        if actors:
            moments.choice(actors).kill()
            return
        time.sleep(0.05)


def is_actor(process: psutil.Process) -> bool:
    try:
        return any(part.startswith(ACTOR) for part in process.cmdline())
    except psutil.NoSuchProcess:
        return False


if __name__ == "__main__":
    main()
