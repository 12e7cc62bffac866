"""Where COCO files and their pictures lie in the folders that tools export."""

from collections.abc import Sequence
from pathlib import Path

ANNOTATIONS = "annotations.json"
COCO_NAMES = (ANNOTATIONS, "_annotations.coco.json", "result.json")  # ours and COCO's, Roboflow's, Label Studio's
COCO_FOLDER = "annotations"  # CVAT's and COCO's own, with instances_SUBSET.json and others
_INSTANCES = "instances_"


def coco_name(names: Sequence[str], below: Sequence[str]) -> str | None:
    """The COCO file of a folder that holds `names`, and in its folder annotations/ `below`; None where there is none
    of a known name, or a choice."""
    for name in COCO_NAMES:
        if name in names:
            return name
    instances = [name for name in below if name.startswith(_INSTANCES) and name.endswith(".json")]
    return f"{COCO_FOLDER}/{instances[0]}" if len(instances) == 1 else None


def picture_places(path: str) -> list[str]:
    """The folders in which a COCO file's pictures are looked for: its own and images/ there; of a file in annotations/
    also those beside it, and in them the one of its subset."""
    parent, _, name = path.rpartition("/")
    parent = parent or ("/" if path.startswith("/") else ".")
    places = [parent, f"{parent}/images"]
    above, _, folder = parent.rpartition("/")
    if folder == COCO_FOLDER or (parent == COCO_FOLDER):
        above = above or "."
        subset = name.removesuffix(".json").removeprefix(_INSTANCES)
        places += [above, f"{above}/images", f"{above}/images/{subset}", f"{above}/{subset}"]
    return places


def coco_path(data: str) -> Path:
    """The COCO file at `data`: the file itself, or that of a folder. Not looked into."""
    source = Path(data).expanduser()
    if not source.is_dir():
        return source
    folders = (source, source / COCO_FOLDER)
    names, below = ([one.name for one in folder.iterdir()] if folder.is_dir() else [] for folder in folders)
    return source / (coco_name(names, below) or ANNOTATIONS)
