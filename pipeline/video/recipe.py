"""The recipe of a run over videos."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.generator.settings import GenerateSettings
from pipeline.recipes.recipe import (
    ModelSettings,
    RaySettings,
    ResourceSettings,
    check_captions_have_tags,
    check_consensus_has_agreement,
)
from stages.caption_settings import CaptionSettings
from stages.filter_settings import FilterSettings
from stages.tag_settings import TagSettings
from stages.video_settings import TrackSettings, VideoSettings

# Ravi et al., «SAM 2» (2024), appendix on SA-V's automatic masklets: what the first frame is asked, and its clean-up
SAV: dict[str, dict[str, Any]] = {
    "generate": {"layers": [0, 1, 2], "points_per_layer": [32, 16, 4], "store_rejected": False},
    "filter": {"min_component_area": 200, "max_hole_area": 200},
}


class VideoRunSettings(BaseModel):
    """`commit_every`: videos a part file; a kill loses at most the parts in flight. `video_timeout`: seconds after
    which a video that hangs is given up."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    commit_every: Annotated[int, Field(ge=1)] = 8
    video_timeout: Annotated[float, Field(gt=0)] | None = 7200.0


class VideoRecipe(BaseModel):
    """A whole run: `input` (a folder, glob or file, or a list of them; a folder of pictures is a video), `output` (the
    dataset), `video` which frames are looked at, `generate` and `filter` what is found on key frames, `track` what
    becomes of it. Without `tag` nothing is named, without `caption` nothing described."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["video"]
    input: Annotated[str, Field(min_length=1)] | Annotated[tuple[str, ...], Field(min_length=1)]
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    output: str
    model: ModelSettings = ModelSettings()
    video: VideoSettings = VideoSettings()
    generate: GenerateSettings
    filter: FilterSettings
    track: TrackSettings = TrackSettings()
    tag: TagSettings | None = None
    caption: CaptionSettings | None = None
    run: VideoRunSettings = VideoRunSettings()
    resources: ResourceSettings = ResourceSettings()
    ray: RaySettings = RaySettings()

    @model_validator(mode="after")
    def _captions_need_tags(self) -> "VideoRecipe":
        check_captions_have_tags(self.tag, self.caption)
        return self

    @model_validator(mode="after")
    def _consensus_needs_agreement(self) -> "VideoRecipe":
        check_consensus_has_agreement(self.filter, self.generate)
        return self

    @model_validator(mode="after")
    def _no_texts(self) -> "VideoRecipe":
        if self.generate.text is not None or self.model.clip_prompt is not None:
            raise ValueError("generate.text and model.clip_prompt are for images; leave them out for videos")
        return self
