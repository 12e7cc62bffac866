"""Measure and calibrate the naming of labelled masks: how often a word is right, and from which score on."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from models.masks.rle import areas, encode_masks
from models.weight_files import read_metadata
from models.weights import TAGS_NOTE, load_clip, save_clip
from pipeline.clip_training.batches import blank_view
from pipeline.clip_training.views import LabelledPicture, read_labelled_views
from pipeline.devices import own_device
from pipeline.progress import progress_bar
from stages.embed_masks import Features, Regions
from stages.tag_rules import GroupScores, Thresholds, choose_tags
from stages.tag_settings import TagSettings
from stages.tagger import Tagger
from stages.tagging import read_tagging
from stages.vocabulary import Vocabulary

VIEWS_PER_BATCH = 128
LARGE = 1000
MIN_OWN_PREDICTIONS = 40  # of a word that gets a threshold of its own
STEPS = np.linspace(0, 0.995, 200)
NUM_BLANKS = 120  # crops that show nothing, beside the greys
BLANK_SIZE = 64


@dataclass(frozen=True)
class NamedMasks:
    """Of one group, for each labelled mask or image: the right word and the likeliest one (indices), its share, and the
    pixels."""

    right: np.ndarray
    found: np.ndarray
    share: np.ndarray
    area: np.ndarray

    def precision(self, threshold: float | np.ndarray) -> float:
        """Of the masks whose likeliest word reaches the threshold; 1 where none does."""
        named = self.share >= threshold
        return float((self.right == self.found)[named].mean()) if named.any() else 1.0


@dataclass(frozen=True)
class GroupMeasure:
    """`accuracy` of the likeliest word of every labelled mask and image; `accuracy_kin` counts a word, too, that the
    right one implies, and `accuracy_large` only what has at least LARGE pixels. At the thresholds the `precision` of
    the first tag, which is right if it is the right word or one that this implies, and the share without a tag
    (`abstained`)."""

    num_masks: int
    accuracy: float
    accuracy_kin: float
    accuracy_large: float
    precision: float
    abstained: float


@dataclass(frozen=True)
class LabelledScores:
    """The scores of one group for N labelled masks and images, the right word of each (an index) and its pixels."""

    scores: GroupScores
    right: np.ndarray
    area: np.ndarray

    def named(self) -> NamedMasks:
        """The likeliest word of each."""
        return NamedMasks(self.right, *self.scores.best(), self.area)

    def as_parents(self) -> dict[str, NamedMasks]:
        """For each word that others imply: what is likeliest something below it, with the shares of all of them. The
        right "word" is 1 for what is below it, too, and the found one always 1."""
        ancestors = self.scores.group.ancestors()
        names = [word.name for word in self.scores.group.words]
        found, _ = self.scores.best()
        below: dict[str, list[int]] = {}
        for index, name in enumerate(names):
            for above in ancestors[name]:
                below.setdefault(above, []).append(index)
        parents = {}
        for name, members in below.items():
            rows = np.isin(found, members)
            if len(members) > 1 and rows.any():
                right = np.isin(self.right[rows], members).astype(int)
                share = self.scores.shares[rows][:, members].sum(axis=1).clip(max=1)
                parents[name] = NamedMasks(right, np.ones(rows.sum(), int), share, self.area[rows])
        return parents


def embed_labelled(
    tagger: Tagger, pictures: Sequence[LabelledPicture], quiet: bool
) -> list[tuple[LabelledPicture, Features, Features]]:
    """Each picture's feature and those of its masks."""
    found = []
    with progress_bar("encoding", len(pictures), "images", quiet) as update:
        for done, picture in enumerate(pictures, start=1):
            boxes = np.array([view.bbox for view in picture.masks], np.int32).reshape(-1, 4)
            regions = Regions(picture.pixels(), [view.rle or b"" for view in picture.masks], boxes)
            found.append((picture, *tagger.encoder.encode([regions])[0]))
            update(done, "")
    return found


def score_labelled(
    tagger: Tagger, embedded: Sequence[tuple[LabelledPicture, Features, Features]]
) -> dict[str, LabelledScores]:
    """The scores of every mask and image that has a word of the vocabulary, or a synonym of one, by group."""
    rows: dict[str, list[tuple[np.ndarray, int, int]]] = {group.name: [] for group in tagger.vocabulary.groups}
    for picture, whole, own in embedded:
        views, pixels = list(picture.masks), areas([view.rle or b"" for view in picture.masks]).tolist()
        if picture.whole is not None:
            views, pixels = [*views, picture.whole], [*pixels, picture.height * picture.width]
            own = np.concatenate([own, whole[None]])
        for scores in tagger.scores(whole, own):
            place = {
                text: index for index, word in enumerate(scores.group.words) for text in (word.name, *word.synonyms)
            }
            for view, shares, area in zip(views, scores.shares, pixels, strict=True):
                right = place.get(view.texts.get(scores.group.name, ""))
                if right is not None:
                    rows[scores.group.name].append((shares, right, area))
    found = {}
    for group in tagger.vocabulary.groups:
        if rows[group.name]:
            shares, right, area = zip(*rows[group.name], strict=True)
            found[group.name] = LabelledScores(GroupScores(group, np.stack(shares)), np.array(right), np.array(area))
    return found


def thresholds_of(labelled: LabelledScores, precision: float) -> tuple[float, dict[str, float]]:
    """The least threshold of the group, and of words with enough predictions, by themselves or by what implies them, at
    which tags are as precise as asked."""
    named = labelled.named()
    group, own = choose_thresholds(named, [word.name for word in labelled.scores.group.words], precision)
    for name, as_parent in labelled.as_parents().items():
        if len(as_parent.found) >= MIN_OWN_PREDICTIONS:
            own[name] = max(own.get(name, 0.0), _least(as_parent, precision))
    return group, own


