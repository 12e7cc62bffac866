"""Weights as they were when a run was resolved: loaded by name on any worker, if the file is still that one."""

from dataclasses import dataclass
from typing import TypeVar

from models.weight_files import CheckpointError

Model = TypeVar("Model")


@dataclass(frozen=True)
class PinnedWeights:
    """A checkpoint's name or path, and the sha256 of the file that it stood for."""

    checkpoint: str
    sha256: str

    def checked(self, model: Model, sha256: str) -> Model:
        """The model that was loaded from the file of `sha256`. Raises CheckpointError if that is another file."""
        if sha256 != self.sha256:
            raise CheckpointError(
                f"{self.checkpoint}: is another file (sha256 {sha256}) than the one that this run began with "
                f"({self.sha256}); put that one back, or begin a round with --new-round"
            )
        return model
