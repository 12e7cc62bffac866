"""Pictures that a dataset keeps itself, as the labels that it was imported from held them."""

from pipeline.store.storage import Folder

PICTURES = "pictures"


def own_picture(folder: Folder, uri: str | None) -> str | None:
    """The name of the picture at `uri` if it lies in the dataset's own folder for them; rows come from strangers, and
    may name any address."""
    if not uri:
        return None
    name = uri.rpartition(f"/{PICTURES}/")[2]
    if "/" in name or name in ("", ".", ".."):
        return None
    own = f"{PICTURES}/{name}"
    return own if folder.path(own) == folder.fs._strip_protocol(uri) else None
