import os
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


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One Ray for all tests of the graph: starting it takes seconds."""
    from pipeline.ray_runtime import local_ray

    with local_ray(2):
        yield


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five small pictures of coloured shapes, one of them in a subfolder."""
    folder = tmp_path / "photos"
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
