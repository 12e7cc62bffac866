"""A classifier of images as the beginning of a CLIP: its trunk sees, its classes' weights stand for their pictures."""

import torch
import torch.nn.functional as F
from torch import Tensor

from models.clip.efficientnet_tower import EfficientNetTower
from models.weight_files import CheckpointError, read_checkpoint
from models.weights import load_strictly
from stages.vocabulary import Vocabulary

_HEAD = ("_conv_head.", "_bn1.")
_ROWS = ("_fc.weight", "_fc.bias")

# A text with the place that it is to have among features.
Placed = tuple[str, Tensor]


def begin_with_classifier(tower: EfficientNetTower, checkpoint: str) -> Tensor:
    """Gives the tower the weights of a published EfficientNet-Lite0, and returns its classes' places (N, kinds_dim), of
    unit length.

    Kinds are told in the directions in which the rows differ most; what all rows share tells nothing. Raises
    CheckpointError for another network's weights.
    """
    state = read_checkpoint(checkpoint).state
    if missing := [key for key in _ROWS if key not in state]:
        raise CheckpointError(
            f"classifier: {checkpoint} has no {missing[0]}; give the published weights of EfficientNet-Lite0"
        )
    rows = state["_fc.weight"].float()
    rows = rows - rows.mean(dim=0)
    directions = torch.linalg.svd(rows, full_matrices=False).Vh[: len(tower.kinds.weight)]
    head = {key: value for key, value in state.items() if key.startswith(_HEAD)}
    trunk = {key: value for key, value in state.items() if key not in head and key not in _ROWS}
    load_strictly(tower.trunk, trunk, checkpoint)
    for name, module in (("_conv_head", tower._conv_head), ("_bn1", tower._bn1)):
        own = {key.removeprefix(f"{name}."): value for key, value in head.items() if key.startswith(f"{name}.")}
        load_strictly(module, own, checkpoint)
    tower.kinds.weight = torch.nn.Parameter(directions.contiguous())
    return F.normalize(rows @ directions.T, dim=-1)


def place_classes(rows: Tensor, vocabulary: Vocabulary, embed_dim: int, strange: Tensor) -> list[Placed]:
    """Places for the words of the vocabulary's first group: of classes, its first words, by their rows; of what they
    are kinds of in the middle of them; of all others at `strange` (embed_dim,), where no picture is. Raises ValueError
    if there are fewer words than classes.
    """
    group = vocabulary.groups[0]
    if len(group.words) < len(rows):
        raise ValueError(
            f"classes: group {group.name!r} has {len(group.words)} words for {len(rows)} classes; its first words must "
            "be the classes, in the order of the classifier's rows"
        )
    ancestors = group.ancestors()
    below: dict[str, list[int]] = {}
    for index, word in enumerate(group.words[: len(rows)]):
        for name in ancestors[word.name]:
            below.setdefault(name, []).append(index)
    placed = []
    for word in group.words:
        place = strange
        if word.name in below:
            place = F.pad(F.normalize(rows[below[word.name]].sum(dim=0), dim=-1), (0, embed_dim - rows.shape[1]))
        placed += [(text, place) for text in (word.name, *word.synonyms)]
    return placed


def in_templates(placed: list[Placed], templates: dict[str, list[str]], generator: torch.Generator) -> list[Placed]:
    """Every text by itself, and in one template of each list, drawn at random, at the same place."""
    found = []
    for text, place in placed:
        found.append((text, place))
        for listed in templates.values():
            drawn = listed[int(torch.randint(len(listed), (1,), generator=generator))]
            found.append((drawn.replace("{}", text), place))
    return found
