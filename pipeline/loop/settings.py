"""What the gate asks for, and the recipe of a whole loop."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Measure = Literal["point_miou", "box_miou", "average_recall_100", "best_overlap"]


class GateSettings(BaseModel):
    """`data`: labelled images (a folder with annotations.json, or a COCO JSON) that no training saw; `images`: their
    folder, if they lie elsewhere; `limit`: only the first so many. Each of `measures` may fall by at most `max_fall`
    against the round before."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: Annotated[str, Field(min_length=1)]
    images: str | None = None
    limit: Annotated[int, Field(ge=1)] | None = None
    max_fall: Annotated[float, Field(ge=0, le=1)] = 0.01
    measures: Annotated[tuple[Measure, ...], Field(min_length=1)] = (
        "point_miou",
        "average_recall_100",
        "best_overlap",
    )


class LoopRecipe(BaseModel):
    """`run`: a run's recipe. `train`: a training's, without `output` and `start`; its `data` are further images, with
    labels or datasets. `masks`: how the loop's own dataset is trained on, one source or several (`where`, `round`,
    `score_weights`, `human_weight`, `repeat`). `where` picks the images that a later round annotates again. `work`: a
    folder for the trainings."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: dict[str, Any]
    train: dict[str, Any]
    gate: GateSettings
    work: Annotated[str, Field(min_length=1)]
    masks: Annotated[tuple[dict[str, Any], ...], Field(min_length=1)] = ({},)
    where: str | None = None
