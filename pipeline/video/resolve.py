"""A recipe over videos with all that its files hold, read once."""

from dataclasses import dataclass

from models.pinned_weights import PinnedWeights
from models.sam2.weights import load_sam2, load_segmenter
from pipeline.runs.resolve import ResolvedLabels, resolve_labels
from pipeline.video.recipe import VideoRecipe


@dataclass(frozen=True)
class ResolvedVideoRun:
    """A recipe and what it stands for: the weights that find objects, those that follow them if they are others, and
    what names them if the recipe asks for that."""

    recipe: VideoRecipe
    weights: PinnedWeights
    tracker: PinnedWeights | None
    labels: ResolvedLabels | None

    def checkpoints(self) -> dict[str, str]:
        """The checkpoints that workers load, and the sha256 of each."""
        pinned = [self.weights] if self.tracker is None else [self.weights, self.tracker]
        labels = {} if self.labels is None else self.labels.checkpoints()
        return {weights.checkpoint: weights.sha256 for weights in pinned} | labels


def resolve_video(recipe: VideoRecipe) -> ResolvedVideoRun:
    """Reads every file that decides a result of the recipe. Raises ValueError as `pipeline.runs.resolve.resolve`."""
    checkpoint = recipe.track.checkpoint
    return ResolvedVideoRun(
        recipe,
        PinnedWeights(recipe.model.checkpoint, load_segmenter(recipe.model.checkpoint, recipe.model.image_size)[1]),
        None if checkpoint is None else PinnedWeights(checkpoint, load_sam2(checkpoint)[1]),
        resolve_labels(recipe.tag, recipe.caption),
    )
