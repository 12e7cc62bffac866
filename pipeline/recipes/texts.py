"""What a recipe's `generate.text` comes to: a direction to rank masks by, and a prompt for a SAM."""

from functools import lru_cache

import numpy as np
import torch

from models.sam.model import Sam
from models.sam2.model import Sam2
from models.weight_files import read_checkpoint, read_metadata
from models.weights import CheckpointError, load_clip, load_clip_prompt, load_clip_tokenizer
from pipeline.recipes.recipe import Recipe
from pipeline.video.recipe import VideoRecipe
from stages.text_embeddings import text_direction


def direction_of(recipe: Recipe | VideoRecipe) -> np.ndarray | None:
    """(D,), of unit length; None where the recipe has no text. Raises ValueError (CheckpointError among them) for a
    text that is empty or too long, and for a CLIP that cannot be read."""
    if recipe.generate.text is None:
        return None
    assert recipe.tag is not None, "the recipe makes sure of it"
    return _direction(recipe.tag.checkpoint, recipe.tag.tokens, recipe.generate.text)


def token_of(recipe: Recipe) -> np.ndarray | None:
    """(C,), the text as a prompt; None where the recipe has no projection that makes one.

    Raises CheckpointError for a projection that cannot be read or belongs to another CLIP.
    """
    direction, path = direction_of(recipe), recipe.model.clip_prompt
    if direction is None or path is None:
        return None
    assert recipe.tag is not None
    projection = load_clip_prompt(path)
    trained_for = read_metadata(path).get("clip_sha256")
    width = projection.projection.in_features
    if width != len(direction) or trained_for not in (None, read_checkpoint(recipe.tag.checkpoint).sha256):
        sizes = f" (of {width} values, not {len(direction)})" if width != len(direction) else ""
        raise CheckpointError(
            f"model.clip_prompt: {path} projects the embeddings of another CLIP than {recipe.tag.checkpoint}{sizes}; "
            "set tag.checkpoint to the one that it was trained with"
        )
    token: np.ndarray = projection(torch.from_numpy(direction)[None])[0, 0].numpy()
    return token


def check_token(recipe: Recipe, sam: Sam | Sam2) -> None:
    """Raises CheckpointError, as `token_of` and for a projection to another SAM's prompts."""
    token, width = token_of(recipe), sam.config.prompt_embed_dim
    if token is not None and len(token) != width:
        raise CheckpointError(
            f"model.clip_prompt: {recipe.model.clip_prompt} makes prompts of {len(token)} values, "
            f"{recipe.model.checkpoint} reads {width}; choose a projection that was trained with this SAM"
        )


@lru_cache(maxsize=8)
def _direction(checkpoint: str, tokens: str | None, text: str) -> np.ndarray:
    clip, _ = load_clip(checkpoint)
    return text_direction(clip, load_clip_tokenizer(checkpoint, clip.config, tokens), text, "generate.text")
