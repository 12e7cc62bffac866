"""Masklets of a video: objects found on key frames, followed through the clip, one row an object."""

import time
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from models.generator.generate import MaskGenerator
from models.generator.settings import GenerateSettings
from models.pinned_weights import PinnedWeights
from models.sam.model import Sam
from models.sam2.frames import SqueezedFrames
from models.sam2.model import Sam2
from models.sam2.tracker import VideoTracker
from models.sam2.weights import load_sam2, load_segmenter
from models.tracking.follower import Follower
from models.tracking.tracks import FoundMask, Rules, Track, Tracker, find_tracks
from stages.attempts import Attempts, time_limit
from stages.decode_image import describe
from stages.filter_rules import filter_found
from stages.filter_settings import FilterSettings
from stages.generate_masks import generate_within_memory
from stages.lost_gpu import leave_if_gpu_is_lost
from stages.masklets import masklet_table
from stages.read_video import VideoFrames
from stages.video_settings import TrackSettings, VideoSettings

MAX_ATTEMPTS = 2  # of a video at which a worker died or hung


class TrackVideos:
    """Stage, one instance an actor: rows of a listing become masklet rows, each video's together.

    A video that cannot be read, or that killed MAX_ATTEMPTS workers, is one row with `status` failed; one without any
    object is one row with no `masklet_id`. `video_timeout` (seconds) ends an actor that hangs.
    """

    def __init__(
        self,
        weights: PinnedWeights,
        tracker_weights: PinnedWeights | None,
        image_size: int | None,
        video: VideoSettings,
        generate: GenerateSettings,
        filter_settings: FilterSettings,
        track: TrackSettings,
        points_per_batch: int,
        device: str,
        num_threads: int,
        round_number: int,
        attempts: Attempts,
        video_timeout: float | None,
    ) -> None:
        torch.set_num_threads(num_threads)
        sam = weights.checked(*load_segmenter(weights.checkpoint, image_size))
        self.sam = sam.to(device)
        memory = sam if isinstance(sam, Sam2) else None
        if tracker_weights is not None:
            memory = tracker_weights.checked(*load_sam2(tracker_weights.checkpoint))
        self.memory = None if memory is None else memory.to(device)
        thresholds = filter_settings.pred_iou_thresh, filter_settings.stability_score_thresh
        self.generator = MaskGenerator(self.sam, generate, *thresholds, points_per_batch)
        self.video, self.filter, self.track = video, filter_settings, track
        self.round_number = round_number
        self.attempts = attempts
        self.video_timeout = video_timeout

    def __call__(self, batch: pa.Table) -> pa.Table:
        tables = []
        for source in batch.select(["image_id", "uri", "source_etag", "part"]).to_pylist():
            started = time.perf_counter()
            video_id = source["image_id"]
            common = {"video_id": video_id, "uri": source["uri"], "source_etag": source["source_etag"]}
            attempt = self.attempts.begin([video_id])[0]
            try:
                if attempt > MAX_ATTEMPTS:
                    raise RuntimeError(f"the worker died or hung at each of {attempt - 1} attempts")
                with time_limit(self.video_timeout):
                    rows = self._rows(video_id, source["uri"])
            except Exception as error:  # any failure of one video is its row's: the reason is kept there
                leave_if_gpu_is_lost(self.sam.device)
                stage = "decode" if isinstance(error, _DecodeError) else "track"
                cause = error.__cause__ if isinstance(error, _DecodeError) else error
                assert isinstance(cause, Exception)
                rows = [{"status": "failed", "error": f"{stage}: {describe(cause)}"}]
            self.attempts.done([video_id])
            table = masklet_table([common | row for row in rows])
            seconds = (time.perf_counter() - started) / table.num_rows
            table = table.append_column("part", pa.array([source["part"]] * table.num_rows, pa.int32()))
            tables.append(table.append_column("track_seconds", pa.array([seconds] * table.num_rows, pa.float64())))
        return pa.concat_tables(tables)

    def _rows(self, video_id: str, uri: str) -> list[dict[str, Any]]:
        try:
            frames = _Readable(VideoFrames(uri, self.video))
        except Exception as error:
            raise _DecodeError from error
        with frames.video as video:
            rules = Rules(**self.track.model_dump(exclude={"checkpoint"}))
            size = video.height, video.width
            tracks = find_tracks(frames, *size, self._find, lambda: self._tracker(frames, *size), rules)
            about = {
                "status": "ok",
                "width": video.width,
                "height": video.height,
                "num_frames": len(video),
                "frame_times": video.times,
            }
        rows = [self._row(video_id, number, track) for number, track in enumerate(tracks)]
        return [about | row for row in rows or [{}]]

    def _tracker(self, frames: "_Readable", height: int, width: int) -> Tracker:
        precision = self.generator.settings.precision
        if self.memory is None:
            assert isinstance(self.sam, Sam), "a SAM 2 has a memory"
            return Follower(self.sam, frames, height, width, precision)
        return VideoTracker(self.memory, SqueezedFrames(frames, self.memory), height, width, precision)

    def _find(self, image: np.ndarray) -> list[FoundMask]:
        """The masks of a key frame that the filters keep."""
        found = generate_within_memory(self.generator, image)
        masks = filter_found(found, self.filter)
        points = found.point.tolist()
        return [
            FoundMask(
                masks.rles[index],
                float(masks.predicted_iou[index]),
                float(masks.stability_score[index]),
                (points[index][0], points[index][1]),
            )
            for index in np.flatnonzero(masks.keep).tolist()
        ]

    def _row(self, video_id: str, number: int, track: Track) -> dict[str, Any]:
        visible = track.visible
        seen = np.flatnonzero(visible) + track.key_frame
        return {
            "masklet_id": f"{video_id}/{self.round_number}/{number}",
            "object_id": number,
            "key_frame": track.key_frame,
            "point": track.found.point,
            "predicted_iou": track.found.predicted_iou,
            "stability_score": track.stability,
            "keep": track.drop_reason is None,
            "drop_reason": track.drop_reason,
            "first_frame": int(seen[0]) if len(seen) else None,
            "last_frame": int(seen[-1]) if len(seen) else None,
            "num_visible": len(seen),
            "frame_indexes": list(range(track.key_frame, track.key_frame + len(track.rles))),
            "visible": visible.tolist(),
            "areas": track.areas,
            "object_scores": track.object_scores,
            "stability_scores": track.stability_scores,
            "rles": track.rles,
            "source": "auto",
            "stage": "automatic",
            "tags": [],
        }


class _DecodeError(Exception):
    """Its cause says what is wrong with the video."""


class _Readable:
    """The frames of a video, any of whose failures is the video's and not the model's."""

    def __init__(self, video: VideoFrames) -> None:
        self.video = video

    def __len__(self) -> int:
        return len(self.video)

    def __getitem__(self, index: int) -> np.ndarray:
        try:
            frame = self.video[index]
        except Exception as error:
            raise _DecodeError from error
        if frame.shape[:2] != (self.video.height, self.video.width):
            raise _DecodeError from ValueError(f"frame {index} is {frame.shape[1]}×{frame.shape[0]}, not as the first")
        return frame
