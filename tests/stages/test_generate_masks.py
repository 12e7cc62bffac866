"""The stage with a real small model; deaths are real deaths of a process, timed out or killed."""

import os
import subprocess
import sys
import textwrap
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from models.generator.settings import GenerateSettings
from stages.attempts import AttemptCounts
from stages.generate_masks import GenerateMasks
from tests.pinned import pinned


def batch(*images: tuple[str, np.ndarray | None]) -> pa.Table:
    return pa.table(
        {
            "image_id": [name for name, _ in images],
            "width": pa.array([None if one is None else one.shape[1] for _, one in images], pa.int32()),
            "height": pa.array([None if one is None else one.shape[0] for _, one in images], pa.int32()),
            "status": ["failed" if one is None else "ok" for _, one in images],
            "error": pa.array(["decode: broken" if one is None else None for _, one in images], pa.string()),
            "pixels": pa.array([None if one is None else one.tobytes() for _, one in images], pa.large_binary()),
            "boxes": pa.nulls(len(images), pa.list_(pa.list_(pa.float64()))),
            "points": pa.nulls(len(images), pa.list_(pa.list_(pa.float64()))),
        }
    )


def picture(seed: int, height: int = 40, width: int = 56) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)
    pixels[8:24, 10:30] = 200
    return pixels


@pytest.fixture(scope="module")
def make_stage() -> Callable[..., GenerateMasks]:
    def make(**settings: object) -> GenerateMasks:
        generate = GenerateSettings(points_per_side=3, **settings)  # type: ignore[arg-type]
        attempts = AttemptCounts()
        return GenerateMasks(pinned("sam_tiny"), None, generate, 0.0, 0.0, 64, 1, "cpu", 1, 2, attempts, None)

    return make


def test_rows_gain_masks_and_lose_their_pixels(make_stage: Callable[..., GenerateMasks]) -> None:
    out = make_stage()(batch(("a", picture(0)), ("bad", None), ("dot", picture(1, 1, 1))))
    assert "pixels" not in out.column_names and out["status"].to_pylist() == ["ok", "failed", "ok"]
    assert out["error"].to_pylist() == [None, "decode: broken", None]
    masks, rles = out["masks"].to_pylist(), out["rles"].to_pylist()
    assert [len(one) for one in masks] == [len(one) for one in rles]
    assert len(masks[0]) > 0 and masks[1] == []
    assert all(mask["mask_id"].startswith("a/2/") and mask["keep"] is None for mask in masks[0])
    assert out["generate_seconds"][1].as_py() == 0.0


def test_batches_of_nothing_and_of_failures(make_stage: Callable[..., GenerateMasks]) -> None:
    assert make_stage()(batch(("a", picture(0)))[:0]).num_rows == 0
    assert make_stage()(batch(("bad", None)))["masks"].to_pylist() == [[]]


