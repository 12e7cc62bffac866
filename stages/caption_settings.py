"""What decides the captions of masks and images."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class CaptionSettings(BaseModel):
    """`captioner`: a checkpoint that was trained on the features of the tags' CLIP; null leaves it out. `templates`
    make further candidates of a mask's tags: `{thing}` stands for the tag of the vocabulary's group of that name, and
    a template takes part where all of its groups have a tag. The candidate that CLIP finds closest is the caption, if
    its cosine reaches `min_score` (by default what was calibrated with the captioner). Captioned are the image and its
    `max_masks` best masks `by` area or predicted IoU."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    captioner: str | None = None
    templates: tuple[str, ...] = ("a {thing}",)
    max_masks: Annotated[int, Field(ge=0)] = 16
    by: Literal["area", "predicted_iou"] = "area"
    num_samples: Annotated[int, Field(ge=1, le=64)] = 6
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.8
    temperature: Annotated[float, Field(ge=0)] = 0.7
    min_score: Annotated[float, Field(ge=-1, le=1)] | None = None
