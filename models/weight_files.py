"""Weight files: finding them by name, fetching, checking, reading and writing them. Knows no model.

The only module of `models` that touches the disk or the network; `models.weights` makes models of what it reads.
"""

import difflib
import fcntl
import gzip
import hashlib
import http.client
import logging
import os
import pickle
import shutil
import urllib.error
import urllib.request
import uuid
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from models.published import PUBLISHED, PublishedWeights
from models.url_credentials import redact

logger = logging.getLogger(__name__)

EMBEDDED_FOLDER = Path(__file__).parent / "embedded"
HUB_FILENAME = "model.safetensors"
OLDER_HUB_FILENAME = "pytorch_model.bin"  # all that some repositories have
SIZES_PREFIX = "maskfoundry."  # a safetensors metadata key "maskfoundry.sam" holds the sizes of a SAM, and so on
FETCH_TIMEOUT = 30.0  # seconds without a byte


class CheckpointError(ValueError):
    """A checkpoint that cannot be found, fetched, read or fitted; the message is one line and says what to do."""


class FetchError(CheckpointError):
    """A checkpoint that cannot be fetched now: the network, the mirror or the hub does not answer."""


@dataclass(frozen=True)
class ModelRecord:
    """A model that can be named; `location` is a path, or the URL that it would be fetched from."""

    name: str
    family: str
    origin: Literal["embedded", "published"]
    location: str
    num_bytes: int
    sha256: str
    on_disk: bool


@dataclass(frozen=True)
class StoredWeights:
    """A file's tensors as they are stored, with the file's metadata (safetensors only) and sha256."""

    path: Path
    state: dict[str, Tensor]
    metadata: dict[str, str]
    sha256: str


def available_models() -> list[ModelRecord]:
    """Every embedded and published model, embedded ones first."""
    records = [_embedded_record(path) for path in sorted(EMBEDDED_FOLDER.glob("*.safetensors"))]
    for weights in PUBLISHED.values():
        on_disk = _cached_path(weights).is_file()
        location = str(_cached_path(weights)) if on_disk else redact(_fetch_url(weights))
        records.append(
            ModelRecord(weights.name, weights.family, "published", location, weights.num_bytes, weights.sha256, on_disk)
        )
    return records


def _embedded_record(path: Path) -> ModelRecord:
    family = next(key for key in _metadata(path) if key.startswith(SIZES_PREFIX)).removeprefix(SIZES_PREFIX)
    return ModelRecord(path.stem, family, "embedded", str(path), path.stat().st_size, _sha256(path), True)


def read_checkpoint(checkpoint: str) -> StoredWeights:
    """Finds the file (fetching it if its name is a published one) and reads it; tensors only, whoever wrote it.

    Raises CheckpointError if there is no such checkpoint, if it cannot be fetched, if a published file is not the
    one that was published, and if it holds anything but tensors.
    """
    stored = read_weights(_locate(checkpoint))
    published = PUBLISHED.get(checkpoint)
    if published is not None and stored.sha256 != published.sha256:
        raise CheckpointError(
            f"{stored.path}: sha256 is {stored.sha256}, but {checkpoint} was published with {published.sha256}; "
            "delete the file to have it fetched again"
        )
    return stored


def _locate(checkpoint: str) -> Path:
    embedded = EMBEDDED_FOLDER / f"{checkpoint}.safetensors"
    if checkpoint.startswith("hf://"):
        return _fetch_from_hub(checkpoint)
    if checkpoint in PUBLISHED:
        path = _cached_path(PUBLISHED[checkpoint])
        return path if path.is_file() else _fetch(PUBLISHED[checkpoint])
    if "/" not in checkpoint and embedded.is_file():
        return embedded
    path = Path(checkpoint).expanduser()
    if path.is_dir() and not (path / HUB_FILENAME).is_file():
        raise CheckpointError(f"checkpoint: the folder {checkpoint} has no {HUB_FILENAME}")
    if path.exists():
        return path / HUB_FILENAME if path.is_dir() else path
    if "/" in checkpoint or path.suffix in (".pth", ".pt", ".safetensors"):
        raise CheckpointError(f"checkpoint: there is no file or folder {checkpoint}")
    names = [record.name for record in available_models()]
    nearest = difflib.get_close_matches(checkpoint, names, n=2, cutoff=0.5) or names
    raise CheckpointError(f"checkpoint: unknown model {checkpoint!r}; the nearest names are {', '.join(nearest)}")


def _cached_path(weights: PublishedWeights) -> Path:
    folder = os.environ.get("MASKFOUNDRY_CACHE") or "~/.cache/maskfoundry"
    return Path(folder).expanduser() / weights.filename


def _fetch_url(weights: PublishedWeights) -> str:
    mirror = os.environ.get("MASKFOUNDRY_WEIGHTS_URL")
    return f"{mirror.rstrip('/')}/{weights.filename}" if mirror else weights.url


def _fetch(weights: PublishedWeights) -> Path:
    """Downloads a published file into the cache; it appears there whole and checked, or not at all."""
    url, path = _fetch_url(weights), _cached_path(weights)
    logger.info("fetching %s (%.0f MB) from %s to %s", weights.name, weights.num_bytes / 1e6, redact(url), path)
    try:
        with _alone_in(path.parent):
            if not path.is_file():  # else another process has fetched it meanwhile
                _download(weights, url, path)
    except CheckpointError:
        raise
    except (
        OSError,
        http.client.HTTPException,
        ValueError,
    ) as error:  # network, cache folder, or a mirror that is no URL
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # the answer that it carries holds the connection
        raise FetchError(
            redact(f"{weights.name}: cannot fetch {url} to {path} ({error})")
            + "; without a network, put that file there by hand"
        ) from error
    return path


