from pathlib import Path

import pyarrow as pa
import torch

from models.generator.settings import GenerateSettings
from models.sam2.build import build_sam2
from models.sam2.config import SAM2_SIZES
from models.sam2.weights import save_sam2
from pipeline.scenes.write_clips import write_clips
from stages.attempts import AttemptCounts
from stages.filter_settings import FilterSettings
from stages.track_video import TrackVideos
from stages.video_settings import TrackSettings, VideoSettings
from tests.pinned import pinned


def test_a_sam_2_finds_the_objects_and_follows_them_by_its_own_memory(tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_sam2(tmp_path / "sam2.safetensors", build_sam2(SAM2_SIZES["debug"]), torch.float32)
    clip = Path(write_clips(str(tmp_path / "clips"), 1, num_frames=4, seed=3, width=96, height=64)) / "clip_00000003"
    source = {"image_id": ["clip"], "uri": [str(clip)], "source_etag": ["e"], "part": pa.array([0], pa.int32())}

    def rows(checkpoint: str, follower: str | None) -> list[dict]:
        stage = TrackVideos(
            pinned(checkpoint),
            follower and pinned(follower),
            None,
            VideoSettings(),
            GenerateSettings(points_per_side=2),
            FilterSettings(pred_iou_thresh=0.0, stability_score_thresh=0.0),
            TrackSettings(checkpoint=follower, key_frame_every=3, min_component_area=8, max_objects=6),
            64,
            "cpu",
            1,
            0,
            AttemptCounts(),
            None,
        )
        return stage(pa.table(source)).drop_columns(["track_seconds"]).to_pylist()

    sam2 = str(tmp_path / "sam2.safetensors")
    alone = rows(sam2, None)
    assert len(alone) > 1 and {row["status"] for row in alone} == {"ok"}
    assert all(row["frame_indexes"][-1] == 3 for row in alone)
    assert alone == rows(sam2, sam2), "as if it was named once more"
    assert [row["point"] for row in rows("sam_tiny", sam2)] != [row["point"] for row in alone]
