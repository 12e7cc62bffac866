"""A real server of weights on this machine, a mirror or a Hugging Face Hub."""

import hashlib
import http.server
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from huggingface_hub import constants


class WeightServer(http.server.ThreadingHTTPServer):
    """Serves `files` by path, and what lies in the folder that `repository` names under its path."""

    files: dict[str, bytes]
    repository: tuple[str, Path] | None = None
    requests: list[str]
    seconds: float = 0.0  # that an answer takes


class _Handler(http.server.BaseHTTPRequestHandler):
    """Sends the headers that the Hub's client wants to see."""

    server: WeightServer

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        self.server.requests.append(f"{self.command} {self.path}")
        time.sleep(self.server.seconds)
        body = self.server.files.get(self.path)
        start, folder = self.server.repository or ("", Path())
        of_repository = bool(start) and self.path.startswith(start)
        if of_repository and (folder / self.path.removeprefix(start)).is_file():
            body = (folder / self.path.removeprefix(start)).read_bytes()
        self.send_response(404 if body is None else 200)
        if body is None and of_repository:
            self.send_header("X-Error-Code", "EntryNotFound")
        body = body or b""
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def weight_server() -> Iterator[WeightServer]:
    server = WeightServer(("127.0.0.1", 0), _Handler)
    server.files, server.requests = {}, []
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def use_as_hub(server: WeightServer, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Hub's client asks this server, and keeps what it fetched in `cache`."""
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
