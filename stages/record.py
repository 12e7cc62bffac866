"""The record: one Parquet row per image with all its masks, as an Arrow schema, and the way from arrays to columns."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

EXTRA = pa.map_(pa.string(), pa.string())
# On disk it is what a map is made of, as `datasets` reads no maps.
STORED_EXTRA = pa.list_(pa.struct([("key", pa.string()), ("value", pa.string())]))

TAGS = pa.list_(pa.struct([("name", pa.string()), ("score", pa.float32())]))

MASK = pa.struct(
    [
        ("mask_id", pa.string()),
        ("bbox", pa.list_(pa.int32())),  # x, y, w, h
        ("area", pa.int64()),
        ("predicted_iou", pa.float32()),
        ("stability_score", pa.float32()),
        ("agreement", pa.int32()),  # candidates of its crop that say the same, itself included
        ("point", pa.list_(pa.float32())),  # x, y
        ("crop_box", pa.list_(pa.int32())),  # x, y, w, h
        ("crop_layer", pa.int8()),
        ("mask_index", pa.int8()),
        ("parent_id", pa.string()),
        ("source", pa.string()),
        ("stage", pa.string()),
        ("keep", pa.bool_()),
        ("drop_reason", pa.string()),
        ("iscrowd", pa.bool_()),
        ("tags", TAGS),
        ("caption", pa.string()),
        ("caption_score", pa.float32()),
        ("text_score", pa.float32()),  # CLIP's cosine with the recipe's `generate.text`
        # matched one to one by a refresh: the mask of the round before, and the row's mask that a person made
        ("previous_id", pa.string()),
        ("previous_iou", pa.float32()),
        ("human_id", pa.string()),
        ("human_iou", pa.float32()),
    ]
)

# Masks of these sources were brought along, not made by the round's model: no filter and no refresh touches them.
BROUGHT_SOURCES = ("human", "imported")

# Columns with an entry a mask. A row's lists are equally long; those of embeddings may be null as a whole.
MASK_COLUMNS = ("masks", "rles", "raw_rles")
EMBEDDING_COLUMNS = ("mask_embeddings", "embedding_hashes")

# Links of the fingerprint, in the order of the stages; those of labels follow the masks that the filters keep.
LABEL_LINKS = ("embed", "tag", "caption", "text")
LINKS = ("generate", "filter", *LABEL_LINKS)

SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("uri", pa.string()),
        ("source_etag", pa.string()),
        ("prompts_hash", pa.string()),  # of a manifest's boxes and points; null where the grid was used
        ("content_sha256", pa.string()),
        ("phash", pa.string()),
        ("duplicate_of", pa.string()),  # the image of this round that this one nearly repeats, where that was asked for
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("status", pa.string()),
        ("error", pa.string()),
        ("caption", pa.string()),
        ("caption_score", pa.float32()),
        ("tags", TAGS),
        ("embedding", pa.list_(pa.float32())),
        ("masks", pa.list_(MASK)),
        ("rles", pa.list_(pa.binary())),
        ("raw_rles", pa.list_(pa.binary())),
        ("mask_embeddings", pa.list_(pa.binary())),  # of kept masks, float16, unit length; null where none was kept
        ("embedding_hashes", pa.list_(pa.binary())),  # of each embedding and the run lengths that it was computed from
        ("predicted_iou_floor", pa.float32()),
        ("round", pa.int32()),
        ("run_id", pa.string()),
        ("fingerprints", pa.struct([(link, pa.string()) for link in LINKS])),
        (
            "decode",
            pa.struct(
                [
                    ("mode", pa.string()),
                    ("bit_depth", pa.int32()),
                    ("orientation", pa.int32()),
                    ("bands", pa.list_(pa.int32())),
                    ("sample_range", pa.list_(pa.float64())),  # that became 0…255; null where none was asked for
                ]
            ),
        ),
        ("extra", EXTRA),
    ]
)


def set_columns(table: pa.Table, columns: dict[str, pa.Array]) -> pa.Table:
    """`table` with each of `columns` replaced, or appended where it is new."""
    for name, values in columns.items():
        if name in table.column_names:
            table = table.set_column(table.column_names.index(name), name, values)
        else:
            table = table.append_column(name, values)
    return table


def fixed_rows(values: np.ndarray, kind: pa.DataType) -> pa.Array:
    """An (N, K) array as N lists of K values."""
    num_rows, width = values.shape
    offsets = np.arange(num_rows + 1, dtype=np.int32) * width
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.reshape(-1), kind))


def mask_structs(columns: dict[str, pa.Array | np.ndarray | Sequence[Any]], num_masks: int) -> pa.StructArray:
    """`num_masks` mask structs from columns; a field that is not given is null (`iscrowd` false, `tags` empty)."""
    unknown = set(columns) - {field.name for field in MASK}
    assert not unknown, f"not fields of a mask: {sorted(unknown)}"
    arrays = []
    for field in MASK:
        values = columns.get(field.name)
        if values is None:
            if field.name == "iscrowd":
                values = np.zeros(num_masks, bool)
            elif field.name == "tags":
                values = [[]] * num_masks
            else:
                values = pa.nulls(num_masks, field.type)
        arrays.append(values if isinstance(values, pa.Array) else pa.array(values, field.type))
    return pa.StructArray.from_arrays(arrays, fields=list(MASK))


def as_lists(values: pa.Array, lengths: Sequence[int]) -> pa.ListArray:
    """Flat `values` cut into one list an image."""
    assert len(values) == sum(lengths)
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), values)


def stored_schema(schema: pa.Schema) -> pa.Schema:
    """A record's schema as its parts have it."""
    return pa.schema([field.with_type(STORED_EXTRA) if field.type == EXTRA else field for field in schema])


def cast_column(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """A column of a part as the record has it, whichever way its maps are stored."""
    if kind != EXTRA or pa.types.is_map(column.type):
        return column.cast(kind)
    return pa.chunked_array([_as_map(chunk.cast(STORED_EXTRA)) for chunk in column.chunks], kind)


def _as_map(lists: pa.ListArray) -> pa.MapArray:
    """The same memory under another type."""
    validity, offsets = lists.buffers()[:2]
    fields = [EXTRA.key_field, EXTRA.item_field]
    values = pa.StructArray.from_arrays([lists.values.field(field.name) for field in fields], fields=fields)
    return pa.Array.from_buffers(EXTRA, len(lists), [validity, offsets], lists.null_count, lists.offset, [values])


def conform(table: pa.Table, schema: pa.Schema = SCHEMA) -> pa.Table:
    """`table` with exactly a record's columns in their order: working columns fall away, absent ones are null."""
    columns = []
    for field in schema:
        if field.name in table.column_names:
            columns.append(cast_column(table[field.name], field.type))
        elif field.name == "tags":
            columns.append(pa.array([[]] * table.num_rows, field.type))
        else:
            columns.append(pa.nulls(table.num_rows, field.type))
    return pa.table(columns, schema=schema)
