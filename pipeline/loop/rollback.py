"""`maskfoundry rollback`: take a published round back."""

from pipeline.store.index import publish, read_index, withhold
from pipeline.store.lease import live_leases
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder


def rollback(dataset: str) -> tuple[int, int]:
    """Withholds the newest published round; readers see the one before it again, and its files stay. The numbers of
    both. Raises ValueError if there are not two published rounds, or if a run is writing the newest."""
    folder = Folder(dataset)
    published = read_index(folder).published
    if len(published) < 2:
        held = f"only round {published[0]}" if published else "no round"
        raise ValueError(f"dataset: {dataset!r} has {held} published, so there is none to go back to")
    newest = Round(folder, published[-1])
    if live := live_leases(newest):
        raise ValueError(
            f"dataset: {folder.uri}/{newest.name} is being written by run {live[0]['run_id']}; wait for it"
        )
    withhold(folder, newest.number, taken_back=True)
    return published[-1], published[-2]


def restore(dataset: str, number: int) -> None:
    """Publishes a round that was taken back. Raises ValueError for one that is not withheld, or was never ready."""
    folder = Folder(dataset)
    withheld = read_index(folder).withheld
    if number not in withheld:
        listed = ", ".join(map(str, withheld)) or "none"
        raise ValueError(f"round: {number} of {dataset!r} is not withheld ({listed}); choose one that is")
    record = Round(folder, number).read_record() or {}
    if "refresh" in record and "churn" not in record["refresh"]:
        raise ValueError(f"round: {number} of {dataset!r} was never finished; run its refresh again")
    publish(folder, number)