def _download(weights: PublishedWeights, url: str, path: Path) -> None:
    with _replacing(path) as temporary:
        with urllib.request.urlopen(url, timeout=FETCH_TIMEOUT) as response, temporary.open("wb") as file:
            shutil.copyfileobj(response, file, length=2**20)
        sha256 = _sha256(temporary)
        if sha256 != weights.sha256:
            raise CheckpointError(
                f"{weights.name}: what {redact(url)} sent has sha256 {sha256}, not {weights.sha256}; nothing was kept"
            )


def _fetch_from_hub(checkpoint: str) -> Path:
    try:
        return _fetch_hub_file(checkpoint, HUB_FILENAME)
    except FileNotFoundError as error:
        try:
            return _fetch_hub_file(checkpoint, OLDER_HUB_FILENAME)
        except FileNotFoundError:
            raise CheckpointError(
                f"{checkpoint}: this repository has neither {HUB_FILENAME} nor {OLDER_HUB_FILENAME}"
            ) from error


def _fetch_hub_file(checkpoint: str, filename: str) -> Path:
    """Raises FileNotFoundError if the repository is there, but not the file; else CheckpointError."""
    # Imported here: it takes a noticeable time, and most checkpoints do not come from the Hub.
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    repo, _, revision = checkpoint.removeprefix("hf://").partition("@")
    try:
        return Path(hf_hub_download(repo, filename, revision=revision or None))
    except (OSError, ValueError, EntryNotFoundError) as error:
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            raise FileNotFoundError(filename) from error
        reason = redact(str(error).strip().splitlines()[0])
        raise (FetchError if isinstance(error, OSError) else CheckpointError)(
            f"{checkpoint}: cannot fetch {filename} of {repo!r} from the Hugging Face Hub ({reason}); "
            "without a network, copy that file to this machine and give its path"
        ) from error


def read_companion(checkpoint: str, filename: str) -> str | None:
    """The text of a further file of a checkpoint: beside its weights, in its folder or in its repository on the Hub.

    None if there is no such file. Raises CheckpointError if it cannot be fetched or read.
    """
    if checkpoint.startswith("hf://"):
        try:
            return read_text(_fetch_hub_file(checkpoint, filename))
        except FileNotFoundError:
            return None
    folder = Path(checkpoint).expanduser()
    path = (folder if folder.is_dir() else _locate(checkpoint).parent) / filename
    return read_text(path) if path.is_file() else None


def read_text(path: Path) -> str:
    """A UTF-8 text, gzipped if the ending is .gz. Raises CheckpointError."""
    try:
        content = path.read_bytes()
        return (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read as text ({error})") from error


def read_weights(path: Path) -> StoredWeights:
    """Reads a .safetensors file, or a pickle of plain tensors (any other ending). Raises CheckpointError."""
    if _is_torchscript(path):
        raise CheckpointError(
            f"{path}: refused, as a TorchScript archive is a program and not only weights; if you trust it, convert "
            f'it once: python -c "import torch; '
            f"torch.save(torch.jit.load('{path}', 'cpu').state_dict(), '{path.stem}-weights.pt')\""
        )
    try:
        if path.suffix == ".safetensors":
            return StoredWeights(path, safetensors.torch.load_file(path), _metadata(path), _sha256(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: refused, as it holds more than plain weights and could run code; save a state_dict instead"
        ) from error
    except (safetensors.SafetensorError, RuntimeError, EOFError, OSError) as error:
        reason = str(error).strip().splitlines()
        raise CheckpointError(f"{path}: cannot be read ({reason[0] if reason else 'it is empty'})") from error
    if isinstance(state, dict) and set(state) == {"model"}:  # as the published SAM 2 files are wrapped
        state = state["model"]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path}: expected names and tensors, as a state_dict has, and nothing else")
    return StoredWeights(path, dict(state), {}, _sha256(path))


def _is_torchscript(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def read_metadata(checkpoint: str) -> dict[str, str]:
    """The metadata of a checkpoint without its tensors; none for what is no .safetensors. Raises CheckpointError."""
    path = _locate(checkpoint)
    try:
        return _metadata(path) if path.suffix == ".safetensors" else {}
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from error


def stored_sizes(stored: StoredWeights, family: str) -> str | None:
    """The model's sizes as JSON: from the file's metadata, else from a .json beside the file, else None."""
    beside = stored.path.with_suffix(".json")
    text = stored.metadata.get(SIZES_PREFIX + family)
    return beside.read_text(encoding="utf-8") if text is None and beside.is_file() else text


def write_safetensors(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes tensors and metadata; the file appears whole or not at all."""
    with _replacing(path) as temporary:
        tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
        safetensors.torch.save_file(tensors, temporary, metadata={"format": "pt", **metadata})


def write_pickle(path: Path, state: Mapping[str, Tensor]) -> None:
    """Writes tensors as `torch.save` does; the file appears whole or not at all."""
    with _replacing(path) as temporary:
        torch.save(dict(state), temporary)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8; the file appears whole or not at all."""
    with _replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """One process of this machine at a time, of the many that need a file at once."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system that cannot lock
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that becomes `path` if the block succeeds and is removed if it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    temporary.touch()
    mode = temporary.stat().st_mode  # safetensors would leave the file to its owner alone
    try:
        yield temporary
        temporary.chmod(mode)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def first_few(keys: list[str]) -> str:
    """The beginning of a list of keys, for a message."""
    return ", ".join(keys[:3]) + (", …" if len(keys) > 3 else "")


def _metadata(path: Path) -> dict[str, str]:
    with safetensors.safe_open(path, framework="pt") as file:
        return file.metadata() or {}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
