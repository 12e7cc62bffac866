"""Labels of images that a dataset holds already, as rows of its next round."""

import json
from dataclasses import replace
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from models.masks.overlap import parents
from pipeline.dataset import Dataset, Part, open_dataset
from pipeline.export.label_studio import region_id
from pipeline.imports.labels import ImportedImage, LabelledMask
from pipeline.imports.masks import usable_masks
from pipeline.imports.rows import Source, shapes, tags_of
from pipeline.labels.notes import Notes
from pipeline.store.find_rounds import round_numbers
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder
from stages.filter_settings import FilterSettings
from stages.row_masks import RowMask, is_embedded, mask_lists, masks_of

# In `extra`: for each mask the id of the one it was made from, or null; and the round that held those.
CORRECTS = "corrects"
CORRECTED_ROUND = "corrected_round"


class Held:
    """The rows of a dataset, by image, as readers see them or as one round has them."""

    def __init__(self, uri: str) -> None:
        self.folder = Folder(uri)
        self.newest = open_dataset(uri)
        self.present = round_numbers(self.folder)
        self._places: dict[int | None, dict[str, Part]] = {}

    def row(self, image_id: str, number: int | None) -> dict[str, Any] | None:
        """None for an image that is not there, or has failed."""
        number = number if number in self.present else None
        if number not in self._places:
            self._places[number] = self._find(number)
        part = self._places[number].get(image_id)
        if part is None:
            return None
        rows = _read(self._dataset(number), part)
        found: list[dict[str, Any]] = rows.filter(pc.equal(rows["image_id"], image_id)).to_pylist()
        return found[0] if found and found[0]["status"] == "ok" else None

    def _dataset(self, number: int | None) -> Dataset:
        return self.newest if number is None else open_dataset(self.newest.uri, number)

    def _find(self, number: int | None) -> dict[str, Part]:
        places: dict[str, Part] = {}
        for part in self._dataset(number).parts():  # newer rounds come last
            ids = Round(self.folder, part.round).read_file(part.file, ["image_id"])["image_id"]
            places |= dict.fromkeys(ids.to_pylist(), part)
        return places


@lru_cache(maxsize=4)
def _read(dataset: Dataset, part: Part) -> pa.Table:
    return dataset.read(part)


def corrected_row(
    image: ImportedImage, before: dict[str, Any], source: Source, number: int, notes: Notes
) -> dict[str, Any]:
    """`before` with the masks that the labels hold, and nothing else of its own. Raises ValueError, also for a mask
    that cannot be used: what it was to replace stays.

    A mask that nobody changed keeps its scores and its embedding; one that was changed has none, and keeps its tags as
    long as the labels name the same one. `extra` says which mask each was made from.
    """
    if image.problem:
        raise ValueError(image.problem)
    height, width = before["height"], before["width"]
    orientation = (before["decode"] or {}).get("orientation") or 1
    image, rles = usable_masks(image, (height, width), orientation, notes, strict=True)
    known = {mask.fields["mask_id"]: mask for mask in masks_of(before)}
    known |= {region_id(name): mask for name, mask in known.items()}
    origins = [known.get(mask.corrects) if mask.corrects else None for mask in image.masks]
    parent = parents(rles, height, width, FilterSettings().parent_containment).tolist()
    names = [f"{before['image_id']}/{number}/{index}" for index in range(len(rles))]
    masks = []
    for index, (mask, shape) in enumerate(zip(image.masks, shapes(rles, height), strict=True)):
        origin = origins[index]
        fields: dict[str, Any] = {"iscrowd": mask.annotation["iscrowd"], "tags": tags_of(mask)}
        if origin is not None:
            fields |= _inherited(mask, origin.fields, rles[index] == origin.rle)
        fields |= {"mask_id": names[index], "source": source, "stage": "assisted", "keep": True, "drop_reason": None}
        fields |= shape | {"parent_id": names[parent[index]] if parent[index] >= 0 else None}
        masks.append(replace(origin or RowMask({}, rles[index]), fields=fields).redrawn(rles[index]))
    corrects = [None if origin is None else origin.fields["mask_id"] for origin in origins]
    extra = dict(before["extra"] or []) | {"labels": image.origin}
    extra |= {CORRECTS: json.dumps(corrects), CORRECTED_ROUND: str(before["round"])}
    embedded = is_embedded(before)
    links = before["fingerprints"] if embedded else None
    return before | {
        **mask_lists(masks, embedded),
        "predicted_iou_floor": None,
        "round": number,
        "run_id": None,
        "fingerprints": links and {"embed": links["embed"]},  # which CLIP made the embeddings
        "extra": list(extra.items()),
    }


def _inherited(mask: LabelledMask, origin: dict[str, Any], unchanged: bool) -> dict[str, Any]:
    same_tag = {tag["name"] for tag in origin["tags"] or []} >= set(mask.tags)
    fields = dict(origin) if unchanged else {}
    fields["tags"] = origin["tags"] if same_tag else tags_of(mask)
    return fields
