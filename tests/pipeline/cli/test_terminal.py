"""Codes in ids, tags and run records never reach a terminal, and rich's own colours do."""

import io
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.table import Table
from typer.testing import CliRunner

from pipeline.cli import app, main
from pipeline.cli.terminal import PlainConsole, plain
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder

MakeDataset = Callable[..., str]
CODES = "\x1b[31mred\x1b]8;;http://evil\x07\x9b2J\u202eabc\r"


def test_codes_are_spelled_out_and_letters_stay() -> None:
    assert plain(CODES) == r"\x1b[31mred\x1b]8;;http://evil\x07\x9b2J\u202eabc\r"
    assert plain("hand, 手, é, ½\n\tmore [bold]") == "hand, 手, é, ½\n\tmore [bold]"


def test_tables_keep_their_own_colours_only() -> None:
    sink = io.StringIO()
    table = Table(CODES)
    table.add_row(CODES, style="bold red")
    PlainConsole(file=sink, force_terminal=True, color_system="standard", width=200).print(table)
    text = sink.getvalue()
    assert "\x1b[1;31m" in text and "\x1b]8" not in text and "\x07" not in text and "\u202e" not in text
    assert text.count(r"\x1b[31mred\x1b]8;;http://evil\x07") == 2


@pytest.mark.parametrize("command", ["status", "query", "verify", "export", "drop"])
def test_no_command_prints_the_codes_of_a_dataset(
    command: str, tmp_path: Path, make_dataset: MakeDataset, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = make_dataset(tmp_path, {"a.png": np.ones((1, 8, 8), np.uint8)}, image_id=CODES, caption=CODES)
    target = Round(Folder(uri), 0)
    target.add_run({"run_id": CODES, "started": CODES, "status": CODES, "seconds": 1.0})
    more = {"export": [str(tmp_path / "out"), "--images", "--short-side", "1"], "drop": ["--image", CODES + "x"]}
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(sys, "argv", ["maskfoundry", command, uri, *more.get(command, [])])
        main()
    shown = capsys.readouterr()
    assert not set("\x1b\x07\x9b\u202e\r") & {*shown.out, *shown.err}


def test_json_holds_what_the_dataset_does(tmp_path: Path, make_dataset: MakeDataset) -> None:
    uri = make_dataset(tmp_path, {"a.png": np.ones((1, 8, 8), np.uint8)}, image_id="手")
    assert '"手"' in CliRunner().invoke(app, ["query", uri, "--format", "json"]).output
