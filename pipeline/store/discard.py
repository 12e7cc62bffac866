"""Take back a round that this run has begun and that nobody has seen, so that nothing of it is left."""

from contextlib import suppress

from pipeline.store.part_files import REPLACED
from pipeline.store.rounds import Round


def discard_round(target: Round) -> None:
    """Remove everything in a round that this run holds. Its log goes last, and the entry that opened it at the very
    end, so that others find the round held until it is gone; of a round that had a log before, the log stays."""
    folder = target.folder
    if any(state.epoch for state in target.read_log()):
        for part in target.parts():
            target.remove_part(part)
    else:
        logs, target.logs.writers = target.logs, None
        for name in [*folder.names(target.name, "part-", ""), *folder.names(target.name, "_run", ".json")]:
            folder.remove(name)
        for name in reversed(folder.names(logs.name, "", ".json")):
            folder.remove(name)
    for name in [*folder.names(target.name, "_", ".json"), *folder.names(f"{target.name}/{REPLACED}", "part-", "")]:
        folder.remove(name)
    for name in (f"{target.name}/{REPLACED}", f"{target.name}/_log", target.name):
        with suppress(OSError):  # what is not empty stays, and a bucket has no empty folders
            folder.fs.rmdir(folder.path(name))
