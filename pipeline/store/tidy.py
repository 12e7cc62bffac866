"""What killed runs leave in a round's folder: found by anybody, put away by the next run that holds the round."""

import re
from dataclasses import dataclass
from typing import Literal

from pipeline.store.commit_log import GRACE_SECONDS
from pipeline.store.part_files import REPLACED
from pipeline.store.part_names import parse_part_name
from pipeline.store.rounds import Round

Kind = Literal["replaced", "unfinished", "foreign"]
_OLD_MARKS = re.compile(r"_merge\.json|_lease(-\d+-of-\d+)?\.json")  # of versions before there was a log

KINDS: dict[Kind, str] = {
    "replaced": "was replaced, and other tools would read it as well; the next command that writes removes it",
    "unfinished": "was never committed, and other tools would read it; the next command that writes removes it",
    "foreign": "was not written by MaskFoundry, which does not read it, but other tools would; remove it",
}


@dataclass(frozen=True)
class LeftOver:
    """A file `ROUND/NAME` that lies among the parts and does not count."""

    name: str
    kind: Kind

    def __str__(self) -> str:
        return f"{self.name} {KINDS[self.kind]}"


def left_overs(target: Round) -> list[LeftOver]:
    """Of a round that nobody is writing."""
    found = [left for view in target.views() for left in _of_view(view)]
    for name in target.folder.names(target.name, "", ".parquet"):
        file = name.rpartition("/")[2]
        if parse_part_name(file) is None and not file.startswith((".", "_")):
            found.append(LeftOver(name, "foreign"))
    return found


def _of_view(view: Round) -> list[LeftOver]:
    (state,) = view.read_log()
    found = []
    for name in view.folder.names(view.name, "part-", ".parquet"):
        file = name.rpartition("/")[2]
        parsed = parse_part_name(file)
        if parsed is None or not view.owns(parsed.part) or state.files.get(parsed.part) == file:
            continue
        if file in state.replaced:
            found.append(LeftOver(name, "replaced"))
        elif parsed.epoch is None:
            found.append(LeftOver(name, "foreign"))
        else:
            found.append(LeftOver(name, "unfinished"))
    return found


def tidy(target: Round) -> None:
    """Put away what runs of earlier epochs left. What a run wrote that has begun meanwhile stays, as its files have a
    later epoch in their names; and what this one takes away no log can name any more."""
    target.remove_temporary()
    for view in target.views():
        _tidy_view(view)
    if target.shard is None:
        for name in target.folder.names(target.name, "_", ".json"):
            if _OLD_MARKS.fullmatch(name.rpartition("/")[2]):
                target.folder.remove(name)


def _tidy_view(view: Round) -> None:
    folder, (state,) = view.folder, view.read_log()
    oldest = folder.now() - GRACE_SECONDS
    for left in _of_view(view):
        file = left.name.rpartition("/")[2]
        parsed = parse_part_name(file)
        if state.replaced.get(file, 0.0) > oldest:
            folder.move(left.name, f"{view.name}/{REPLACED}/{file}")
        elif left.kind == "replaced" or (parsed and parsed.epoch is not None and parsed.epoch < state.epoch):
            folder.remove(left.name)
    for name in folder.names(f"{view.name}/{REPLACED}", "part-", ".parquet"):
        file = name.rpartition("/")[2]
        parsed = parse_part_name(file)
        if parsed is not None and view.owns(parsed.part) and state.replaced.get(file, 0.0) <= oldest:
            folder.remove(name)
