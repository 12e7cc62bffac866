"""`maskfoundry train` with a CLIP's recipe: labelled masks in, a checkpoint with its own vocabulary out."""

import time
from collections.abc import Sequence
from pathlib import Path

import torch

from models.clip.build import build_clip
from models.clip.learn_bpe import learn_merges
from models.clip.model import Clip
from models.clip.tokenizer import ClipTokenizer
from models.training.clip_trainer import ClipTrainer
from models.weight_files import read_metadata
from models.weights import MERGES_NOTE, VIEWS_NOTE, load_clip, load_clip_tokenizer, save_clip
from pipeline.clip_training.batches import ClipBatches
from pipeline.clip_training.packed import pack_views
from pipeline.clip_training.recipe import ClipTrainRecipe
from pipeline.clip_training.views import LabelledPicture, read_labelled_views
from pipeline.devices import own_device
from pipeline.recipes.vocabularies import read_vocabulary
from pipeline.training.files import WEIGHTS, claim, read_checkpoint_state, save_checkpoint
from pipeline.training.steps import run_steps, sitting
from pipeline.training.train import TrainSummary
from stages.vocabulary import Vocabulary


def train_clip(recipe: ClipTrainRecipe, quiet: bool = False) -> TrainSummary:
    """Trains, or goes on where the last checkpoint in `recipe.output` was written.

    Raises ValueError for wrong data, a wrong checkpoint or an output of another recipe, and TrainingError when a step's
    loss is no number; the last checkpoint stays.
    """
    started = time.time()
    torch.set_num_threads(recipe.num_threads)
    folder = Path(recipe.output).expanduser()
    pictures = read_labelled_views(recipe.data, recipe.labels)
    vocabulary = read_vocabulary(recipe.vocabulary)
    state = read_checkpoint_state(folder)
    # the images may have new texts since, but what is half trained keeps its tokens
    learned = None if state is None else state.pop("merges", None)
    clip, tokenizer, merges = _starting_clip(recipe, pictures, vocabulary, learned)
    claim(folder, recipe)
    trainer = ClipTrainer(clip.to(own_device()), recipe.training)
    if state is not None:
        trainer.load_state_dict(state)
    seed = recipe.training.seed
    packed = pack_views(pictures, recipe.views, clip.config, seed, folder, quiet)
    batches = ClipBatches(
        packed, vocabulary, tokenizer, clip.config, seed, recipe.images_per_step, recipe.masks_per_step
    )

    def save(num_steps_done: int) -> None:
        save_checkpoint(folder, {**trainer.state_dict(), "merges": merges})
        notes = {"steps": str(num_steps_done), VIEWS_NOTE: recipe.views.model_dump_json()}
        save_clip(folder / WEIGHTS, trainer.weights(), clip.config, torch.float16, merges, notes)

    num_steps = recipe.training.num_steps
    row = run_steps(
        folder,
        sitting(trainer.num_steps_done, num_steps, recipe.stop_after),
        num_steps,
        recipe.checkpoint_every,
        batches,
        lambda step, batch: {"step": step, **trainer.step(batch)},
        save,
        quiet,
    )
    return TrainSummary(
        output=str(folder),
        weights=str(folder / WEIGHTS),
        num_steps_done=trainer.num_steps_done,
        num_steps=num_steps,
        num_images=len(pictures),
        num_masks=sum(len(picture.masks) for picture in pictures),
        seconds=time.time() - started,
        last=row,
    )


def _starting_clip(
    recipe: ClipTrainRecipe, pictures: Sequence[LabelledPicture], vocabulary: Vocabulary, learned: str | None
) -> tuple[Clip, ClipTokenizer, str | None]:
    """The model that the recipe begins with, its tokenizer, and the tokenizer's merges where they are our own: those
    `learned` when the training began, if it goes on."""
    if recipe.start is not None:
        clip, _ = load_clip(recipe.start)
        own = read_metadata(recipe.start).get(MERGES_NOTE)
        return clip.requires_grad_(True), load_clip_tokenizer(recipe.start, clip.config), own
    merges = learned or learn_merges(_texts(pictures, vocabulary), recipe.max_tokens)
    probe = ClipTokenizer.from_merges(merges)
    sizes = recipe.sizes(probe.vocab_size)
    assert sizes is not None
    torch.manual_seed(recipe.training.seed)
    return build_clip(sizes), ClipTokenizer.from_merges(merges, sizes.context_length), merges


def _texts(pictures: Sequence[LabelledPicture], vocabulary: Vocabulary) -> list[str]:
    views = [view for picture in pictures for view in (picture.whole, *picture.masks) if view is not None]
    texts = [text for view in views for text in view.texts.values()]
    for group in vocabulary.groups:
        words = [*(one.name for one in group.words), *group.nothing]
        texts += [template.replace("{}", word) for template in group.templates for word in words]
    return texts