def test_one_image_that_raises_does_not_take_its_batch_along(
    make_stage: Callable[..., GenerateMasks], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = make_stage()
    real = stage.generator.generate

    def picky(images: list[np.ndarray], prompts: list[None]) -> object:
        if any(image.shape[1] == 57 for image in images):
            raise ValueError("57 columns\nare too many")
        return real(images, prompts)

    monkeypatch.setattr(stage.generator, "generate", picky)
    out = stage(batch(("a", picture(0)), ("wide", picture(1, 40, 57)), ("b", picture(2))))
    assert out["status"].to_pylist() == ["ok", "failed", "ok"]
    assert out["error"][1].as_py() == "generate: ValueError: 57 columns are too many"
    assert [len(one) > 0 for one in out["masks"].to_pylist()] == [True, False, True]


def test_later_attempts_are_smaller_then_without_crops_then_failed(make_stage: Callable[..., GenerateMasks]) -> None:
    def attempt(number: int, **settings: object) -> dict:
        stage = make_stage(**settings)
        for _ in range(number - 1):
            stage.attempts.begin(["a"])
        row = stage(batch(("a", picture(0)), ("b", picture(1)))).to_pylist()
        assert row[1]["status"] == "ok" and row[1]["error"] is None
        assert stage.attempts.counts(["a", "b"]) == [0, 0]
        return row[0]

    crops = {"layers": (0, 1), "crop_n_points_downscale_factor": 2}
    first = attempt(1, **crops)
    for number in (2, 3):
        same = attempt(number, **crops)
        assert same["error"] is None and len(same["rles"]) == len(first["rles"])
    without = attempt(4, **crops)
    assert without["status"] == "ok" and without["error"] == "generate: without crops, after 3 attempts"
    assert {mask["crop_layer"] for mask in without["masks"]} == {0}
    failed = attempt(5, **crops)
    assert failed["status"] == "failed" and "died or hung at each of 4 attempts" in failed["error"]
    assert attempt(4)["error"] == "generate: RuntimeError: the worker died or hung at each of 3 attempts"


def test_out_of_memory_is_tried_again_smaller(
    make_stage: Callable[..., GenerateMasks], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = make_stage()
    expected = stage(batch(("a", picture(0))))["rles"].to_pylist()
    real = stage.generator.sam.mask_decoder.attend
    held: list[weakref.ref] = []

    def hungry(*arguments: torch.Tensor) -> object:
        assert all(one() is None for one in held), "what the attempt before had computed is still there"
        if len(arguments[2]) > 8:  # no memory for more than eight prompts at a time
            held.append(weakref.ref(arguments[0]))
            raise torch.OutOfMemoryError("out of memory")
        return real(*arguments)

    monkeypatch.setattr(stage.generator.sam.mask_decoder, "attend", hungry)
    out = stage(batch(("a", picture(0))))
    assert out["status"].to_pylist() == ["ok"]
    assert [len(one) for one in out["rles"].to_pylist()] == [len(one) for one in expected]
    assert len(held) == 2, "the batch, then the image"


def run_program(program: str, timeout: float) -> subprocess.CompletedProcess[bytes]:
    """Python in a process of its own, which may end as it likes within `timeout` seconds."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=Path(__file__).resolve().parents[2],
        timeout=timeout,
        check=False,
        capture_output=True,
        env=dict(os.environ),
    )


def test_a_hang_ends_the_process() -> None:
    program = """
        import re
        from stages.attempts import time_limit
        with time_limit(30):
            pass
        with time_limit(0.2):
            re.match("(a+)+$", "a" * 60 + "b")  # for years, and without letting go of the interpreter's lock
    """
    ended = run_program(program, timeout=30)
    assert ended.returncode == 1 and b"Timeout" in ended.stderr


def test_a_process_that_has_lost_its_gpu_ends() -> None:
    program = """
        import torch
        from stages.lost_gpu import leave_if_gpu_is_lost
        leave_if_gpu_is_lost(torch.device("cpu"))
        def answer_no_more(device):
            raise RuntimeError("CUDA error: unspecified launch failure")
        torch.cuda.synchronize = answer_no_more
        print("there", flush=True)
        leave_if_gpu_is_lost(torch.device("cuda"))
        print("still there", flush=True)
    """
    ended = run_program(program, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, b"there\n", b"")


def test_prompts_of_an_image_replace_the_grid(make_stage: Callable[..., GenerateMasks]) -> None:
    images = batch(*((name, picture(0)) for name in ("grid", "boxed", "none", "outside", "both")))
    kind = pa.list_(pa.list_(pa.float64()))
    boxes = [None, [[10, 8, 30, 24]], [], [[60, 0, 70, 9]], [[0, 0, 56, 40], [10, 8, 30, 24]]]
    points = [None, None, None, None, [[20, 16]]]
    for name, values in (("boxes", boxes), ("points", points)):
        images = images.set_column(images.column_names.index(name), name, pa.array(values, kind))
    out = make_stage()(images)
    masks = dict(zip(out["image_id"].to_pylist(), out["masks"].to_pylist(), strict=True))
    assert out["status"].to_pylist() == ["ok", "ok", "ok", "failed", "ok"]
    assert out["error"][3].as_py() == "generate: ValueError: boxes: [60.0, 0.0, 70.0, 9.0] holds no pixel of 56×40"
    assert len(masks["grid"]) > 3 and masks["none"] == masks["outside"] == []
    assert [(mask["mask_id"], mask["mask_index"], mask["point"]) for mask in masks["boxed"]] == [
        ("boxed/2/0", -1, [20.0, 16.0])
    ]
    assert [mask["mask_index"] for mask in masks["both"]] == [-1, -1, 0, 1, 2]
    assert [mask["mask_id"] for mask in masks["both"]] == [f"both/2/{number}" for number in range(5)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # of the compiler's own code
def test_compiling_is_asked_of_the_generator() -> None:
    stage = GenerateMasks(
        pinned("sam_tiny"), None, GenerateSettings(), 0.0, 0.0, 64, 1, "cpu", 1, 0, AttemptCounts(), None, compiled=True
    )
    assert stage.generator.full_blocks  # a compiled decoder takes blocks of one size only
