"""`maskfoundry find`: masks by a sentence, from the embeddings that tagging stored."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.weight_files import read_checkpoint
from models.weights import load_clip, load_clip_tokenizer
from pipeline.dataset import Dataset
from pipeline.progress import progress_bar
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder
from stages.record import MASK, SCHEMA
from stages.tag_settings import TagSettings
from stages.text_embeddings import text_direction

SHOWN_OF_MASKS = ("mask_id", "bbox", "area", "predicted_iou", "tags", "caption")
RESULT = pa.schema(
    [
        ("score", pa.float32()),
        *(SCHEMA.field(name) for name in ("image_id", "uri")),
        *(MASK.field(name) for name in SHOWN_OF_MASKS),
    ]
)


@dataclass(frozen=True)
class Found:
    """`masks` are of the schema RESULT, best first; `score` is CLIP's cosine of mask and text. `num_without` masks have
    no embedding and could not be searched."""

    masks: pa.Table
    num_searched: int
    num_without: int


def find(dataset: Dataset, text: str, limit: int, quiet: bool = False) -> Found:
    """The `limit` masks of the dataset that CLIP holds for the closest to the text; memory holds one part.

    Raises ValueError for a text that is empty or too long, and for a dataset without embeddings or with those of
    several CLIPs.
    """
    direction = _text_direction(_tag_settings(dataset), text)
    best, searched, masks = RESULT.empty_table(), 0, 0
    parts = dataset.parts()
    with progress_bar("searching", len(parts), "parts", quiet) as update:
        for done, part in enumerate(parts, start=1):
            rows = dataset.read(part)
            masks += pc.sum(pc.list_value_length(rows["masks"])).as_py() or 0
            scored = _scored(rows, direction)
            searched += scored.num_rows
            best = pa.concat_tables([best, scored]).sort_by([("score", "descending"), ("mask_id", "ascending")])
            best = best.slice(0, limit).combine_chunks()
            update(done, f"{searched:,} masks")
    if masks and not searched:
        raise ValueError(_no_embeddings(dataset))
    return Found(best, searched, masks - searched)


def _scored(rows: pa.Table, direction: np.ndarray) -> pa.Table:
    """RESULT for each mask of the rows that has an embedding."""
    rows = rows.filter(pc.is_valid(rows["mask_embeddings"]))
    masks, embeddings = (rows[name].combine_chunks() for name in ("masks", "mask_embeddings"))
    owner = pc.list_parent_indices(masks)
    flat, stored = masks.flatten(), embeddings.flatten()
    has_one = pc.is_valid(stored)
    owner, flat, stored = owner.filter(has_one), flat.filter(has_one), stored.filter(has_one)
    values = np.frombuffer(b"".join(stored.to_pylist()), np.float16).astype(np.float32)
    columns = {
        "score": pa.array(values.reshape(-1, len(direction)) @ direction, pa.float32()),
        **{name: rows[name].combine_chunks().take(owner) for name in ("image_id", "uri")},
        **{name: pc.struct_field(flat, name) for name in SHOWN_OF_MASKS},
    }
    return pa.table(columns, schema=RESULT)


def _text_direction(settings: TagSettings, text: str) -> np.ndarray:
    """(D,), of unit length."""
    clip, _ = load_clip(settings.checkpoint)
    tokenizer = load_clip_tokenizer(settings.checkpoint, clip.config, settings.tokens)
    return text_direction(clip, tokenizer, text)


def _tag_settings(dataset: Dataset) -> TagSettings:
    """With what CLIP the rounds' embeddings were made."""
    found: dict[str, TagSettings] = {}
    for number in dataset.rounds:
        record = Round(Folder(dataset.uri), number).read_record() or {}
        sources = record["subset_of"]["rounds"].values() if "subset_of" in record else [record]
        for source in sources:
            tag = (source.get("recipe") or {}).get("tag")
            if tag is not None:
                found[source["settings"]["embed"]["embed.weights_sha256"]] = TagSettings.model_validate(tag)
    if not found:
        raise ValueError(_no_embeddings(dataset))
    if len(found) > 1:
        names = ", ".join(sorted(one.checkpoint for one in found.values()))
        raise ValueError(f"dataset: its rounds have embeddings of several CLIPs ({names}); choose one with --round")
    ((sha256, settings),) = found.items()
    if read_checkpoint(settings.checkpoint).sha256 != sha256:
        raise ValueError(
            f"tag.checkpoint: {settings.checkpoint!r} is another file than the one that made the embeddings; put that "
            "one back, or run the recipe again to embed the masks anew"
        )
    return settings


def _no_embeddings(dataset: Dataset) -> str:
    return (
        f"dataset: {dataset.uri!r} holds no embeddings of masks; run its recipe again with -o tag.store_embeddings=true"
    )
