"""An existing cluster: real nodes on this machine, one that dies, one that lacks what it needs, one that comes late."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from models.weight_files import EMBEDDED_FOLDER
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder
from pipeline.store.verify import verify_dataset

NUM_IMAGES = 16
ROOT = Path(__file__).resolve().parents[3]


@contextmanager
def running_cluster(*nodes: dict[str, Any]) -> Iterator[Any]:
    """A head of two CPUs, and further nodes."""
    from ray.cluster_utils import Cluster

    store = {"object_store_memory": 128 << 20}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False, **store})
    try:
        made.others = [made.add_node(**store, **node) for node in nodes]
        made.wait_for_nodes()
        yield made
    finally:
        made.shutdown()


@pytest.fixture
def cluster() -> Iterator[Any]:
    with running_cluster({"num_cpus": 2}) as made:
        yield made


def start(photos: Path | str, output: Path, address: str, cwd: Path, *more: str) -> subprocess.Popen[str]:
    settings = [
        f"input={photos}",
        f"output={output}",
        f"ray.address={address}",
        "generate.points_per_side=8",
        "run.commit_every=1",
        "resources.sam_actors=2",
        "model.checkpoint=sam_tiny",
        "tag=null",  # fewer processes, which take seconds each to start
        "caption=null",
        *more,
    ]
    arguments = ["run", "quickstart", *(part for setting in settings for part in ("-o", setting))]
    return driver("from pipeline.cli import main; main()", arguments, cwd)


def driver(program: str, arguments: list[str], cwd: Path) -> subprocess.Popen[str]:
    # workers find the code through the runtime environment only: the driver's own path is not theirs
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); {program}"
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
    )


@pytest.mark.slow  # clusters of several nodes take minutes to start on two cores
def test_a_node_that_dies_in_the_middle_loses_nothing(
    cluster: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    photos, output = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for index in range(NUM_IMAGES):
        pixels = np.random.default_rng(index).integers(0, 255, (6, 8, 3), np.uint8).repeat(30, 0).repeat(30, 1)
        Image.fromarray(pixels).save(photos / f"{index:02d}.png")
    process = start(photos, output, cluster.address, tmp_path)
    request.addfinalizer(process.kill)
    deadline = time.time() + 180
    while len(list(output.glob("round=000/part-*.parquet"))) < 2:
        assert process.poll() is None, process.communicate()
        assert time.time() < deadline
        time.sleep(0.05)
    cluster.remove_node(cluster.others[0], allow_graceful=False)
    printed, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    # Ray itself says on the way that a node is gone
    assert any(line.startswith(f"{NUM_IMAGES} images, ") for line in printed.splitlines())
    found = Round(Folder(str(output)), 0).committed()["image_id"].to_pylist()
    assert sorted(found) == [f"{index:02d}.png" for index in range(NUM_IMAGES)]
    assert verify_dataset(str(output)).num_problems == 0


def test_no_cluster_at_the_address_is_one_line(photos: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    process = start(photos, tmp_path / "out", "127.0.0.1:9", tmp_path)
    request.addfinalizer(process.kill)
    printed, errors = process.communicate(timeout=240)
    assert process.returncode == 2 and "ray.address: no Ray cluster answers at '127.0.0.1:9'" in errors
    assert len(errors.splitlines()) == 1 and printed == "" and not (tmp_path / "out").exists()


@pytest.mark.slow  # clusters of several nodes take minutes to start on two cores
def test_a_node_that_lacks_weights_or_credentials_is_named_before_anything_is_written(
    s3_server: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there, s3_server / "seen"):
        folder.mkdir()
    monkeypatch.setenv("HOME", str(here))
    weights = EMBEDDED_FOLDER / "sam_tiny.safetensors"
    shutil.copy(weights, here / "sam.safetensors")
    shutil.copytree(photos, s3_server / "seen" / "in")
    other = {"HOME": str(there), "AWS_SECRET_ACCESS_KEY": "wrong", "AWS_MAX_ATTEMPTS": "1"}

    with running_cluster({"num_cpus": 2, "env_vars": other}) as cluster:

        def refused(source: Path | str) -> str:
            process = start(source, tmp_path / "out", cluster.address, tmp_path, "model.checkpoint=~/sam.safetensors")
            printed, errors = process.communicate(timeout=240)
            assert process.returncode == 2 and len(errors.splitlines()) == 1 and printed == "", errors
            assert not (tmp_path / "out").exists()
            return errors

        message = refused(photos)
        assert "ray.address: node " in message and "there is no file or folder ~/sam.safetensors" in message
        assert message.endswith("; each node needs what the driver has\n")
        shutil.copy(EMBEDDED_FOLDER / "sam_small.safetensors", there / "sam.safetensors")
        assert "~/sam.safetensors is another file there, of sha256 " in refused(photos)
        shutil.copy(weights, there / "sam.safetensors")
        message = refused("s3://seen/in")
        assert "input: s3://seen/in/0.png cannot be read (PermissionError: " in message
        assert os.environ["AWS_SECRET_ACCESS_KEY"] not in message


@pytest.mark.slow  # clusters of several nodes take minutes to start on two cores
def test_a_run_waits_for_the_machines_that_it_asks_for(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    program = (
        "from pipeline.recipes.load_recipe import load_recipe; from pipeline.runs.growing import resources_for; "
        "from pipeline.runs.ray_runtime import connected_ray; recipe = load_recipe('quickstart', sys.argv[1:]); "
        "stack = connected_ray(recipe.ray.address); nodes = stack.__enter__(); "
        "print(resources_for(recipe, nodes)); stack.__exit__(None, None, None)"
    )
    with running_cluster() as cluster:
        asked = ["resources.gpus_per_actor=1", "resources.sam_actors=3", "tag=null", "caption=null"]
        process = driver(program, [*asked, f"ray.address={cluster.address}"], tmp_path)
        request.addfinalizer(process.kill)
        assert process.stderr is not None
        assert process.stderr.readline() == "waiting for a machine with 1 GPUs, of which the cluster has none yet\n"
        cluster.add_node(num_cpus=4, num_gpus=2, object_store_memory=128 << 20)
        printed, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
        assert "sam_actors=3, gpus_per_actor=1.0" in printed and "device='cuda'" in printed
        assert "the models ask for 3 GPUs, of which the cluster has 2 free" in errors, errors
