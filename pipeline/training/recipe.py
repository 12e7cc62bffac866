"""The recipe of a training, validated."""

import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.sam.config import SamConfig
from models.training.augment import AugmentSettings
from models.training.text_prompt import TextPromptSettings
from models.training.trainer import TrainerSettings


class DataSource(BaseModel):
    """Where images for training are: a labelled folder (annotations.json and images/), a COCO JSON file, or a dataset.

    Of a dataset each image's newest published round counts, or one `round`; `where` leaves the masks for which it
    holds, as in `maskfoundry query`. A mask of the model is drawn by its scores, or with `score_weights: false` like
    any other; a person's `human_weight` times as often. `repeat` shows the source's images so many times an epoch.
    Pictures are read from the dataset's own input, and from the folders and prefixes in `allow`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Annotated[str, Field(min_length=1)]
    where: str | None = None
    round: Annotated[int, Field(ge=0)] | None = None
    score_weights: bool = True
    # Kirillov et al. 2023, appendix A: manual masks are drawn ten times as often
    human_weight: Annotated[float, Field(gt=0)] = 10.0
    repeat: Annotated[int, Field(ge=1)] = 1
    allow: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _of_path(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value


class ValidationSettings(BaseModel):
    """Every `every` steps the weights answer one point and one box a mask of the first `limit` images of `data`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: str
    every: Annotated[int, Field(ge=1)] = 500
    limit: Annotated[int, Field(ge=1)] | None = None


class TextPromptRecipe(TextPromptSettings):
    """`clip`: the checkpoint whose embeddings become prompts; the projection is exported beside the SAM's weights."""

    clip: Annotated[str, Field(min_length=1)]


class TrainResources(BaseModel):
    """`num_workers` processes share each step's images, with a GPU each if `gpus`, and `cpus_per_worker` threads."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_workers: Annotated[int, Field(ge=1)] = 1
    gpus: bool = False
    cpus_per_worker: Annotated[int, Field(ge=1)] = 2


class TrainRecipe(BaseModel):
    """A whole training.

    `data`: paths, or sources with choices of their own. `output`: a folder for the checkpoint to go on from,
    the metrics and the exported weights. `start`: a checkpoint to begin with; `model`: sizes of the
    model, by default those of `start`; with `adapt` weights of other sizes are taken over where they fit. Without
    `start` weights are fresh; `pass_pixels` then has the encoder begin by handing the picture through, which saves
    thousands of steps.
    `text_prompt`: masks are prompted by their crops' CLIP embeddings too, so that texts can prompt later.
    `stop_after`: end this sitting after so many steps; the next call goes on.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: Annotated[tuple[DataSource, ...], Field(min_length=1)]
    output: str
    start: str | None = None
    adapt: bool = False
    pass_pixels: bool = False
    model: dict[str, Any] | None = None
    images_per_step: Annotated[int, Field(ge=1)] = 4
    checkpoint_every: Annotated[int, Field(ge=1)] = 100
    stop_after: Annotated[int, Field(ge=1)] | None = None
    training: TrainerSettings
    augment: AugmentSettings = AugmentSettings()
    text_prompt: TextPromptRecipe | None = None
    validation: ValidationSettings | None = None
    resources: TrainResources = TrainResources()

    @model_validator(mode="after")
    def _consistent(self) -> "TrainRecipe":
        try:
            self.sizes()
        except ValueError as error:
            raise ValueError(f"model: {error}") from None
        if self.model is None and self.start is None:
            raise ValueError("neither model nor start is set; give the sizes of a model or a checkpoint to start from")
        if self.pass_pixels and self.start is not None:
            raise ValueError("pass_pixels: only fresh weights begin like that; leave it or start out")
        if self.text_prompt is not None and self.text_prompt.alone and self.start is None:
            raise ValueError("text_prompt.alone: the SAM does not learn then; name a trained one as start")
        if self.images_per_step % self.resources.num_workers:
            raise ValueError(
                f"images_per_step {self.images_per_step} is no multiple of resources.num_workers "
                f"{self.resources.num_workers}; each worker takes as many images"
            )
        return self

    def sizes(self) -> SamConfig | None:
        """The sizes that the recipe names, or None for those of `start`."""
        return None if self.model is None else SamConfig.from_json(json.dumps(self.model))

    def identity(self) -> dict[str, Any]:
        """What must not change between two sittings of one training."""
        plain = self.model_dump(mode="json")
        fixed = ("data", "start", "adapt", "pass_pixels", "model", "images_per_step", "training", "augment")
        own = {} if self.text_prompt is None else {"text_prompt": plain["text_prompt"]}
        return {name: plain[name] for name in fixed} | own
