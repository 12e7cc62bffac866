"""A statement ends with Ctrl-C, with its time and with its memory, and leaves nothing on disk."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from pipeline.cli import app, main
from pipeline.dataset import open_dataset
from pipeline.queries.limits import QueryError, QueryLimits
from pipeline.queries.query import query
from pipeline.store.masklet_round import MaskletRound
from pipeline.store.storage import Folder
from pipeline.video.masklets import Masklets
from stages.masklets import MASKLETS

MakeDataset = Callable[..., str]
ENDLESS = "select count(*) from range(100000000000) t(i) where i % 7 = 3"


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory, make_dataset: MakeDataset) -> str:
    return make_dataset(tmp_path_factory.mktemp("limits"), {"a.png": np.ones((2, 8, 8), np.uint8)})


def test_a_statement_has_its_time(uri: str, tmp_path: Path) -> None:
    with pytest.raises(QueryError, match=r"took longer than 0\.5 s and was stopped; .* --max-seconds"):
        query(open_dataset(uri), ENDLESS, limits=QueryLimits(seconds=0.5))
    target = MaskletRound(Folder(str(tmp_path)), 0)
    target.write_part(0, MASKLETS.empty_table())
    with pytest.raises(QueryError, match=r"took longer than 0\.5 s"):
        Masklets(str(tmp_path), 0).query(ENDLESS, limits=QueryLimits(seconds=0.5))


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("select i, i * 2 as j from range(1000000000) t(i)", r"the answer is larger than 0\.1 GB; .* --max-memory"),
        ("select count(distinct i) from range(1000000000) t(i)", "takes more memory than it may; .* --max-memory"),
        ("select i from range(1000000000) t(i) order by hash(i)", "takes more memory than it may"),
    ],
)
def test_a_statement_has_its_memory(
    uri: str, sql: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where DuckDB would put what memory does not hold
    with pytest.raises(QueryError, match=message):
        query(open_dataset(uri), sql, limits=QueryLimits(memory_bytes=100_000_000))
    assert list(tmp_path.iterdir()) == []


def test_within_its_limits_an_answer_is_whole(uri: str) -> None:
    answer, _ = query(open_dataset(uri), "select i from range(100000) t(i)", limits=QueryLimits(30, 100_000_000))
    assert answer["i"].to_pylist() == list(range(100_000))
    none, _ = query(open_dataset(uri), "select image_id, width from images where false")
    assert none.schema.equals(pa.schema([("image_id", pa.string()), ("width", pa.int32())])) and none.num_rows == 0


def test_the_command_takes_the_limits(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = CliRunner().invoke(app, ["query", uri, "--sql", ENDLESS, "--max-seconds", "0.5", "--max-memory", "0.5"])
    assert isinstance(found.exception, QueryError) and "took longer than 0.5 s" in str(found.exception)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(sys, "argv", ["maskfoundry", "query", uri, "bbox[0] = 5"])
        main()
    assert end.value.code == 2
    assert capsys.readouterr().err == "maskfoundry: lists begin at 1 here: bbox[1] is x, and [0] is never anything\n"


def test_ctrl_c_ends_a_statement_while_duckdb_computes(uri: str) -> None:
    script = (
        "import signal, sys\nfrom pipeline.dataset import open_dataset\nfrom pipeline.queries.query import query\n"
        # tests that run in a shell's background inherit that Ctrl-C is ignored
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "dataset = open_dataset(sys.argv[1])\n"
        "try:\n    print('begun', flush=True)\n    query(dataset, sys.argv[2])\n"
        "except KeyboardInterrupt:\n    print('stopped', flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, uri, ENDLESS], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None and child.stdout.readline() == "begun\n"
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(1)
        child.send_signal(signal.SIGINT)
        assert child.stdout.readline() == "stopped\n"
        assert child.wait(120) == 0
