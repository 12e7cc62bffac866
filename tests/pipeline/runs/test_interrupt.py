"""A run ended from outside: by Ctrl-C, and by SIGKILL of everything it started."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.store.rounds import Round
from pipeline.store.storage import Folder
from pipeline.store.verify import verify_dataset

NUM_IMAGES = 32
ROOT = Path(__file__).resolve().parents[3]


def start(photos: Path, output: Path) -> subprocess.Popen[str]:
    settings = [f"input={photos}", f"output={output}", "generate.points_per_side=8", "run.commit_every=1"]
    arguments = ["run", "quickstart", *(part for setting in settings for part in ("-o", setting))]
    return subprocess.Popen(
        [sys.executable, "-c", "from pipeline.cli import main; main()", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_parts(output: Path, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.time() + 200
    while len(list(output.glob("round=000/part-*.parquet"))) < count:
        assert process.poll() is None and time.time() < deadline
        time.sleep(0.02)


@pytest.fixture
def many_photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(NUM_IMAGES):
        pixels = np.random.default_rng(index).integers(0, 255, (6, 8, 3), np.uint8).repeat(40, 0).repeat(40, 1)
        Image.fromarray(pixels).save(folder / f"{index:02d}.png")
    return folder


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_is_committed_stays_and_the_next_run_does_the_rest(
    many_photos: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    output = tmp_path / "out"
    committed = 0
    for how in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        process = start(many_photos, output)
        request.addfinalizer(process.kill)  # one that a failing test leaves goes on for minutes
        wait_for_parts(output, committed + 2, process)
        if how == signal.SIGKILL:
            os.killpg(process.pid, how)
        else:
            process.send_signal(how)
        printed, errors = process.communicate(timeout=120)
        before, committed = committed, Round(Folder(str(output)), 0).committed().num_rows
        assert before + 2 <= committed < NUM_IMAGES
        if how != signal.SIGKILL:
            assert process.returncode == 1 and "interrupted" in printed and "run the same command to go on" in printed
            # a part that is just written as the signal comes may not be in the count
            assert " images, " in printed.splitlines()[0] and "Traceback" not in errors

    again = start(many_photos, output)
    printed, errors = again.communicate(timeout=240)
    assert again.returncode == 0, errors
    assert printed.startswith(f"{NUM_IMAGES - committed} images, ")
    assert f"the round now holds {NUM_IMAGES} images" in printed
    found = Round(Folder(str(output)), 0).committed()["image_id"].to_pylist()
    assert sorted(found) == [f"{index:02d}.png" for index in range(NUM_IMAGES)]
    assert verify_dataset(str(output)).num_problems == 0
