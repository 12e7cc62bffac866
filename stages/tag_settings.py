"""What decides the tags of masks and images."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from models.clip.regions import ViewSettings

UNCALIBRATED_THRESHOLD = 0.5


class TagSettings(BaseModel):
    """`checkpoint`: a CLIP, named like a SAM; `tokens`: its vocabulary of tokens, where that is not beside it.
    `vocabulary`: a shipped one's name or a file. `views`: how masks are shown; by default as the checkpoint was
    trained. `threshold`: the probability that a tag must reach; by default what was calibrated for the checkpoint
    (of one that was not, 0.5). `candidates`: of a group with more words only so many take part in an image, those that
    fit the whole image best. `dense`: one pass over the image, of `dense_size` pixels, for all of its masks
    (convolutional CLIPs only). `store_embeddings` keeps CLIP's features in the dataset, so that another vocabulary
    needs no pass over the pictures."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    checkpoint: str = "hf://openai/clip-vit-large-patch14"
    tokens: str | None = None
    vocabulary: str = "everyday"
    views: ViewSettings | None = None
    dense: bool = False
    dense_size: Annotated[int, Field(ge=64)] = 512
    threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    candidates: Annotated[int, Field(ge=1)] | None = 256
    store_embeddings: bool = False
