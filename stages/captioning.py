"""What images and masks are captioned with, read from its files once."""

from dataclasses import dataclass

from models.pinned_weights import PinnedWeights
from models.weight_files import read_metadata
from models.weights import CAPTION_NOTE, CheckpointError, load_captioner
from stages.caption_rules import check_caption_templates
from stages.caption_settings import CaptionSettings
from stages.tagging import Tagging


@dataclass(frozen=True)
class Captioning:
    """Everything that decides the captions beside the tagging: `captioner` None where templates alone make them;
    `min_score` the least cosine of a caption with its subject."""

    settings: CaptionSettings
    captioner: PinnedWeights | None
    min_score: float


def read_captioning(settings: CaptionSettings, tagging: Tagging) -> Captioning:
    """Reads the captioner that `settings` name.

    Raises ValueError for templates that do not fit the vocabulary, and CheckpointError for a captioner that cannot be
    read or was trained on the features of another CLIP.
    """
    check_caption_templates(settings.templates, tagging.vocabulary)
    if settings.captioner is None:
        return Captioning(settings, None, _min_score(settings, None))
    _, sha256 = load_captioner(settings.captioner)
    notes = read_metadata(settings.captioner)
    if notes.get("clip_sha256") not in (None, tagging.weights.sha256):
        raise CheckpointError(
            f"caption.captioner: {settings.captioner} was trained on the features of another CLIP; "
            "set tag.checkpoint to that one, or train a captioner for this one"
        )
    return Captioning(
        settings, PinnedWeights(settings.captioner, sha256), _min_score(settings, notes.get(CAPTION_NOTE))
    )


def _min_score(settings: CaptionSettings, calibrated: str | None) -> float:
    """The recipe's least cosine, else the one calibrated with the captioner, else none."""
    if settings.min_score is not None:
        return settings.min_score
    return -1.0 if calibrated is None else float(calibrated)
