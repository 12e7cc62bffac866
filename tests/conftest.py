import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

# one thread: the tests' models are tiny, and Ray's workers share the cores
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Shared photographs and clips; tests that need them skip without."""
    folder = os.environ.get("MASKFOUNDRY_TEST_DATA")
    if not folder:
        pytest.skip("set MASKFOUNDRY_TEST_DATA to a folder with photos/ and bsds500_val/")
    return Path(folder)


S3_KEY = "AKIAMASKFOUNDRYTEST1"
S3_SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYmaskfoundry"


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A real S3 server on this machine, which the environment then names; yields the folder that holds its buckets."""
    folder = tmp_path_factory.mktemp("s3")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"127.0.0.1:{port}"
    command = [str(Path(sys.executable).parent / "rclone"), "serve", "s3", "--addr", address]
    # hardly a cache of folders: tests put files beside the server's back. With none at all, 0, rclone keeps a core busy
    # for as long as it runs
    command += [
        "--auth-key",
        f"{S3_KEY},{S3_SECRET}",
        "--dir-cache-time",
        "5ms",
        "--vfs-cache-mode",
        "off",
        str(folder),
    ]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL, env={"PATH": "", "HOME": str(folder)})
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert time.monotonic() < deadline and server.poll() is None, "the S3 server did not start"
                time.sleep(0.05)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {
                "AWS_ACCESS_KEY_ID": S3_KEY,
                "AWS_SECRET_ACCESS_KEY": S3_SECRET,
                "AWS_ENDPOINT_URL": f"http://{address}",
                "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
                "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            }.items():
                patch.setenv(name, value)
            yield folder
    finally:
        server.terminate()
        server.wait(10)


@pytest.fixture(scope="session")
def ray_session(s3_server: Path) -> Iterator[None]:
    """One Ray for all tests of the graph, as starting it takes seconds; its workers inherit the S3 server's address."""
    from pipeline.runs.ray_runtime import connected_ray

    with connected_ray(num_cpus=2):
        yield


@pytest.fixture(scope="session")
def drawn_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five small pictures of coloured shapes, one of them in a subfolder; for tests that only read them."""
    folder = tmp_path_factory.mktemp("drawn") / "photos"
    (folder / "more").mkdir(parents=True)
    for index in range(5):
        rng = np.random.default_rng(index)
        pixels = np.full((48 + 8 * index, 64, 3), 60 + 20 * index, np.uint8)
        pixels[10:30, 8:28] = rng.integers(0, 255, 3)
        pixels[20:44, 36:60] = rng.integers(0, 255, 3)
        noisy = np.clip(pixels + rng.normal(0, 6, pixels.shape), 0, 255).astype(np.uint8)
        name = f"more/{index}.png" if index == 4 else f"{index}.png"
        Image.fromarray(noisy).save(folder / name)
    return folder


@pytest.fixture
def photos(drawn_photos: Path, tmp_path: Path) -> Path:
    """A copy of them, modification times included, to change at will."""
    return Path(shutil.copytree(drawn_photos, tmp_path / "photos"))
