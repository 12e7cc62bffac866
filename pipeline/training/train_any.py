"""The training that a recipe asks for."""

from pipeline.clip_training.recipe import CaptionerTrainRecipe, ClipTrainRecipe
from pipeline.clip_training.train_captioner import train_captioner
from pipeline.clip_training.train_clip import train_clip
from pipeline.training.recipe import TrainRecipe
from pipeline.training.train import TrainSummary, train


def train_any(recipe: TrainRecipe | ClipTrainRecipe | CaptionerTrainRecipe, quiet: bool = False) -> TrainSummary:
    """Trains a SAM, a CLIP or a captioner. Raises what the training of its kind raises."""
    if isinstance(recipe, ClipTrainRecipe):
        return train_clip(recipe, quiet)
    return train_captioner(recipe, quiet) if isinstance(recipe, CaptionerTrainRecipe) else train(recipe, quiet)
