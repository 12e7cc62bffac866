"""What each step shows, a function of (seed, step)."""

from dataclasses import dataclass

import numpy as np

from models.sam2.config import Sam2Config
from models.training.augment import Example
from models.training.augment_clip import augment_clip, choose_frames
from models.training.clip_pass import ClipExample
from pipeline.sam2_training.clips import LabelledClips
from pipeline.sam2_training.recipe import Sam2TrainRecipe
from pipeline.training.data import ExampleSource, epoch_order

TRIES = 20  # of other frames or crops, where the first frame shows no object


@dataclass(frozen=True)
class Sam2Batches:
    recipe: Sam2TrainRecipe
    config: Sam2Config
    pictures: ExampleSource | None
    clips: LabelledClips | None

    def __call__(self, step: int) -> tuple[list[Example], list[ClipExample]]:
        """Raises ValueError, naming the file, for what vanished or changed."""
        recipe = self.recipe
        alone, later = min(step, recipe.clips_from), max(0, step - recipe.clips_from)
        with_clips = step >= recipe.clips_from
        first = alone * recipe.pictures_per_step + later * recipe.pictures_beside
        many = recipe.pictures_beside if with_clips else recipe.pictures_per_step
        pictures = [] if self.pictures is None else [self.pictures.example(first + index) for index in range(many)]
        numbers = range(later * recipe.clips_per_step, (later + with_clips) * recipe.clips_per_step)
        return pictures, [self._clip(number) for number in numbers]

    def _clip(self, number: int) -> ClipExample:
        assert self.clips is not None
        seed = self.recipe.training.seed
        epoch, place = divmod(number, len(self.clips))
        clip = self.clips.read(int(epoch_order(seed, epoch, len(self.clips))[place]))
        rng = np.random.default_rng([seed, 2, number])
        for _ in range(TRIES):
            chosen = choose_frames(len(clip), rng, self.recipe.sampling)
            example = augment_clip(
                clip.frames(chosen),
                clip.masks(chosen),
                str(clip.path),
                self.config.image_size,
                4 * self.config.embedding_size,
                rng,
                self.recipe.sampling,
            )
            if example.masks.shape[1]:
                break
        return example
