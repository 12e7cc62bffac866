"""The training that a recipe asks for."""

from pipeline.clip_training.recipe import CaptionerTrainRecipe, ClassifierClipTrainRecipe, ClipTrainRecipe
from pipeline.clip_training.train_captioner import train_captioner
from pipeline.clip_training.train_clip import train_clip
from pipeline.clip_training.train_from_classifier import train_from_classifier
from pipeline.sam2_training.recipe import Sam2TrainRecipe
from pipeline.sam2_training.train_sam2 import train_sam2
from pipeline.training.recipe import TrainRecipe
from pipeline.training.train import TrainSummary, train

AnyTrainRecipe = TrainRecipe | Sam2TrainRecipe | ClipTrainRecipe | ClassifierClipTrainRecipe | CaptionerTrainRecipe


def train_any(recipe: AnyTrainRecipe, quiet: bool = False) -> TrainSummary:
    """Trains a SAM, a SAM 2, a CLIP or a captioner. Raises what the training of its kind raises."""
    if isinstance(recipe, Sam2TrainRecipe):
        return train_sam2(recipe, quiet)
    if isinstance(recipe, ClipTrainRecipe):
        return train_clip(recipe, quiet)
    if isinstance(recipe, ClassifierClipTrainRecipe):
        return train_from_classifier(recipe, quiet)
    return train_captioner(recipe, quiet) if isinstance(recipe, CaptionerTrainRecipe) else train(recipe, quiet)