def choose_thresholds(named: NamedMasks, words: Sequence[str], precision: float) -> tuple[float, dict[str, float]]:
    """The least threshold of the group, and of words with enough predictions, at which tags are as precise as asked."""
    own = {}
    for index in np.unique(named.found):
        rows = named.found == index
        if rows.sum() >= MIN_OWN_PREDICTIONS:
            of_word = NamedMasks(named.right[rows], named.found[rows], named.share[rows], named.area[rows])
            own[words[int(index)]] = _least(of_word, precision)
    return _least(named, precision), own


def _least(named: NamedMasks, precision: float) -> float:
    """From the chosen threshold on every higher one is as precise too, as far as there are masks to tell."""
    good = [named.precision(step) >= precision for step in STEPS]
    first_after_last_bad = len(good) - good[::-1].index(False) if False in good else 0
    return float(STEPS[first_after_last_bad]) if first_after_last_bad < len(STEPS) else 1.0


def blank_pictures(seed: int = 0) -> list[np.ndarray]:
    """Pictures of nothing, (S, S, 3): every sixteenth grey, and as many colours and noises as NUM_BLANKS says."""
    greys = [np.full((BLANK_SIZE, BLANK_SIZE, 3), min(255, value), np.uint8) for value in range(0, 257, 16)]
    rng = np.random.default_rng(seed)
    return greys + [np.ascontiguousarray(blank_view(rng, BLANK_SIZE)) for _ in range(NUM_BLANKS)]


def raise_above_blanks(tagger: Tagger, found: Thresholds) -> Thresholds:
    """The thresholds, higher where a picture of nothing would get a tag of the first group, which is to name things:
    one colour all over is no thing, but has a colour."""
    rles = encode_masks(np.ones((1, BLANK_SIZE, BLANK_SIZE), np.bool_))
    regions = [Regions(one, rles, np.array([[0, 0, BLANK_SIZE, BLANK_SIZE]], np.int32)) for one in blank_pictures()]
    name = tagger.vocabulary.groups[0].name
    own = dict(found.words.get(name, {}))
    raised = Thresholds(found.groups, {**found.words, name: own}, found.other)
    for whole, feature in tagger.encoder.encode(regions):
        scores = tagger.scores(whole, feature)[0]
        while tags := choose_tags(scores, raised)[0]:
            for word, share in tags:
                own[word] = max(raised.of(name, word), share + float(STEPS[1]))
    return raised


def measure_tags(
    settings: TagSettings, vocabulary: Vocabulary, data: Sequence[str], labels: dict[str, str], quiet: bool = False
) -> dict[str, GroupMeasure]:
    """How well the groups of the vocabulary are told on labelled masks; `labels` as in `read_labelled_views`."""
    tagger = Tagger(read_tagging(settings, vocabulary), str(own_device()), VIEWS_PER_BATCH)
    embedded = embed_labelled(tagger, read_labelled_views(data, labels), quiet)
    return {name: _measure(labelled, tagger.thresholds) for name, labelled in score_labelled(tagger, embedded).items()}


def _measure(labelled: LabelledScores, thresholds: Thresholds) -> GroupMeasure:
    group, named = labelled.scores.group, labelled.named()
    ancestors, words = group.ancestors(), [word.name for word in group.words]
    right, large = named.right == named.found, named.area >= LARGE
    implied = [ancestors[words[index]] for index in named.right]
    kin = [words[index] in line for index, line in zip(named.found, implied, strict=True)]
    first = [tags[0][0] if tags else None for tags in choose_tags(labelled.scores, thresholds)]
    good = [tag in line for tag, line in zip(first, implied, strict=True) if tag is not None]
    return GroupMeasure(
        num_masks=len(right),
        accuracy=float(right.mean()),
        accuracy_kin=float(np.mean(kin)),
        accuracy_large=float(right[large].mean()) if large.any() else float("nan"),
        precision=float(np.mean(good)) if good else 1.0,
        abstained=1 - len(good) / len(right),
    )


def calibrate_tags(
    settings: TagSettings,
    vocabulary: Vocabulary,
    data: Sequence[str],
    labels: dict[str, str],
    destination: Path,
    precision: float = 0.95,
    blanks: bool = False,
    quiet: bool = False,
) -> Thresholds:
    """Writes the checkpoint with the thresholds at which its tags are as precise as asked on labelled masks and images,
    on each of `data`; with `blanks` they are high enough, too, for a picture of nothing to be no thing.

    Raises ValueError for wrong labels, words or an unreadable checkpoint.
    """
    tagger = Tagger(read_tagging(settings, vocabulary), str(own_device()), VIEWS_PER_BATCH)
    groups: dict[str, float] = {}
    words: dict[str, dict[str, float]] = {}
    for one in data:
        embedded = embed_labelled(tagger, read_labelled_views([one], labels), quiet)
        for name, labelled in score_labelled(tagger, embedded).items():
            threshold, own = thresholds_of(labelled, precision)
            groups[name] = max(threshold, groups.get(name, 0.0))
            known = words.setdefault(name, {})
            known.update({word: max(least, known.get(word, 0.0)) for word, least in own.items()})
    found = Thresholds(groups, words)
    if blanks:
        found = raise_above_blanks(tagger, found)
    notes = read_metadata(settings.checkpoint) | {TAGS_NOTE: json.dumps({"groups": found.groups, "words": found.words})}
    clip, _ = load_clip(settings.checkpoint)
    notes.pop("format", None)
    save_clip(destination, clip, clip.config, torch.float16, notes=notes)
    return found
