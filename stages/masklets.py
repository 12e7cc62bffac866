"""The record of a video dataset: one Parquet row per video and object, as an Arrow schema."""

from typing import Any

import pyarrow as pa

from stages.record import SCHEMA, TAGS

# Columns with an entry a frame, from a masklet's key frame on; a row's lists are equally long.
FRAME_COLUMNS = ("frame_indexes", "visible", "areas", "object_scores", "stability_scores", "rles")

MASKLETS = pa.schema(
    [
        ("masklet_id", pa.string()),  # null in the one row of a video that failed or in which nothing was found
        ("video_id", pa.string()),
        ("uri", pa.string()),
        ("source_etag", pa.string()),
        ("status", pa.string()),
        ("error", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("num_frames", pa.int32()),  # that were looked at
        ("frame_times", pa.list_(pa.float32())),  # of these, in seconds
        ("object_id", pa.int32()),
        ("key_frame", pa.int32()),  # on which it was found
        ("point", pa.list_(pa.float32())),
        ("predicted_iou", pa.float32()),  # of the mask on the key frame
        ("stability_score", pa.float32()),  # the mean over the frames on which it is in sight
        ("keep", pa.bool_()),
        ("drop_reason", pa.string()),
        ("first_frame", pa.int32()),  # in sight
        ("last_frame", pa.int32()),
        ("num_visible", pa.int32()),
        ("frame_indexes", pa.list_(pa.int32())),
        ("visible", pa.list_(pa.bool_())),
        ("areas", pa.list_(pa.int32())),
        ("object_scores", pa.list_(pa.float32())),
        ("stability_scores", pa.list_(pa.float32())),
        ("rles", pa.list_(pa.binary())),  # COCO compressed counts; of an empty mask where it is out of sight
        ("source", pa.string()),
        ("stage", pa.string()),
        ("tags", TAGS),
        ("caption", pa.string()),
        ("round", pa.int32()),
        ("run_id", pa.string()),
        SCHEMA.field("fingerprints"),
        SCHEMA.field("extra"),
    ]
)


def masklet_table(rows: list[dict[str, Any]]) -> pa.Table:
    """Rows of plain values; a field that a row does not have is null."""
    return pa.Table.from_pylist(rows, schema=MASKLETS)
