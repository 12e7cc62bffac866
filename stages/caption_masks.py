"""Caption stage: tagged rows with CLIP's features in, a sentence for each image and its best masks out."""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
import torch.nn.functional as F

from models.captioner.model import Captioner
from models.captioner.sample import sample_captions
from models.weights import load_captioner, load_clip
from stages.caption_rules import Contradictions, fill_templates, tags_by_group
from stages.captioning import Captioning
from stages.embed_masks import Features
from stages.mask_columns import MaskColumns, without_embeddings
from stages.record import set_columns
from stages.tag_masks import kept_masks, stored_features
from stages.tagging import Tagging

TEXTS_PER_BATCH = 256


@dataclass(frozen=True)
class Subject:
    """What is to be captioned: its feature (D,), its tags by group, and a name that seeds its samples."""

    feature: Features
    tags: dict[str, str]
    name: str


class CaptionMasks:
    """Stage, one instance an actor: rows with `embedding` and `mask_embeddings` gain captions with their scores.

    With `keep_features` False the features, which were here for this stage, are left out. Raises CheckpointError for
    weights that are not those of the captioning and the tagging.
    """

    def __init__(
        self,
        captioning: Captioning,
        tagging: Tagging,
        device: str,
        num_threads: int,
        keep_features: bool,
    ) -> None:
        torch.set_num_threads(num_threads)
        self.settings = captioning.settings
        self.vocabulary = tagging.vocabulary
        self.contradicts = Contradictions(tagging.vocabulary)
        self.clip = tagging.weights.checked(*load_clip(tagging.weights.checkpoint)).to(device)
        self.tokenizer = tagging.tokenizer
        self.captioner: Captioner | None = None
        if captioning.captioner is not None:
            weights = captioning.captioner
            self.captioner = weights.checked(*load_captioner(weights.checkpoint)).to(device)
        self.min_score = captioning.min_score
        self.keep_features = keep_features

    def __call__(self, batch: pa.Table) -> pa.Table:
        started = time.perf_counter()
        batch = batch.combine_chunks()
        subjects: list[Subject] = []
        places: list[tuple[int, int | None]] = []  # row, and place among its masks (None: the image)
        for index in range(batch.num_rows):
            for place, subject in self._subjects(batch, index):
                subjects.append(subject)
                places.append((index, place))
        found = dict(zip(places, self.caption(subjects), strict=True))
        masks = MaskColumns.of(batch)
        flat = [
            found.get((row, place), (None, None)) for row, length in enumerate(masks.lengths) for place in range(length)
        ]
        whole = [found.get((row, None), (None, None)) for row in range(batch.num_rows)]
        fields = {
            "caption": pa.array([text for text, _ in flat], pa.string()),
            "caption_score": pa.array([score for _, score in flat], pa.float32()),
        }
        seconds = (time.perf_counter() - started) / max(1, batch.num_rows)
        columns = {
            **masks.with_fields(fields).columns(),
            "caption": pa.array([text for text, _ in whole], pa.string()),
            "caption_score": pa.array([score for _, score in whole], pa.float32()),
            "caption_seconds": pa.array([seconds] * batch.num_rows, pa.float64()),
        }
        captioned = set_columns(batch, columns)
        return captioned if self.keep_features else without_embeddings(captioned)

    def _subjects(self, batch: pa.Table, index: int) -> list[tuple[int | None, Subject]]:
        features = stored_features(batch, index)
        if features is None:
            return []
        masks = batch["masks"].chunk(0)[index].values
        image_id, whole, own = batch["image_id"][index].as_py(), *features
        tags = [tag["name"] for tag in batch["tags"][index].as_py()]
        subjects: list[tuple[int | None, Subject]] = [
            (None, Subject(whole, tags_by_group(tags, self.vocabulary), image_id))
        ]
        kept = kept_masks(batch, index)
        scores = pc.struct_field(masks, self.settings.by).to_numpy(zero_copy_only=False)[kept]
        for order in np.argsort(-np.nan_to_num(scores.astype(float)), kind="stable")[: self.settings.max_masks]:
            place = int(kept[order])
            mask = masks[place]
            if own[order].any():  # not that of a mask without a pixel
                names = tags_by_group([tag["name"] for tag in mask["tags"].as_py()], self.vocabulary)
                subjects.append((place, Subject(own[order], names, f"{mask['mask_id'].as_py()}")))
        return subjects

    @torch.inference_mode()
    def caption(self, subjects: Sequence[Subject]) -> list[tuple[str | None, float | None]]:
        """For each subject the candidate that CLIP finds closest, with its cosine; None where none is good enough."""
        candidates = [fill_templates(self.settings.templates, one.tags) for one in subjects]
        for own, sampled in zip(candidates, self._sampled(subjects), strict=True):
            own += sampled
        texts = list(dict.fromkeys(text for own in candidates for text in own if text))
        place = {text: index for index, text in enumerate(texts)}
        features = self._text_features(texts)
        found: list[tuple[str | None, float | None]] = []
        for subject, own in zip(subjects, candidates, strict=True):
            fitting = [text for text in dict.fromkeys(own) if text and not self.contradicts(text, subject.tags)]
            scores = features[[place[text] for text in fitting]] @ subject.feature
            best = int(scores.argmax()) if fitting else -1
            good = best >= 0 and float(scores[best]) >= self.min_score
            found.append((fitting[best], float(scores[best])) if good else (None, None))
        return found

    def _sampled(self, subjects: Sequence[Subject]) -> list[list[str]]:
        if self.captioner is None or not subjects:
            return [[] for _ in subjects]
        samples = self.settings.num_samples
        length = self.captioner.config.context_length - 2
        draws = np.stack([_draws(one.name, samples, length) for one in subjects]).reshape(-1, length)
        features = torch.from_numpy(np.stack([one.feature for one in subjects])).repeat_interleave(samples, dim=0)
        tokenizer = self.tokenizer
        ids = [
            text
            for start in range(0, len(draws), TEXTS_PER_BATCH)
            for text in sample_captions(
                self.captioner,
                features[start : start + TEXTS_PER_BATCH].to(self.clip.device),
                torch.from_numpy(draws[start : start + TEXTS_PER_BATCH]),
                tokenizer.start_of_text,
                tokenizer.end_of_text,
                self.settings.top_p,
                self.settings.temperature,
            )
        ]
        texts = [tokenizer.decode(one) for one in ids]
        return [texts[start : start + samples] for start in range(0, len(texts), samples)]

    def _text_features(self, texts: Sequence[str]) -> Features:
        """Of unit length, (N, D)."""
        found = [np.zeros((0, self.clip.config.embed_dim), np.float32)]
        for start in range(0, len(texts), TEXTS_PER_BATCH):
            tokens = self.tokenizer(texts[start : start + TEXTS_PER_BATCH]).to(self.clip.device)
            found.append(F.normalize(self.clip.encode_text(tokens).float(), dim=-1).cpu().numpy())
        return np.concatenate(found)


def _draws(name: str, num_samples: int, length: int) -> np.ndarray:
    """Uniform numbers that depend on the name alone, (num_samples, length)."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    return np.random.default_rng(seed).random((num_samples, length), np.float32)
