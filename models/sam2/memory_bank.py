"""What SAM 2 remembers of one object in one clip, and what of it a frame attends to.

Facts: `sam2` `modeling/sam2_base.py`; section 4 of the paper (arXiv:2408.00714). Prompted frames are kept. Of the
others the last few keep their memory and some more their pointer, near the current frame and near each prompted one (so
that tracking both ways from a prompt finds its neighbours), so that a bank does not grow with the clip.
"""

import dataclasses
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class FrameMemory:
    """One object on one frame; without `features` and `logits` once only its pointer is within reach."""

    frame_index: int
    pointer: Tensor  # (C,)
    object_score: Tensor  # (), above 0 if the object is in sight
    features: Tensor | None = None  # (N, M), N cells
    logits: Tensor | None = None  # (4E, 4E)


@dataclass(frozen=True)
class Recall:
    """What a frame attends to. `frames`: how many frames back, or 0 for a prompted frame, and its memory (N, M).
    `pointers`: how many frames back, and the pointer (C,)."""

    frames: list[tuple[int, Tensor]]
    pointers: list[tuple[int, Tensor]]

    @property
    def structure(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Recalls of the same structure fit into one batch."""
        return tuple(steps for steps, _ in self.frames), tuple(steps for steps, _ in self.pointers)


@dataclass
class MemoryBank:
    """`num_memories` counts a frame's memories, the prompted one included; `num_pointers` its pointers likewise."""

    num_memories: int
    num_pointers: int
    prompted: dict[int, FrameMemory] = field(default_factory=dict)
    tracked: dict[int, FrameMemory] = field(default_factory=dict)

    def add_prompted(self, memory: FrameMemory) -> None:
        self.tracked.pop(memory.frame_index, None)
        self.prompted[memory.frame_index] = memory

    def add_tracked(self, memory: FrameMemory) -> None:
        """Also forgets what is out of reach of this frame and of the prompted ones."""
        self.tracked[memory.frame_index] = memory
        here = [memory.frame_index, *self.prompted]
        for index, old in list(self.tracked.items()):
            distance = min(abs(index - other) for other in here)
            if distance >= max(self.num_pointers, self.num_memories):
                del self.tracked[index]
            elif distance >= self.num_memories:
                self.tracked[index] = dataclasses.replace(old, features=None, logits=None)

    def get(self, frame_index: int) -> FrameMemory | None:
        return self.prompted.get(frame_index) or self.tracked.get(frame_index)

    def recall(self, frame_index: int, reverse: bool) -> Recall:
        """For a frame that is reached from the frames before it, or after it if `reverse`."""
        back = 1 if reverse else -1
        frames = [(0, memory.features) for memory in self.prompted.values()]
        for steps in range(self.num_memories - 1, 0, -1):
            memory = self.tracked.get(frame_index + steps * back)
            frames.append((steps, None if memory is None else memory.features))
        # A pointer from the future would distract, say the published settings; a prompted memory may be from there.
        passed = [(index - frame_index) * back for index in self.prompted]
        pointers = [
            (steps, memory.pointer) for steps, memory in zip(passed, self.prompted.values(), strict=True) if steps >= 0
        ]
        for steps in range(1, self.num_pointers):
            memory = self.tracked.get(frame_index + steps * back)
            if memory is not None:
                pointers.append((steps, memory.pointer))
        return Recall([(steps, features) for steps, features in frames if features is not None], pointers)
