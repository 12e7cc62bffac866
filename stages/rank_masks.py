"""Rank stage: rows with CLIP's features in; their masks by how near they are to a text, the nearest first, out."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages.record import SCHEMA, as_lists, set_columns
from stages.tag_masks import set_mask_fields

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
        lengths = pc.fill_null(pc.list_value_length(batch["masks"].combine_chunks()), 0).to_numpy()
        scores = self._scores(batch, lengths)
        owner = np.repeat(np.arange(len(lengths)), lengths)
        masks = batch["masks"].combine_chunks().flatten()
        order = np.lexsort((_numbers(masks), -np.nan_to_num(scores, nan=-np.inf), owner))
        columns = {
            name: as_lists(batch[name].combine_chunks().flatten().take(pa.array(order)), lengths.tolist())
            for name in ("masks", "rles", "raw_rles")
        }
        fields = {"text_score": pa.array(scores[order], pa.float32(), from_pandas=True)}
        columns["masks"] = set_mask_fields(pa.chunked_array([columns["masks"]]), fields)
        starts = np.cumsum(lengths) - lengths
        columns["mask_embeddings"] = pa.array(
            [
                None if own is None else [own[place] for place in order[start : start + length] - start]
                for own, start, length in zip(batch["mask_embeddings"].to_pylist(), starts, lengths, strict=True)
            ],
            SCHEMA.field("mask_embeddings").type,
        )
        if not self.keep_features:
            columns |= {
                name: pa.nulls(batch.num_rows, SCHEMA.field(name).type) for name in ("embedding", "mask_embeddings")
            }
        return set_columns(batch, columns)

    def _scores(self, batch: pa.Table, lengths: np.ndarray) -> np.ndarray:
        """(N,) of all rows' masks; NaN for those without."""
        scores = np.full(lengths.sum(), np.nan, np.float32)
        if self.direction is None:
            return scores
        starts = np.cumsum(lengths) - lengths
        for start, own in zip(starts, batch["mask_embeddings"].to_pylist(), strict=True):
            places = [place for place, one in enumerate(own or []) if one is not None]
            if places:
                stored = np.frombuffer(b"".join(own[place] for place in places), np.float16).astype(np.float32)
                scores[start + np.array(places)] = stored.reshape(len(places), -1) @ self.direction
        return scores


def _numbers(masks: pa.StructArray) -> np.ndarray:
    """The generator's numbers, by which its masks stood first; masks of people and imports came behind, as they are."""
    sources, ids = (pc.struct_field(masks, name).to_pylist() for name in ("source", "mask_id"))
    return np.array(
        [
            int(mask_id.rpartition("/")[2]) if source == "auto" else BEHIND + place
            for place, (source, mask_id) in enumerate(zip(sources, ids, strict=True))
        ],
        np.int64,
    )
