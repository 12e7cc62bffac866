"""Weights as a run has them."""

from models.pinned_weights import PinnedWeights
from models.weight_files import read_checkpoint


def pinned(checkpoint: str) -> PinnedWeights:
    return PinnedWeights(checkpoint, read_checkpoint(checkpoint).sha256)
