"""Tag stage: kept masks and their pictures in; names with scores out, for the masks and for the image."""

import time
from collections.abc import Sequence

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from stages.decode_image import describe
from stages.embed_masks import Features, Regions
from stages.mask_columns import MaskColumns, embedding_hash
from stages.record import SCHEMA, TAGS, set_columns
from stages.tag_rules import Tag
from stages.tagger import Tagger
from stages.tagging import Tagging


class TagMasks:
    """Stage, one instance an actor: rows with `pixels` gain `tags`, their kept masks too.

    With `keep_features` the rows also gain `embedding` and `mask_embeddings`; with `keep_pixels` they keep their
    pixels for a later stage. An image that cannot be tagged keeps its masks; `error` says why it has no tags.
    """

    def __init__(
        self,
        tagging: Tagging,
        views_per_batch: int,
        device: str,
        num_threads: int,
        keep_features: bool,
        keep_pixels: bool = False,
    ) -> None:
        torch.set_num_threads(num_threads)
        cv2.setNumThreads(num_threads)  # for the views: by itself it takes every core in each actor
        self.tagger = Tagger(tagging, device, views_per_batch)
        self.keep_features = keep_features
        self.keep_pixels = keep_pixels

    def __call__(self, batch: pa.Table) -> pa.Table:
        started = time.perf_counter()
        batch = batch.combine_chunks()
        images = {
            index: np.frombuffer(batch["pixels"][index].as_buffer(), np.uint8).reshape(height, width, 3)
            for index, (height, width, status) in enumerate(_sizes(batch))
            if status == "ok"
        }
        errors = batch["error"].to_pylist()
        kept = {index: kept_masks(batch, index) for index in images}
        regions = {index: Regions(image, *regions_of(batch, index, kept[index])) for index, image in images.items()}
        features = self._encode(regions, errors)
        tagged = tag_rows(batch, self.tagger, features, kept, self.keep_features)
        seconds = (time.perf_counter() - started) / max(1, len(images))
        columns = {
            "error": pa.array(errors, pa.string()),
            "tag_seconds": pa.array([seconds * (index in images) for index in range(batch.num_rows)], pa.float64()),
        }
        tagged = set_columns(tagged, columns)
        return tagged if self.keep_pixels else tagged.drop_columns(["pixels"])

    def _encode(self, regions: dict[int, Regions], errors: list[str | None]) -> dict[int, tuple[Features, Features]]:
        """Features by row: of all rows at once, and when that fails row by row, so that one does not take the others
        along."""
        try:
            return dict(zip(regions, self.tagger.encoder.encode(list(regions.values())), strict=True))
        except Exception:  # found out below, image by image
            pass
        found = {}
        for index, one in regions.items():
            try:
                found[index] = self.tagger.encoder.encode([one])[0]
            except Exception as error:  # the masks are good all the same: the reason is kept in the row
                errors[index] = f"tag: {describe(error)}"
        return found


def kept_masks(batch: pa.Table, index: int) -> np.ndarray:
    """Places of a row's kept masks among its masks."""
    masks = batch["masks"].chunk(0)[index].values
    return np.flatnonzero(pc.struct_field(masks, "keep").to_numpy(zero_copy_only=False))


def regions_of(batch: pa.Table, index: int, kept: np.ndarray) -> tuple[list[bytes], np.ndarray]:
    """Run lengths and boxes (N, 4) of a row's masks at the places `kept`."""
    masks = batch["masks"].chunk(0)[index].values
    boxes = pc.struct_field(masks, "bbox").flatten().to_numpy(zero_copy_only=False).reshape(-1, 4)[kept]
    rles = batch["rles"].chunk(0)[index].values
    return [rles[int(place)].as_py() for place in kept], boxes


def tag_rows(
    batch: pa.Table,
    tagger: Tagger,
    features: dict[int, tuple[Features, Features]],
    kept: dict[int, np.ndarray],
    keep_features: bool,
) -> pa.Table:
    """The rows with the tags that follow from `features`, which row → (the image's, those of its kept masks); rows
    without features lose their tags."""
    masks = MaskColumns.of(batch)
    of_images: list[list[Tag]] = [[] for _ in range(batch.num_rows)]
    of_masks: list[list[Tag]] = [[] for _ in range(len(masks))]
    vectors: list[bytes | None] = [None] * len(masks)
    starts = np.cumsum(masks.lengths) - masks.lengths
    for index, (whole, own) in features.items():
        of_images[index], found = tagger.tags(whole, own)
        for place, tags, feature in zip(starts[index] + kept[index], found, own, strict=True):
            of_masks[place], vectors[place] = tags, feature.astype(np.float16).tobytes()
    masks = masks.with_fields({"tags": _tag_lists(of_masks)})
    columns = {"tags": _tag_lists(of_images)}
    if keep_features:
        masks = masks.with_embeddings(vectors, np.array([index in features for index in range(batch.num_rows)], bool))
        wholes = [features[index][0] if index in features else None for index in range(batch.num_rows)]
        columns["embedding"] = pa.array(wholes, SCHEMA.field("embedding").type)
    return set_columns(batch, columns | masks.columns())


def stored_features(batch: pa.Table, index: int) -> tuple[Features, Features] | None:
    """The features that a row holds, of the image and of its kept masks; None if any is missing or of another mask."""
    whole, vectors = batch["embedding"][index].as_py(), batch["mask_embeddings"][index].as_py()
    if whole is None or vectors is None:
        return None
    kept = kept_masks(batch, index)
    rles, hashes = (batch[name][index].as_py() for name in ("rles", "embedding_hashes"))
    own = [vectors[place] for place in kept]
    if any(vector is None for vector in own):
        return None
    if any(hashes[place] not in (None, embedding_hash(rles[place], vectors[place])) for place in kept if hashes):
        return None
    image = np.array(whole, np.float32)
    stacked = [np.frombuffer(one, np.float16).astype(np.float32) for one in own]
    return image, np.stack(stacked) if stacked else np.zeros((0, len(image)), np.float32)


def _tag_lists(tags: Sequence[Sequence[Tag]]) -> pa.Array:
    return pa.array([[{"name": name, "score": score} for name, score in one] for one in tags], TAGS)


def _sizes(batch: pa.Table) -> list[tuple[int, int, str]]:
    return list(zip(*(batch[name].to_pylist() for name in ("height", "width", "status")), strict=True))
