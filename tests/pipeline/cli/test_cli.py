"""The command as a person runs it: a process of its own, its output and its exit code."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cli import main

ROOT = Path(__file__).resolve().parents[3]


def maskfoundry(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from pipeline.cli import main; main()", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=240, check=False
    )


SMALL = ["-o", "generate.points_per_side=4"]


def test_a_run_prints_its_result_and_nothing_else(photos: Path, tmp_path: Path) -> None:
    (photos / "broken.jpg").write_bytes(b"nothing")
    (photos / "phone.HEIC").write_bytes(b"not taken")
    arguments = ["run", "quickstart", "-o", f"input={photos}", "-o", f"output={tmp_path / 'out'}", *SMALL]
    done = maskfoundry(*arguments)
    assert done.returncode == 0 and done.stderr == ""
    besides, first, second, third, fourth = done.stdout.splitlines()
    assert besides == "seen in the input and not taken: 1 × .heic"
    assert first.startswith("6 images, ") and first.endswith("round=000")
    assert second == "1 images failed:" and third == "  1 × decode: UnidentifiedImageError"
    page = tmp_path / "out/report/index.html"
    assert fourth == f"report: {page}" and "broken.jpg" in page.read_text()

    again = maskfoundry(*arguments, "--json")
    assert again.returncode == 0 and again.stderr == ""
    summary = json.loads(again.stdout)
    assert summary["status"] == "done" and summary["images"] == 0 and summary["total_images"] == 6
    assert summary["listing"]["not_taken"] == {".heic": 1}
    assert f"  {besides}" in maskfoundry("status", str(tmp_path / "out")).stdout.splitlines()
    assert summary["report"] == str(page)

    checked = maskfoundry("verify", str(tmp_path / "out"))
    assert checked.returncode == 0 and checked.stdout.endswith("no problems\n")


def test_exit_code_1_when_every_image_failed(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jpg").write_bytes(b"x")
    done = maskfoundry("run", "quickstart", "-o", f"input={tmp_path / 'in'}", "-o", f"output={tmp_path / 'out'}")
    assert done.returncode == 1 and "1 images failed" in done.stdout and done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["run", "quickstrat"], "did you mean 'quickstart'"),
        (["run", "quickstart", "-o", "generate.points_per_sid=3"], "did you mean generate.points_per_side?"),
        (["run", "quickstart", "-o", "generate.points_per_side=many"], "'many' is not valid"),
        (["run", "quickstart", "-o", "input=/nowhere"], "does not exist"),
        (["run", "quickstart", "-o", f"input={ROOT}/configs"], "holds no images"),
        (["run", "quickstart", "-o", "model.checkpoint=sam_tny"], "sam_tiny"),
        (["run", "quickstart", "--shard", "5/4"], "--shard '5/4': write it as i/n with i from 1 to n"),
        (["filter", "/nowhere"], "holds no rounds"),
        (["verify", "/nowhere"], "holds no rounds"),
    ],
)
def test_a_mistake_gets_one_line_and_exit_code_2(
    photos: Path,
    tmp_path: Path,
    arguments: list[str],
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if arguments[0] == "run":
        if not any(one.startswith("input=") for one in arguments):
            arguments = [*arguments, "-o", f"input={photos}"]
        arguments = [*arguments, "-o", f"output={tmp_path / 'out'}"]
    # in this process, as starting one takes most of the time; other tests start one
    monkeypatch.setattr(sys, "argv", ["maskfoundry", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    printed = capsys.readouterr()
    assert ended.value.code == 2 and printed.out == ""
    assert line in printed.err and len(printed.err.splitlines()) == 1 and "Traceback" not in printed.err
    assert not (tmp_path / "out").exists()


def test_a_published_model_without_network_is_one_line(photos: Path, tmp_path: Path) -> None:
    done = maskfoundry(
        *["run", "sa1b", "-o", f"input={photos}", "-o", f"output={tmp_path / 'out'}"],
        MASKFOUNDRY_WEIGHTS_URL="http://127.0.0.1:9",
        MASKFOUNDRY_CACHE=str(tmp_path / "cache"),
    )
    assert done.returncode == 1, "the network may be there the next time"
    assert len(done.stderr.splitlines()) == 1 and "127.0.0.1:9" in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_models_are_listed(tmp_path: Path) -> None:
    listed = maskfoundry("models", "list", "--json")
    names = [model["name"] for model in json.loads(listed.stdout)]
    assert "sam_tiny" in names and "sam_vit_h" in names
    target = tmp_path / "copy.pth"
    assert maskfoundry("models", "convert", "sam_tiny", str(target)).returncode == 0
    verified = maskfoundry("models", "verify", str(target))
    assert verified.returncode == 0 and "official layout" in verified.stdout
