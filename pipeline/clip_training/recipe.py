"""The recipes of a CLIP's and of a captioner's training, validated."""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.clip.config import EFFICIENTNET_LAYERS, ClipConfig
from models.clip.regions import ViewSettings
from models.training.clip_trainer import ClipTrainerSettings
from models.training.looks import LooksSettings
from models.training.optim import OptimSettings


class ClipTrainRecipe(BaseModel):
    """A whole training of a CLIP on labelled masks.

    `data`: labelled folders (annotations.json and images/) or COCO JSON files. `labels`: for each group of texts the
    field of an annotation that holds them. `vocabulary`: whose templates the groups of its names are put into.
    `start`: a checkpoint to begin with; without it weights are fresh, of the sizes `model`, with a vocabulary of tokens
    learned from the data's texts (at most `max_tokens`). `stop_after`: end this sitting after so many steps.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["clip"]
    data: Annotated[tuple[str, ...], Field(min_length=1)]
    output: str
    vocabulary: str = "scenes"
    labels: dict[str, str] = Field(default_factory=lambda: {"thing": "category", "caption": "caption"})
    start: str | None = None
    model: dict[str, Any] | None = None
    max_tokens: Annotated[int, Field(gt=514)] = 1024
    views: ViewSettings = ViewSettings()
    images_per_step: Annotated[int, Field(ge=0)] = 4
    masks_per_step: Annotated[int, Field(ge=1)] = 96
    checkpoint_every: Annotated[int, Field(ge=1)] = 100
    stop_after: Annotated[int, Field(ge=1)] | None = None
    num_threads: Annotated[int, Field(ge=1)] = 1
    training: ClipTrainerSettings

    @model_validator(mode="after")
    def _consistent(self) -> "ClipTrainRecipe":
        if (self.model is None) == (self.start is None):
            raise ValueError("set either model (the sizes of fresh weights) or start (a checkpoint to begin with)")
        try:
            self.sizes(vocab_size=self.max_tokens)
        except ValueError as error:
            raise ValueError(f"model: {error}") from None
        return self

    def sizes(self, vocab_size: int) -> ClipConfig | None:
        """The sizes that the recipe names, or None for those of `start`."""
        if self.model is None:
            return None
        return ClipConfig.from_json(json.dumps({**self.model, "vocab_size": vocab_size}))

    def identity(self) -> dict[str, Any]:
        """What must not change between two sittings of one training."""
        plain = self.model_dump(mode="json")
        return {name: value for name, value in plain.items() if name not in _MAY_CHANGE}


class ClassifierClipTrainRecipe(BaseModel):
    """A CLIP made of a classifier of images, whose trunk does not learn, and of labelled masks; brief, so not resumed:
    what the trunk pools of the masks is computed once and kept in the output.

    `classifier`: the published weights of an EfficientNet-Lite0 that tells ImageNet's classes. `classes`: the
    vocabulary whose first group's first words name them, in the order of the weights' rows. `vocabulary`: that of the
    labelled masks. `masks_per_image`: as many of an image's masks at most, drawn once. `ridge`: how far a token's pull
    is held back where the text tower is fitted.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["classifier_clip"]
    data: Annotated[tuple[str, ...], Field(min_length=1)]
    output: str
    classifier: str
    classes: str = "everyday"
    vocabulary: str = "scenes"
    labels: dict[str, str] = Field(default_factory=lambda: {"thing": "category"})
    model: dict[str, Any]
    max_tokens: Annotated[int, Field(gt=514)] = 3072
    masks_per_image: Annotated[int, Field(ge=1)] | None = None
    views: ViewSettings = ViewSettings()
    looks: LooksSettings = LooksSettings()
    ridge: Annotated[float, Field(gt=0)] = 0.1
    seed: Annotated[int, Field(ge=0)] = 0
    num_threads: Annotated[int, Field(ge=1)] = 1

    @model_validator(mode="after")
    def _consistent(self) -> "ClassifierClipTrainRecipe":
        try:
            sizes = self.sizes(vocab_size=self.max_tokens)
        except ValueError as error:
            raise ValueError(f"model: {error}") from None
        if not sizes.is_efficientnet:
            raise ValueError(f"model: vision_layers must be EfficientNet-Lite0's, {EFFICIENTNET_LAYERS}")
        return self

    def sizes(self, vocab_size: int) -> ClipConfig:
        """The sizes that the recipe names."""
        return ClipConfig.from_json(json.dumps({**self.model, "vocab_size": vocab_size}))


_MAY_CHANGE = ("output", "checkpoint_every", "stop_after", "num_threads")


class CaptionerTrainRecipe(BaseModel):
    """A whole training of a captioner, which is brief and is not resumed: the features are computed once.

    `clip`: the checkpoint whose features it will be given. `noise`: deviation of what is added to a feature's
    components, relative to their size, so that masks of a model's making, which lie beside the labelled ones, are
    understood too.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["captioner"]
    data: Annotated[tuple[str, ...], Field(min_length=1)]
    output: str
    clip: str
    masks_per_image: Annotated[int, Field(ge=1)] = 40
    num_steps: Annotated[int, Field(ge=1)] = 1000
    batch_size: Annotated[int, Field(ge=1)] = 96
    noise: Annotated[float, Field(ge=0)] = 0.3
    seed: Annotated[int, Field(ge=0)] = 0
    num_threads: Annotated[int, Field(ge=1)] = 1
    width: Annotated[int, Field(ge=8)] = 128
    num_layers: Annotated[int, Field(ge=1)] = 3
    optim: OptimSettings = OptimSettings(learning_rate=2e-3, weight_decay=0.05, betas=(0.9, 0.98), warmup_steps=50)
