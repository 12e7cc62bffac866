"""An existing cluster: two real nodes on this machine, and one of them killed in the middle."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.store.rounds import Round
from pipeline.store.storage import Folder
from pipeline.store.verify import verify_dataset

NUM_IMAGES = 16
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    nodes = {"object_store_memory": 128 << 20, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, **nodes})
    made.second = made.add_node(num_cpus=2, object_store_memory=128 << 20)
    made.wait_for_nodes()
    yield made
    made.shutdown()


def start(photos: Path, output: Path, address: str, cwd: Path) -> subprocess.Popen[str]:
    settings = [
        f"input={photos}",
        f"output={output}",
        f"ray.address={address}",
        "generate.points_per_side=8",
        "run.commit_every=1",
        "resources.sam_actors=2",
    ]
    arguments = ["run", "quickstart", *(part for setting in settings for part in ("-o", setting))]
    # workers find the code through the runtime environment only: the driver's own path is not theirs
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from pipeline.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
    )


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
    cluster.remove_node(cluster.second, allow_graceful=False)
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
