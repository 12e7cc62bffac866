"""From features to tags: shares of probability within each group of words, thresholds, implied parents."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stages.tag_settings import UNCALIBRATED_THRESHOLD
from stages.vocabulary import Vocabulary, WordGroup

Tag = tuple[str, float]


@dataclass(frozen=True)
class Thresholds:
    """What was calibrated: `groups` the threshold of each group of words, `words` those of words that have their own,
    as group → word → threshold, `other` that of all the rest."""

    groups: Mapping[str, float]
    words: Mapping[str, Mapping[str, float]]
    other: float = UNCALIBRATED_THRESHOLD

    def of(self, group: str, word: str) -> float:
        own = self.words.get(group, {}).get(word)
        return self.groups.get(group, self.other) if own is None else own


@dataclass(frozen=True)
class GroupScores:
    """`shares` (N, W): the probability of each word of the group for each of N regions; rows add up to at most 1."""

    group: WordGroup
    shares: np.ndarray

    def best(self) -> tuple[np.ndarray, np.ndarray]:
        """Each region's likeliest word, as an index, and its share."""
        index = self.shares.argmax(axis=1)
        return index, self.shares[np.arange(len(index)), index]


def score_group(
    group: WordGroup, features: np.ndarray, words: np.ndarray, scale: float, candidates: np.ndarray | None
) -> GroupScores:
    """Softmax over the group's words and its texts for nothing.

    `features` (N, D) of the regions and `words` (W + nothing, D) are of unit length; `candidates` are the indices of
    the words that take part (None: all).
    """
    num_words = len(group.words)
    logits = scale * features @ words.T
    if candidates is not None:
        out = np.ones(len(words), bool)
        out[candidates] = out[num_words:] = False
        logits[:, out] = -np.inf
    logits -= logits.max(axis=1, keepdims=True)
    shares = np.exp(logits)
    shares /= shares.sum(axis=1, keepdims=True)
    return GroupScores(group, shares[:, :num_words])


def best_candidates(image: np.ndarray, words: np.ndarray, num_words: int, limit: int | None) -> np.ndarray | None:
    """The `limit` words (indices) that fit the whole image best, or None where all take part."""
    if limit is None or num_words <= limit:
        return None
    return np.argpartition(-(words[:num_words] @ image), limit - 1)[:limit]


def choose_tags(scores: GroupScores, thresholds: Thresholds) -> list[list[Tag]]:
    """For each region the group's tags, best first; none where it abstains.

    A parent's score is the sum of its own share and those of all that imply it. The likeliest word is a tag if it
    reaches its threshold, and implies its parents; else the parents of the likeliest word that reach theirs.
    """
    group = scores.group
    ancestors = group.ancestors()
    place = {word.name: index for index, word in enumerate(group.words)}
    below: dict[str, list[int]] = {}
    for name, line in ancestors.items():
        for above in line:
            if name in place:
                below.setdefault(above, []).append(place[name])
    found = []
    for shares, winner, share in zip(scores.shares, *scores.best(), strict=True):
        name, *parents = ancestors[group.words[winner].name]
        accepted = float(share) >= thresholds.of(group.name, name)
        tags = [(name, float(share))] if accepted else []
        for parent in parents:
            total = min(1.0, float(shares[below[parent]].sum()))
            if accepted or total >= thresholds.of(group.name, parent):
                tags.append((parent, total))
        found.append(tags)
    return found


def image_tags(masks: Sequence[Sequence[Tag]], whole: Sequence[Tag], limit: int = 32) -> list[Tag]:
    """The tags of an image: those of its masks and of itself, each with its best score, best first."""
    best: dict[str, float] = {}
    for name, score in [tag for tags in (*masks, whole) for tag in tags]:
        best[name] = max(score, best.get(name, 0.0))
    return sorted(best.items(), key=lambda tag: (-tag[1], tag[0]))[:limit]


def join_tags(vocabulary: Vocabulary, by_group: Sequence[Sequence[Sequence[Tag]]], num_regions: int) -> list[list[Tag]]:
    """Each region's tags of all groups, in the vocabulary's order of groups."""
    assert len(by_group) == len(vocabulary.groups)
    return [[tag for group in by_group for tag in group[index]] for index in range(num_regions)]
