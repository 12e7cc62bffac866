"""An image row's masks as values, each with all that belongs to it, so that they are edited as any list is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stages.mask_columns import UnequalListsError, embedding_hash
from stages.record import EMBEDDING_COLUMNS, MASK_COLUMNS


@dataclass(frozen=True)
class Embedding:
    """CLIP's feature of a mask (float16, as bytes), and the hash that binds it to the mask's run lengths, which
    datasets of earlier versions do not hold."""

    vector: bytes
    hash: bytes | None


@dataclass(frozen=True)
class RowMask:
    """One mask: the `fields` of its struct, its run lengths, those before clean-up changed it, and its embedding."""

    fields: dict[str, Any]
    rle: bytes
    raw_rle: bytes | None = None
    embedding: Embedding | None = None

    @property
    def has_own_embedding(self) -> bool:
        """False where its hash says that the embedding was computed from other run lengths."""
        if self.embedding is None or self.embedding.hash is None:
            return True
        return self.embedding.hash == embedding_hash(self.rle, self.embedding.vector)

    def redrawn(self, rle: bytes) -> "RowMask":
        """The mask with the run lengths that somebody gave it; unless they are its own, its embedding goes."""
        return RowMask(self.fields, rle, None, self.embedding if rle == self.rle else None)


def masks_of(row: dict[str, Any]) -> list[RowMask]:
    """The masks of an image row of plain values. Raises UnequalListsError where its lists are none."""
    columns = {name: row[name] for name in MASK_COLUMNS}
    columns |= {name: row.get(name) for name in EMBEDDING_COLUMNS}
    lengths = {name: len(values) for name, values in columns.items() if values is not None}
    count = lengths["masks"]
    if set(lengths.values()) != {count}:
        raise UnequalListsError(f"image {row.get('image_id')!r}: its lists of masks are not equally long ({lengths})")
    vectors, hashes = (columns[name] or [None] * count for name in EMBEDDING_COLUMNS)
    return [
        RowMask(fields, rle, raw_rle, None if vector is None else Embedding(vector, one_hash))
        for fields, rle, raw_rle, vector, one_hash in zip(
            row["masks"], row["rles"], row["raw_rles"], vectors, hashes, strict=True
        )
    ]


def mask_lists(masks: Sequence[RowMask], embedded: bool) -> dict[str, Any]:
    """The record's columns for an image row with these masks; `embedded` says whether it holds embeddings at all."""
    columns: dict[str, Any] = {
        "masks": [mask.fields for mask in masks],
        "rles": [mask.rle for mask in masks],
        "raw_rles": [mask.raw_rle for mask in masks],
        **dict.fromkeys(EMBEDDING_COLUMNS),
    }
    if embedded:
        columns["mask_embeddings"] = [mask.embedding and mask.embedding.vector for mask in masks]
        columns["embedding_hashes"] = [mask.embedding and mask.embedding.hash for mask in masks]
    return columns


def is_embedded(row: dict[str, Any]) -> bool:
    """Whether an image row holds a list of embeddings."""
    return row.get("mask_embeddings") is not None
