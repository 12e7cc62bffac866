"""Tags and captions of masklets, each by its picture on the frame where it is largest."""

from collections import defaultdict
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import torch

from models.masks.rle import bounding_boxes
from stages.caption_masks import CaptionMasks, Subject
from stages.caption_rules import tags_by_group
from stages.captioning import Captioning
from stages.decode_image import describe
from stages.embed_masks import Features, Regions
from stages.masklets import MASKLETS
from stages.read_video import VideoFrames
from stages.record import set_columns
from stages.tag_rules import Tag
from stages.tagger import Tagger
from stages.tagging import Tagging
from stages.video_settings import VideoSettings


class NameMasklets:
    """Stage, one instance an actor: masklet rows, each video's together, gain `tags` and, with `caption`, a sentence
    for the `max_masks` largest or best of a video.

    The video is opened again for the frames that are looked at. Masklets that cannot be named stay; `error` of their
    rows says why. Raises ValueError (CheckpointError among them) for checkpoints, words and templates that cannot be
    used.
    """

    def __init__(
        self,
        video: VideoSettings,
        tagging: Tagging,
        captioning: Captioning | None,
        views_per_batch: int,
        device: str,
        num_threads: int,
    ) -> None:
        torch.set_num_threads(num_threads)
        cv2.setNumThreads(num_threads)
        self.video = video
        self.tagger = Tagger(tagging, device, views_per_batch)
        self.caption = None if captioning is None else captioning.settings
        self.writer = None
        if captioning is not None:
            self.writer = CaptionMasks(captioning, tagging, device, num_threads, keep_features=False)

    def __call__(self, batch: pa.Table) -> pa.Table:
        names = ["video_id", "uri", "masklet_id", "keep", "height", "key_frame", "predicted_iou", "areas", "rles"]
        rows = batch.select(names).to_pylist()
        errors = batch["error"].to_pylist()
        tags: list[list[Tag]] = [[] for _ in rows]
        captions: list[str | None] = [None] * len(rows)
        videos: dict[str, list[int]] = defaultdict(list)
        for index, row in enumerate(rows):
            if row["keep"] and max(row["areas"], default=0):
                videos[row["video_id"]].append(index)
        for own in videos.values():
            try:
                named = self._name([rows[index] for index in own])
            except Exception as error:  # the masklets are good all the same: the reason is kept in their rows
                for index in own:
                    errors[index] = f"tag: {describe(error)}"
                continue
            for index, (found, text) in zip(own, named, strict=True):
                tags[index], captions[index] = found, text
        plain = [[{"name": name, "score": score} for name, score in one] for one in tags]
        columns = {
            "error": pa.array(errors, pa.string()),
            "tags": pa.array(plain, MASKLETS.field("tags").type),
            "caption": pa.array(captions, pa.string()),
        }
        return set_columns(batch, columns)

    def _name(self, rows: list[dict[str, Any]]) -> list[tuple[list[Tag], str | None]]:
        """Tags and caption of each masklet of one video."""
        by_frame: dict[int, list[int]] = defaultdict(list)
        for index, row in enumerate(rows):
            by_frame[shown_on(row)].append(index)
        tags: list[list[Tag]] = [[] for _ in rows]
        features: list[Features | None] = [None] * len(rows)
        with VideoFrames(rows[0]["uri"], self.video) as frames:
            for frame, indexes in sorted(by_frame.items()):
                rles = [rows[index]["rles"][frame - rows[index]["key_frame"]] for index in indexes]
                regions = Regions(frames[frame], rles, bounding_boxes(rles, rows[0]["height"]))
                whole, parts = self.tagger.encoder.encode([regions])[0]
                for index, feature, found in zip(indexes, parts, self.tagger.tags(whole, parts)[1], strict=True):
                    tags[index], features[index] = found, feature
        return list(zip(tags, self._describe(rows, tags, features), strict=True))

    def _describe(
        self, rows: list[dict[str, Any]], tags: list[list[Tag]], features: list[Features | None]
    ) -> list[str | None]:
        texts: list[str | None] = [None] * len(rows)
        if self.caption is None or self.writer is None:
            return texts
        by_area = self.caption.by == "area"
        worth = [max(row["areas"]) if by_area else row["predicted_iou"] for row in rows]
        chosen = np.argsort(-np.array(worth, float), kind="stable")[: self.caption.max_masks].tolist()
        subjects = []
        for index in chosen:
            feature = features[index]
            assert feature is not None
            named = tags_by_group([name for name, _ in tags[index]], self.tagger.vocabulary)
            subjects.append(Subject(feature, named, rows[index]["masklet_id"]))
        for index, (text, _) in zip(chosen, self.writer.caption(subjects), strict=True):
            texts[index] = text
        return texts


def shown_on(row: dict[str, Any]) -> int:
    """The frame on which a masklet is largest, the first of several."""
    return int(row["key_frame"] + np.argmax(row["areas"]))
