"""The recipe of a SAM 2's training, validated."""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.sam2.config import Sam2Config
from models.training.augment import AugmentSettings
from models.training.augment_clip import ClipSampling
from models.training.sam2_trainer import Sam2TrainerSettings
from pipeline.training.recipe import DataSource


class Sam2TrainRecipe(BaseModel):
    """A whole training of a SAM 2: its encoder after a `teacher`'s, then on pictures, then on clips.

    `pictures`: labelled folders and datasets; `clips`: folders of `maskfoundry scenes --video`. `start`: a SAM 2 to
    begin with; without it weights are fresh, of the sizes `model`, with the decoder of the SAM `teacher` if one is
    named, and its embedding to imitate for `training.imitate_steps`; `trunk`: a file of ImageNet weights for the
    trunk of the image encoder, or `imagenet` for those of the extra `train`. From step `clips_from` on each step has
    `clips_per_step` clips and `pictures_beside` pictures, before that `pictures_per_step`. `stop_after`: end this
    sitting after so many steps.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["sam2"]
    pictures: tuple[DataSource, ...] = ()
    clips: tuple[str, ...] = ()
    output: str
    start: str | None = None
    model: dict[str, Any] | None = None
    teacher: str | None = None
    trunk: str | None = None
    clips_from: Annotated[int, Field(ge=0)] = 0
    pictures_per_step: Annotated[int, Field(ge=1)] = 4
    pictures_beside: Annotated[int, Field(ge=0)] = 1
    clips_per_step: Annotated[int, Field(ge=1)] = 2
    checkpoint_every: Annotated[int, Field(ge=1)] = 100
    stop_after: Annotated[int, Field(ge=1)] | None = None
    num_threads: Annotated[int, Field(ge=1)] = 1
    training: Sam2TrainerSettings
    augment: AugmentSettings = AugmentSettings(min_scale=1.0, max_scale=2.8)
    sampling: ClipSampling = ClipSampling()

    @model_validator(mode="after")
    def _consistent(self) -> "Sam2TrainRecipe":
        if (self.model is None) == (self.start is None):
            raise ValueError("set either model (the sizes of fresh weights) or start (a checkpoint to begin with)")
        try:
            self.sizes()
        except ValueError as error:
            raise ValueError(f"model: {error}") from None
        if self.start is not None and self.teacher is not None:
            raise ValueError("teacher: only fresh weights begin like that; leave it or start out")
        if self.start is not None and self.trunk is not None:
            raise ValueError("trunk: only fresh weights begin like that; leave it or start out")
        if self.training.imitate_steps and self.teacher is None:
            raise ValueError("training.imitate_steps: there is nobody to imitate; name a SAM as teacher, or set 0")
        if self.training.imitate_steps > self.clips_from:
            raise ValueError(
                f"clips_from: {self.clips_from} is before the end of training.imitate_steps "
                f"({self.training.imitate_steps}); let clips come afterwards"
            )
        if not self.pictures and (self.clips_from > 0 or self.pictures_beside > 0):
            raise ValueError("pictures: none are named; name some, or set clips_from and pictures_beside to 0")
        if not self.clips and self.clips_from < self.training.num_steps:
            raise ValueError("clips: none are named; name some, or set clips_from to training.num_steps")
        return self

    def sizes(self) -> Sam2Config | None:
        """The sizes that the recipe names, or None for those of `start`."""
        return None if self.model is None else Sam2Config.from_json(json.dumps(self.model))

    def identity(self) -> dict[str, Any]:
        """What must not change between two sittings of one training."""
        plain = self.model_dump(mode="json")
        return {name: value for name, value in plain.items() if name not in _MAY_CHANGE}


_MAY_CHANGE = ("output", "checkpoint_every", "stop_after", "num_threads")
