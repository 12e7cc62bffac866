"""What a user, or a grid of points, asks a SAM to segment."""

import dataclasses
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Prompts:
    """B prompts, each of which gets its own masks; every field that is set has B rows.

    Coordinates are pixels of the model's input frame (the image resized so that it fits image_size).
    Raises ValueError if no field is set, if points come without labels, or if the fields disagree on B.
    """

    points: Tensor | None = None  # (B, N, 2), x then y
    labels: Tensor | None = None  # (B, N) int: 1 foreground, 0 background, -1 padding
    boxes: Tensor | None = None  # (B, 4): x0, y0, x1, y1
    masks: Tensor | None = None  # (B, 1, 4E, 4E) logits
    embeddings: Tensor | None = None  # (B, K, C) further sparse tokens, for example from `ClipPrompt`

    def __post_init__(self) -> None:
        if (self.points is None) != (self.labels is None):
            raise ValueError("points and labels: one is set without the other; give each point a label (1, 0 or -1)")
        if self.points is not None and self.labels is not None and self.points.shape[:2] != self.labels.shape:
            raise ValueError(
                f"labels: shape {tuple(self.labels.shape)} does not match points {tuple(self.points.shape)}; "
                "give one label a point"
            )
        sizes = {name: len(value) for name, value in self._fields().items()}
        if not sizes:
            raise ValueError("Prompts: nothing is set; give points, boxes, masks or embeddings")
        if len(set(sizes.values())) > 1:
            raise ValueError(f"Prompts: the fields disagree on the number of prompts ({sizes}); give each the same")

    def _fields(self) -> dict[str, Tensor]:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def __len__(self) -> int:
        return len(next(iter(self._fields().values())))
