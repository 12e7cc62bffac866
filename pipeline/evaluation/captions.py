"""Measure and calibrate the captions of labelled masks: how many name the right words, and from which score on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from models.masks.rle import areas
from models.weight_files import read_metadata
from models.weights import CAPTION_NOTE, load_captioner, save_captioner
from pipeline.clip_training.views import read_labelled_views
from pipeline.devices import own_device
from pipeline.evaluation.tags import VIEWS_PER_BATCH, embed_labelled
from stages.caption_masks import CaptionMasks, Subject
from stages.caption_rules import tags_by_group
from stages.caption_settings import CaptionSettings
from stages.captioning import read_captioning
from stages.tag_rules import choose_tags, join_tags
from stages.tag_settings import TagSettings
from stages.tagger import Tagger
from stages.tagging import read_tagging
from stages.vocabulary import Vocabulary


@dataclass(frozen=True)
class LabelledCaptions:
    """For each mask its caption's score (not a number where it has none), and whether the right word of each group
    stands in the text, (N, groups)."""

    groups: tuple[str, ...]
    scores: np.ndarray
    named: np.ndarray

    @property
    def rejected(self) -> float:
        """The share of masks without a caption."""
        return float(np.isnan(self.scores).mean())

    def correct(self, min_score: float = -1.0) -> dict[str, float]:
        """Of the captions with that score or a better one, the share that names the right word, by group and for `all`
        of them at once."""
        rows = self.named[self.scores >= min_score]
        if not len(rows):
            return dict.fromkeys((*self.groups, "all"), 0.0)
        return dict(zip(self.groups, rows.mean(axis=0).tolist(), strict=True)) | {"all": float(rows.all(axis=1).mean())}


def caption_labelled(
    settings: CaptionSettings,
    tag: TagSettings,
    vocabulary: Vocabulary,
    data: Sequence[str],
    labels: dict[str, str],
    groups: Sequence[str],
    min_area: int = 0,
    limit: int | None = None,
    quiet: bool = False,
) -> LabelledCaptions:
    """Captions of labelled masks of at least `min_area` pixels, of the first `limit` pictures, held against the labels
    of `groups`."""
    tagging = read_tagging(tag, vocabulary)
    captioning = read_captioning(settings, tagging)
    tagger = Tagger(tagging, str(own_device()), VIEWS_PER_BATCH)
    writer = CaptionMasks(captioning, tagging, str(own_device()), torch.get_num_threads(), keep_features=False)
    scores: list[float] = []
    named: list[list[bool]] = []
    for picture, whole, own in embed_labelled(tagger, read_labelled_views(data, labels)[:limit], quiet):
        chosen = np.flatnonzero(areas([view.rle or b"" for view in picture.masks]) >= min_area).tolist()
        tags = [choose_tags(one, tagger.thresholds) for one in tagger.scores(whole, own)]
        names = [[name for name, _ in one] for one in join_tags(vocabulary, tags, len(own))]
        subjects = [
            Subject(own[index], tags_by_group(names[index], vocabulary), f"{picture.path.name}/{index}")
            for index in chosen
        ]
        for index, (text, score) in zip(chosen, writer.caption(subjects), strict=True):
            words = f" {text or ''} "
            scores.append(float("nan") if score is None else score)
            named.append([f" {picture.masks[index].texts.get(group)} " in words for group in groups])
    return LabelledCaptions(tuple(groups), np.array(scores), np.array(named, bool).reshape(-1, len(groups)))


def calibrate_captions(checkpoint: str, found: LabelledCaptions, destination: Path, correct: float = 0.8) -> float:
    """Writes the captioner with the least score from which on `correct` of the captions name every right word, or, if
    none does, that of the best tenth; returns it. `found` is of a `min_score` of -1."""
    steps = np.sort(found.scores[~np.isnan(found.scores)])
    assert len(steps), "there are captions to calibrate on"
    candidates = steps[:: max(1, len(steps) // 200)][: -max(1, len(steps) // 2000)]
    good = [step for step in candidates if found.correct(step)["all"] >= correct]
    chosen = float(good[0]) if good else float(np.quantile(steps, 0.9))
    captioner, _ = load_captioner(checkpoint)
    notes = {key: value for key, value in read_metadata(checkpoint).items() if key != "format"}
    save_captioner(destination, captioner, torch.float16, notes | {CAPTION_NOTE: str(chosen)})
    return chosen
