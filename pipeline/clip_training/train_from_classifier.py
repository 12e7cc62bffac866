"""`maskfoundry train` with a recipe that makes a CLIP of a classifier: its weights and labelled masks in, a checkpoint
with its own vocabulary out."""

import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from models.clip.build import build_clip
from models.clip.efficientnet_tower import EfficientNetTower
from models.clip.learn_bpe import learn_merges
from models.clip.model import Clip
from models.clip.place_words import place_words
from models.clip.tokenizer import ClipTokenizer
from models.training.looks import LabelledPools, fit_looks
from models.training.optim import NonFiniteLossError
from models.weights import VIEWS_NOTE, save_clip
from pipeline.clip_training.classifier import begin_with_classifier, in_templates, place_classes
from pipeline.clip_training.pooled import PooledViews, pool_views
from pipeline.clip_training.recipe import ClassifierClipTrainRecipe
from pipeline.clip_training.views import read_labelled_views, some_masks
from pipeline.devices import own_device
from pipeline.errors import TrainingError
from pipeline.recipes.vocabularies import read_vocabulary
from pipeline.training.files import WEIGHTS
from pipeline.training.train import TrainSummary
from stages.vocabulary import Vocabulary


def train_from_classifier(recipe: ClassifierClipTrainRecipe, quiet: bool = False) -> TrainSummary:
    """Trains and writes OUTPUT/model.safetensors; what was pooled of the masks stays in OUTPUT for another run.

    Raises ValueError for wrong data, words or classifier weights, and TrainingError when a step's loss is no number.
    """
    started = time.time()
    torch.set_num_threads(recipe.num_threads)
    folder = Path(recipe.output).expanduser()
    pictures = some_masks(read_labelled_views(recipe.data, recipe.labels), recipe.masks_per_image, recipe.seed)
    vocabulary, classes = read_vocabulary(recipe.vocabulary), read_vocabulary(recipe.classes)
    merges = learn_merges(_texts(vocabulary, classes), recipe.max_tokens)
    sizes = recipe.sizes(ClipTokenizer.from_merges(merges).vocab_size)
    tokenizer = ClipTokenizer.from_merges(merges, sizes.context_length)
    torch.manual_seed(recipe.seed)
    clip = build_clip(sizes)
    tower = clip.visual
    assert isinstance(tower, EfficientNetTower), "the recipe makes sure of it"
    rows = begin_with_classifier(tower, recipe.classifier)
    pooled = pool_views(pictures, recipe.views, clip.to(own_device()), recipe.seed, folder, quiet)
    clip = clip.cpu()
    mean, deviation = pooled.statistics()
    tower.pooled_norm.mean.copy_(mean)
    tower.pooled_norm.deviation.copy_(deviation)
    data = _labelled(pooled, vocabulary, rows)
    try:
        places, accuracy = fit_looks(clip, data, recipe.looks, recipe.seed)
    except NonFiniteLossError as error:
        raise TrainingError(str(error)) from error
    placed = [*zip(data.words, places, strict=True)]
    of_classes = place_classes(rows, classes, sizes.embed_dim, strange := _strange(clip, pooled))
    placed += [(text, place) for text, place in of_classes if place is not strange or text not in data.words]
    templates = {str(index): list(group.templates) for index, group in enumerate(vocabulary.groups)}
    templates["classes"] = list(classes.groups[0].templates)
    placed = in_templates(placed, templates, torch.Generator().manual_seed(recipe.seed))
    place_words(
        clip, tokenizer, [text for text, _ in placed], torch.stack([place for _, place in placed]), recipe.ridge
    )
    notes = {"steps": str(recipe.looks.num_steps), VIEWS_NOTE: recipe.views.model_dump_json()}
    save_clip(folder / WEIGHTS, clip, sizes, torch.float16, merges, notes)
    return TrainSummary(
        output=str(folder),
        weights=str(folder / WEIGHTS),
        num_steps_done=recipe.looks.num_steps,
        num_steps=recipe.looks.num_steps,
        num_images=len(pictures),
        num_masks=len(pooled.masks),
        seconds=time.time() - started,
        last={"step": recipe.looks.num_steps - 1, **accuracy},
    )


def _texts(*vocabularies: Vocabulary) -> list[str]:
    """Every word, by itself and in its group's templates."""
    found = []
    for group in (group for vocabulary in vocabularies for group in vocabulary.groups):
        words = [*(text for word in group.words for text in (word.name, *word.synonyms)), *group.nothing]
        found += [template.replace("{}", word) for template in ("{}", *group.templates) for word in words]
    return found


def _labelled(pooled: PooledViews, vocabulary: Vocabulary, rows: Tensor) -> LabelledPools:
    """The pooled views with the words of the vocabulary; a word of several groups has one place."""
    nothing = next((group.nothing[0] for group in vocabulary.groups if group.nothing), "nothing")
    words = list(dict.fromkeys([*(word.name for group in vocabulary.groups for word in group.words), nothing]))
    place = {word: index for index, word in enumerate(words)}
    labels, members = {}, {}
    for group in vocabulary.groups:
        own = {word.name for word in group.words}
        texts = [view.texts.get(group.name, "") for view in pooled.masks]
        labels[group.name] = torch.tensor([place[text] if text in own else -1 for text in texts])
        members[group.name] = torch.tensor([place[word.name] for word in group.words] + [place[nothing]])
    return LabelledPools(
        pooled.of_masks, pooled.blanks, words, labels, members, place[nothing], rows, vocabulary.groups[0].name
    )


@torch.no_grad()
def _strange(clip: Clip, pooled: PooledViews) -> Tensor:
    """Where no picture is (embed_dim,): away from the middle of all that the masks look like."""
    features = clip.encode_pooled(pooled.of_masks.flatten(0, 1)).mean(dim=0)
    features[: clip.config.kinds_dim] = 0
    return -F.normalize(features, dim=-1)
