"""A run through an S3 server that fails, dawdles and hangs up in the middle; and through one that goes for good."""

import http.client
import itertools
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image

from pipeline.errors import RunError
from pipeline.recipes.load_recipe import validate_recipe
from pipeline.runs.run import run
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder
from pipeline.store.verify import verify_dataset

# each request may wait for a retry, so that a run takes minutes
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[3]
NUM_IMAGES = 12


class FlakyProxy(ThreadingHTTPServer):
    """Hands requests on to a server, but answers every seventh with 500 (every other time after the deed was done),
    holds every fifth up, and cuts every eleventh answer and every fourth upload in half. After
    `gone_after_parts` uploads of parts, if that is set, it leaves, and is faultless until then."""

    daemon_threads = True

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), FlakyHandler)
        self.upstream = upstream.removeprefix("http://")
        self.counter = itertools.count(1)
        self.failures = itertools.count()
        self.uploads = itertools.count(1)
        self.done: Counter[str] = Counter()
        self.gone = threading.Event()
        self.gone_after_parts: int | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def leave(self) -> None:
        """From now on nobody listens."""
        self.gone.set()
        threading.Thread(target=lambda: (self.shutdown(), self.server_close()), daemon=True).start()


class FlakyHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FlakyProxy

    def _handle(self) -> None:
        proxy = self.server
        number = next(proxy.counter) if proxy.gone_after_parts is None else 1
        if proxy.gone.is_set():
            self._hang_up("left")
            return
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if number % 5 == 0:
            time.sleep(0.15)
            proxy.done["held up"] += 1
        if self.command == "PUT" and number > 1 and next(proxy.uploads) % 4 == 0:
            self._hang_up("request cut")
            return
        if number % 7 == 0 and next(proxy.failures) % 2:
            self._answer(500, "Internal Server Error", [], b"")
            proxy.done["failed before"] += 1
            return
        status, reason, headers, answer = self._hand_on(body)
        if self.command == "PUT" and "/part-" in self.path:
            proxy.done["parts"] += 1
            if proxy.done["parts"] == proxy.gone_after_parts:
                proxy.leave()
        if number % 7 == 0:
            proxy.done["failed after"] += 1
            self._answer(500, "Internal Server Error", [], b"")
        elif number % 11 == 0 and len(answer) > 1:
            self._answer(status, reason, headers, answer, len(answer) // 2)
            self._hang_up("answer cut")
        else:
            self._answer(status, reason, headers, answer)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _handle  # noqa: N815

    def _hand_on(self, body: bytes) -> tuple[int, str, list[tuple[str, str]], bytes]:
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=30)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                upstream.putheader(name, value)
            upstream.endheaders(body or None)
            answer = upstream.getresponse()
            return answer.status, answer.reason, answer.getheaders(), answer.read()
        finally:
            upstream.close()

    def _answer(self, status: int, reason: str, headers: list[tuple[str, str]], body: bytes, cut: int = -1) -> None:
        self.send_response_only(status, reason)
        own = ("connection", "transfer-encoding", "keep-alive")
        for name, value in headers:
            if name.lower() not in own and (name.lower() != "content-length" or self.command == "HEAD"):
                self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:cut] if cut >= 0 else body)

    def _hang_up(self, what: str) -> None:
        self.server.done[what] += 1
        self.wfile.flush()
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Not on the tests' output."""


@contextmanager
def flaky_proxy() -> Iterator[FlakyProxy]:
    with FlakyProxy(os.environ["AWS_ENDPOINT_URL"]) as proxy:
        threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield proxy
        proxy.shutdown()


def pictures(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    for index in range(count):
        pixels = np.random.default_rng(index).integers(0, 255, (4, 5, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        Image.fromarray(pixels).save(folder / f"{index:02d}.png")


def settings(source: str, output: str) -> dict[str, object]:
    return {
        "input": source,
        "output": output,
        "model": {"checkpoint": "sam_tiny"},
        "generate": {"points_per_side": 1, "store_floor": {"predicted_iou": 0.05, "stability_score": 0.2}},
        "filter": {"pred_iou_thresh": 0.1, "stability_score_thresh": 0.3},
        "run": {"commit_every": 2},
        "resources": {"sam_actors": 1},
    }


def test_nothing_is_lost_and_nothing_doubled(s3_server: Path, tmp_path: Path) -> None:
    pictures(s3_server / "shaky" / "in", NUM_IMAGES)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps(settings("s3://shaky/in", "s3://shaky/out")))
    command = [sys.executable, "-c", "from pipeline.cli import main; main()", "run", str(recipe), "--json"]
    with flaky_proxy() as proxy:
        environment = {**os.environ, "AWS_ENDPOINT_URL": proxy.url}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, done.stderr
        for kind in ("held up", "failed before", "failed after", "request cut", "answer cut"):
            assert proxy.done[kind] > 0, proxy.done
    summary = json.loads(done.stdout)
    assert (summary["images"], summary["failed"], summary["total_images"]) == (NUM_IMAGES, 0, NUM_IMAGES)
    found = Round(Folder("s3://shaky/out"), 0).committed()["image_id"].to_pylist()
    assert sorted(found) == [f"{index:02d}.png" for index in range(NUM_IMAGES)]
    assert verify_dataset("s3://shaky/out").num_problems == 0
    left = sorted(path.name for path in (s3_server / "shaky/out/round=000").iterdir())
    assert left == ["_log", "_run.json", *sorted(Round(Folder("s3://shaky/out"), 0).files().values())]


def test_a_store_that_goes_for_good_ends_the_run_in_one_line(
    s3_server: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures(s3_server / "leaving" / "in", 8)
    recipe = validate_recipe(settings("s3://leaving/in", "s3://leaving/out"))
    with flaky_proxy() as proxy, monkeypatch.context() as patch:
        proxy.gone_after_parts = 2
        patch.setenv("AWS_ENDPOINT_URL", proxy.url)
        patch.setenv("AWS_MAX_ATTEMPTS", "1")
        patch.setattr("stages.retry.FIRST_WAIT_SECONDS", 0.02)
        fsspec.filesystem("s3").clear_instance_cache()
        with pytest.raises(RunError, match=r"^s3://leaving/out: the store does not answer .* then run the same") as end:
            run(recipe, quiet=True)
        assert "\n" not in str(end.value) and re.search(r"; [24] images are committed: ", str(end.value))
    fsspec.filesystem("s3").clear_instance_cache()
    # it could not be taken back; of a process that is gone it would not count
    monkeypatch.setattr("pipeline.store.lease.STALE_SECONDS", 0.0)
    again = run(recipe, quiet=True)  # workers still have the server's own address
    assert 8 - 4 <= again.tally.images < 8 and again.total_images == 8
    assert verify_dataset("s3://leaving/out").num_problems == 0
