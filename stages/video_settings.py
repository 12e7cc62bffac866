"""What of a video is looked at, and how its objects are tracked."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from models.generator.settings import Unit


class VideoSettings(BaseModel):
    """`fps`: frames a second to look at, by their time stamps (a clip of fewer keeps its own); `max_frames`: only the
    first so many of those; `max_pixels`: of a frame, above which the video fails."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    fps: Annotated[float, Field(gt=0)] | None = None
    max_frames: Annotated[int, Field(ge=1)] | None = None
    max_pixels: Annotated[int, Field(ge=1)] = 40_000_000


class TrackSettings(BaseModel):
    """`checkpoint`: a SAM 2, whose memory follows the objects; without one the recipe's own SAM 2 does, or its SAM
    looks on each frame for what stood where it last stood. `key_frame_every`: frames between those on which objects are
    looked for, None for the first only; `merge_iou`: a mask found there that overlaps a track so much is that track;
    `min_component_area` and `max_hole_area` (pixels) clean up every mask («SAM 2», Ravi et al. 2024, appendix on SA-V:
    200 for both). A track is kept if it is in sight on `min_frames`, if its masks' stability, averaged over those,
    reaches `min_stability`, and if no better track overlaps it by `duplicate_iou` over the whole clip.
    `objects_at_once` bounds memory, `max_objects` work."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    checkpoint: str | None = None
    key_frame_every: Annotated[int, Field(ge=1)] | None = 24
    merge_iou: Unit = 0.5
    min_component_area: Annotated[int, Field(ge=0)] = 200
    max_hole_area: Annotated[int, Field(ge=0)] = 200
    min_frames: Annotated[int, Field(ge=1)] = 2
    min_stability: Unit = 0.5
    duplicate_iou: Unit = 0.7
    objects_at_once: Annotated[int, Field(ge=1)] = 16
    max_objects: Annotated[int, Field(ge=1)] = 256
