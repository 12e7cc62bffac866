"""The recipe: every choice of a run, validated."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from models.generator.settings import GenerateSettings
from pipeline.recipes.presets import PresetName
from stages.caption_settings import CaptionSettings
from stages.decode_pixels import DecodeSettings
from stages.filter_settings import FilterSettings
from stages.tag_settings import TagSettings


class ModelSettings(BaseModel):
    """`checkpoint`: an embedded or published model's name, `hf://owner/repo`, or a path. `image_size` (pixels of the
    model's square input) interpolates positions; the checkpoint's own by default. `clip_prompt`: a projection that
    `train` wrote, through which `generate.text` prompts the SAM too."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    checkpoint: str = "sam_vit_h"
    image_size: Annotated[int, Field(ge=16)] | None = None
    clip_prompt: str | None = None


class RunSettings(BaseModel):
    """`commit_every`: images a part file; a kill loses at most the parts in flight. `image_timeout`: seconds after
    which an image that hangs in the model is given up, `decode_timeout` that of reading and decoding it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    commit_every: Annotated[int, Field(ge=1)] = 64
    image_timeout: Annotated[float, Field(gt=0)] | None = 3600.0
    decode_timeout: Annotated[float, Field(gt=0)] | None = 120.0


class RaySettings(BaseModel):
    """`address`: an existing cluster that this machine is a node of, `auto` or `head:6379`; without it Ray runs on this
    machine alone."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    address: str | None = None

    @field_validator("address")
    @classmethod
    def _no_client(cls, value: str | None) -> str | None:
        if value is not None and value.startswith("ray://"):
            raise ValueError(
                "Ray Data does not run through Ray Client; submit the command with `ray job submit`, or start it on a "
                "node of the cluster, with auto here"
            )
        return value


class ResourceSettings(BaseModel):
    """How many of what; `auto` is resolved on the driver and recorded. Nothing here changes a result beyond rounding.
    `compile` has torch compile the model: each actor's first image then takes minutes, and the others less time."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_cpus: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    sam_actors: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    gpus_per_actor: Annotated[float, Field(ge=0)] | Literal["auto"] = "auto"
    images_per_batch: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    crops_per_batch: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    points_per_batch: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    tag_actors: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    views_per_batch: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    compile: bool = False


class Recipe(BaseModel):
    """A whole run: `input` (a folder, glob, file, archive or manifest, or a list of them), `output` (the dataset), and
    how. `include` and `exclude` are globs over image ids. `allow` names folders and prefixes from which a manifest's
    images may come besides its own folder: `s3://bucket/photos`, `https://host/path`. `dedup` finds images that nearly
    repeat an earlier one of the round, by perceptual hash and before any GPU is spent: `mark` says so in
    `duplicate_of`, `skip` makes no masks for them besides. Without `tag` nothing is named, without `caption` nothing
    described."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input: Annotated[str, Field(min_length=1)] | Annotated[tuple[str, ...], Field(min_length=1)]
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()
    output: str
    preset: PresetName = "default"
    model: ModelSettings = ModelSettings()
    decode: DecodeSettings = DecodeSettings()
    dedup: Literal["mark", "skip"] | None = None
    generate: GenerateSettings = GenerateSettings()
    filter: FilterSettings = FilterSettings()
    tag: TagSettings | None = None
    caption: CaptionSettings | None = None
    run: RunSettings = RunSettings()
    resources: ResourceSettings = ResourceSettings()
    ray: RaySettings = RaySettings()

    @model_validator(mode="after")
    def _captions_need_tags(self) -> "Recipe":
        check_captions_have_tags(self.tag, self.caption)
        return self

    @model_validator(mode="after")
    def _texts_need_a_clip(self) -> "Recipe":
        if self.generate.text is not None and self.tag is None:
            raise ValueError("generate.text needs the CLIP of tag; add a tag section or leave text out")
        if self.model.clip_prompt is not None and self.generate.text is None:
            raise ValueError("model.clip_prompt prompts with generate.text; set that or leave clip_prompt out")
        return self

    @model_validator(mode="after")
    def _consensus_needs_agreement(self) -> "Recipe":
        check_consensus_has_agreement(self.filter, self.generate)
        return self

    @property
    def min_predicted_iou(self) -> float:
        """What a candidate must reach to leave the generator: the lower of threshold and store floor."""
        threshold = self.filter.pred_iou_thresh
        floor = self.generate.store_floor.predicted_iou
        return min(threshold, floor) if self.generate.store_rejected else threshold

    @property
    def min_stability(self) -> float:
        threshold = self.filter.stability_score_thresh
        floor = self.generate.store_floor.stability_score
        return min(threshold, floor) if self.generate.store_rejected else threshold


def check_consensus_has_agreement(filters: FilterSettings, generate: GenerateSettings) -> None:
    """Raises ValueError for a consensus without agreements."""
    if filters.consensus_thresh is not None and generate.agreement_iou is None:
        raise ValueError("filter.consensus_thresh needs generate.agreement_iou; set it to .8 or so, or leave both out")


def check_captions_have_tags(tag: TagSettings | None, caption: CaptionSettings | None) -> None:
    """Raises ValueError for captions without tags."""
    if caption is not None and tag is None:
        raise ValueError("caption needs the features of tag; add a tag section or leave caption out")
