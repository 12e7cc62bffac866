"""Names of part files: a part keeps its number, and each time it is written it gets a file of another name."""

import re
import secrets
from dataclasses import dataclass

_NAME = re.compile(r"part-(?P<part>\d{6,})(?:-(?P<epoch>\d+)-[0-9a-f]{8}(?:-(?P<end>[0-9a-f]{8}))?)?\.parquet")


@dataclass(frozen=True)
class PartName:
    """`epoch` is that of the run that wrote the file, `end_hash` tells what stands behind its columns; None in
    datasets of versions that did not name files by them."""

    part: int
    epoch: int | None
    end_hash: str | None


def new_part_name(part: int, epoch: int, end_hash: str) -> str:
    """A name that no other writer uses: not another run, nor a task of this one that Ray starts a second time."""
    return f"part-{part:06d}-{epoch}-{secrets.token_hex(4)}-{end_hash}.parquet"


def parse_part_name(name: str) -> PartName | None:
    """None for a file that MaskFoundry has not named."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    return PartName(int(found["part"]), None if found["epoch"] is None else int(found["epoch"]), found["end"])


def part_number(name: str) -> int:
    """Raises ValueError for a file that MaskFoundry has not named."""
    parsed = parse_part_name(name)
    if parsed is None:
        raise ValueError(f"{name!r} is no part file of MaskFoundry")
    return parsed.part
