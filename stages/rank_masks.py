"""Rank stage: rows with CLIP's features in; their masks by how near they are to a text, the nearest first, out."""

import numpy as np
import pyarrow as pa

from stages.mask_columns import MaskColumns, without_embeddings
from stages.record import set_columns

BEHIND = np.iinfo(np.int64).max // 2  # where masks that no generator numbered begin


class RankMasks:
    """Stage: `text_score` is the cosine of a mask's stored feature with `direction`, the text's (D,) of unit length.

    Masks without a feature, which are those that the filters refused, have no score and come last. Without a
    `direction` scores go and masks return to the order in which they were generated. With `keep_features` False the
    features, which were here for this stage, are left out.
    """

    def __init__(self, direction: np.ndarray | None, keep_features: bool = True) -> None:
        self.direction = direction
        self.keep_features = keep_features

    def __call__(self, batch: pa.Table) -> pa.Table:
        masks = MaskColumns.of(batch)
        scores = self._scores(masks)
        order = np.lexsort((_numbers(masks), -np.nan_to_num(scores, nan=-np.inf), masks.owner))
        fields = {"text_score": pa.array(scores[order], pa.float32(), from_pandas=True)}
        ranked = set_columns(batch, masks.take(order).with_fields(fields).columns())
        return ranked if self.keep_features else without_embeddings(ranked)

    def _scores(self, masks: MaskColumns) -> np.ndarray:
        """(N,) of all rows' masks; NaN for those without a feature."""
        scores = np.full(len(masks), np.nan, np.float32)
        stored = masks.flat["mask_embeddings"]
        if self.direction is not None and stored.null_count < len(stored):
            vectors = np.frombuffer(b"".join(stored.drop_null().to_pylist()), np.float16).astype(np.float32)
            scores[np.asarray(stored.is_valid())] = vectors.reshape(-1, len(self.direction)) @ self.direction
        return scores


def _numbers(masks: MaskColumns) -> np.ndarray:
    """The generator's numbers, by which its masks stood first; masks of people and imports came behind, as they are."""
    sources, ids = (masks.field(name).to_pylist() for name in ("source", "mask_id"))
    return np.array(
        [
            int(mask_id.rpartition("/")[2]) if source == "auto" else BEHIND + place
            for place, (source, mask_id) in enumerate(zip(sources, ids, strict=True))
        ],
        np.int64,
    )
