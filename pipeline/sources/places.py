"""Which places a dataset's pictures may be read from: what the user named, and what its own runs recorded."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import fsspec

from pipeline.sources.globs import MAGIC, static_folder
from pipeline.sources.manifest import MANIFEST_SUFFIXES
from pipeline.store.find_rounds import round_numbers
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder
from stages.allowed_places import AllowedPlaces

RECORDED = "pictures_from"  # in a round's record: absolute prefixes
# Stores whose URIs name a bucket or a disk. An address that a record names is not asked because the record says so.
_STORES = ("file", "local", "memory", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss", "hf")
_SYSTEM = ("/dev", "/etc", "/proc", "/sys")


def input_places(source: str | Sequence[str]) -> tuple[str, ...]:
    """For each source of a recipe's `input` the absolute place below which its images lie: a folder itself, the folder
    of a manifest or above a glob's first pattern, an archive or an image itself."""
    sources = [source] if isinstance(source, str) else list(source)
    return tuple(_place(one) for one in sources)


def _place(source: str) -> str:
    protocol, mark, _ = source.partition("://")
    protocol = protocol if mark else "file"
    path = str(fsspec.get_filesystem_class(protocol)._strip_protocol(source))
    if MAGIC.search(path) and not (protocol == "file" and Path(path).exists()):
        path = static_folder(path) or "/"
    elif source.lower().endswith(MANIFEST_SUFFIXES):
        path = path.rpartition("/")[0] or "/"
    return path if "://" in path else f"{protocol}://{path}"


def absolute_places(prefixes: Iterable[str]) -> tuple[str, ...]:
    """Prefixes as they stay when the working directory is another."""
    return tuple(_place(one) for one in prefixes)


def dataset_places(dataset: str, named: Iterable[str] = ()) -> AllowedPlaces:
    """Where the pictures of a dataset may be read: below the dataset itself, below what its rounds' records name as
    their input, and below what is `named` by the user.

    A record may come from a stranger with the rows: it counts for buckets and folders only, not for network addresses
    (`http://…`), the system's folders, and folders that hold the user's home.
    """
    folder = Folder(dataset)
    records = [Round(folder, number).read_record() or {} for number in round_numbers(folder)]
    recorded = dict.fromkeys(place for record in records for place in _recorded(record))
    return AllowedPlaces(named=(*absolute_places(named), *recorded), closed=(dataset,))


def _recorded(record: dict[str, Any]) -> list[str]:
    """What a round's record names, as far as it may."""
    if isinstance(record.get(RECORDED), list):
        return [place for place in record[RECORDED] if _is_credible(place)]
    # records of the version before
    origin = _mapping(record.get("subset_of"))
    found = [place for source in _mapping(origin.get("rounds")).values() for place in _recorded(_mapping(source))]
    source = _mapping(record.get("recipe")).get("input")
    named = [*(source if isinstance(source, list | tuple) else [source]), origin.get("dataset")]
    return [*found, *input_places([one for one in named if _is_credible(one)])]


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _is_credible(place: Any) -> bool:
    if not isinstance(place, str):
        return False
    protocol, mark, _ = place.partition("://")
    if mark and protocol not in _STORES:
        return False
    if mark and protocol not in ("file", "local"):
        return True
    path = Path(place.partition("://")[2] if mark else place).resolve()
    return not Path.home().is_relative_to(path) and not any(path.is_relative_to(one) for one in _SYSTEM)
