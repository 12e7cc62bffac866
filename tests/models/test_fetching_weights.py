"""Weights are fetched from a real server, checked and kept."""

import hashlib
import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from models.published import PUBLISHED, PublishedWeights
from models.sam.build import build_sam
from models.sam.config import SAM_SIZES
from models.sam.model import Sam
from models.weight_files import read_checkpoint
from models.weights import CheckpointError, convert, load_sam, save_sam
from tests.models.weight_server import WeightServer, use_as_hub, weight_server

DEBUG = SAM_SIZES["debug"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_sam(tmp_path / "sam.safetensors", build_sam(DEBUG), DEBUG, torch.float32)
    return tmp_path / "sam.safetensors"


def are_those_of(file: Path, loaded: Sam) -> bool:
    expected = load_sam(str(file))[0].state_dict()
    return all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())


def refused(checkpoint: str | Path) -> str:
    """The one line with which a checkpoint is refused."""
    with pytest.raises(CheckpointError) as raised:
        load_sam(str(checkpoint))
    message = str(raised.value)
    assert "\n" not in message
    return message


@pytest.fixture
def server() -> Iterator[WeightServer]:
    with weight_server() as server:
        yield server


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MASKFOUNDRY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def published(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PublishedWeights:
    """A small file published under a name of its own: the real ones are gigabytes."""
    body = file.read_bytes()
    weights = PublishedWeights(
        "sam_small", "sam", "https://example.invalid/sam.safetensors", hashlib.sha256(body).hexdigest(), len(body)
    )
    monkeypatch.setitem(PUBLISHED, weights.name, weights)
    return weights


def use_mirror(server: WeightServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKFOUNDRY_WEIGHTS_URL", f"http://127.0.0.1:{server.server_port}/mirror/")


def test_a_published_file_is_fetched_once_and_checked(
    file: Path, server: WeightServer, cache: Path, published: PublishedWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_mirror(server, monkeypatch)
    server.files["/mirror/sam.safetensors"] = file.read_bytes()
    loaded, sha256 = load_sam("sam_small")
    assert sha256 == published.sha256
    assert are_those_of(file, loaded)
    load_sam("sam_small")
    assert server.requests == ["GET /mirror/sam.safetensors"]
    assert os.listdir(cache) == ["sam.safetensors"]


def test_models_of_one_machine_that_start_together_fetch_once(
    file: Path, server: WeightServer, cache: Path, published: PublishedWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_mirror(server, monkeypatch)
    server.files["/mirror/sam.safetensors"] = file.read_bytes()
    server.seconds = 0.2
    with ThreadPoolExecutor(4) as pool:
        found = [one.sha256 for one in pool.map(read_checkpoint, ["sam_small"] * 4)]
    assert found == [published.sha256] * 4 and server.requests == ["GET /mirror/sam.safetensors"]
    assert os.listdir(cache) == ["sam.safetensors"]


@pytest.mark.parametrize("body", [b"", b"something else"], ids=["empty", "other bytes"])
def test_a_file_with_another_checksum_leaves_nothing_behind(
    server: WeightServer, cache: Path, published: PublishedWeights, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    use_mirror(server, monkeypatch)
    server.files["/mirror/sam.safetensors"] = body
    message = refused("sam_small")
    assert hashlib.sha256(body).hexdigest() in message
    assert f"not {published.sha256}; nothing was kept" in message
    assert os.listdir(cache) == []


def test_a_cached_file_that_was_changed_is_noticed(file: Path, cache: Path, published: PublishedWeights) -> None:
    cache.mkdir()
    changed = bytearray(file.read_bytes())
    changed[-1] ^= 1
    (cache / "sam.safetensors").write_bytes(changed)
    assert "delete the file to have it fetched again" in refused("sam_small")


def test_what_cannot_be_fetched_is_explained(
    server: WeightServer, cache: Path, published: PublishedWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_mirror(server, monkeypatch)
    message = refused("sam_small")
    assert f"cannot fetch http://127.0.0.1:{server.server_port}/mirror/sam.safetensors to {cache}" in message
    assert "HTTP Error 404" in message
    assert "put that file there by hand" in message
    assert os.listdir(cache) == []


@pytest.mark.parametrize("mirror", ["http://127.0.0.1:{closed}", "mirror.example", "file:///nowhere"])
def test_an_unreachable_mirror_is_explained(
    cache: Path, published: PublishedWeights, monkeypatch: pytest.MonkeyPatch, mirror: str
) -> None:
    with socket.socket() as listener:  # bound but not listening: connections are refused
        listener.bind(("127.0.0.1", 0))
        mirror = mirror.format(closed=listener.getsockname()[1])
        monkeypatch.setenv("MASKFOUNDRY_WEIGHTS_URL", mirror)
        assert f"sam_small: cannot fetch {mirror}/sam.safetensors" in refused("sam_small")
    assert os.listdir(cache) == []


def test_a_cache_that_cannot_be_written_is_explained(
    tmp_path: Path, published: PublishedWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MASKFOUNDRY_CACHE", str(tmp_path / "file" / "cache"))
    assert "Not a directory" in refused("sam_small")


@pytest.fixture
def hub(server: WeightServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WeightServer:
    use_as_hub(server, tmp_path / "hub", monkeypatch)
    return server


@pytest.mark.parametrize(("suffix", "revision"), [("", "main"), ("@v2", "v2")])
def test_a_hub_repository_is_fetched(file: Path, tmp_path: Path, hub: WeightServer, suffix: str, revision: str) -> None:
    convert(str(file), tmp_path / "folder")
    body = (tmp_path / "folder" / "model.safetensors").read_bytes()
    hub.files[f"/owner/repo/resolve/{revision}/model.safetensors"] = body
    loaded, sha256 = load_sam(f"hf://owner/repo{suffix}")
    assert are_those_of(file, loaded)
    assert sha256 == hashlib.sha256(body).hexdigest()


@pytest.mark.parametrize("name", ["hf://owner/other", "hf://not a name/!"])
def test_a_hub_repository_that_is_not_there_is_explained(hub: WeightServer, name: str) -> None:
    message = refused(name)
    assert f"{name}: cannot fetch model.safetensors of" in message
    assert "copy that file to this machine and give its path" in message
