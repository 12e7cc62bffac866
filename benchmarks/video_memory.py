"""What SAM 2's memory is worth: J&F on labelled clips, with its whole memory, with less of it, and without.

    maskfoundry scenes clips --video --count 50 --seed 13000000
    python -m benchmarks.video_memory clips --checkpoint sam2_small --prompt mask

Every object of which the first frame shows `--min-share` of the picture is prompted there by its true mask, or by a
click on the point of it that is farthest from its edge, and tracked to the end of the clip, by the same weights

- with the whole memory (`num_maskmem` memories of frames, and pointers);
- with one frame's, the prompted one's memory and pointer, however long ago that was;
- with one frame's, that of the frame before, of which each next one is made;
- without: each frame is asked for what is in the box of the frame before's mask (`models/tracking/follower.py`);

and, with `--beside`, another SAM follows boxes in the same way.

J and F are means over objects of the means over their frames after the first, at the clip's own size. Apart stand
objects that are hidden on some frame and seen again later, and those that lose more than half of what the first frame
shows of them for a while.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.table import markdown_table
from models.evaluation.prompts import center_point
from models.evaluation.video import RegionAndBoundary, score_tracks
from models.sam.model import Sam
from models.sam2.frames import SqueezedFrames
from models.sam2.memory_bank import MemoryBank, Recall
from models.sam2.model import Sam2
from models.sam2.tracker import VideoTracker
from models.sam2.weights import load_sam2, load_segmenter
from models.tracking.follower import Follower
from pipeline.sam2_training.clips import LabelledClip, LabelledClips


@dataclass(frozen=True)
class Shown:
    """Frames (T, H, W, 3) uint8 of a clip and the masks (T, O, H, W) bool of the objects that the first frame shows."""

    frames: list[np.ndarray]
    masks: np.ndarray


def read_clip(clip: LabelledClip, min_share: float) -> Shown:
    everything = range(len(clip))
    masks = clip.masks(everything)
    return Shown(clip.frames(everything), masks[:, masks[0].mean(axis=(1, 2)) >= min_share])


class PromptedFrame(MemoryBank):
    """Recalls the prompted frame alone."""

    def recall(self, frame_index: int, reverse: bool) -> Recall:
        everything = super().recall(frame_index, reverse)
        return Recall(everything.frames[:1], everything.pointers[:1])


class FrameBefore(MemoryBank):
    """Recalls the frame before alone."""

    def recall(self, frame_index: int, reverse: bool) -> Recall:
        memory = self.get(frame_index - 1)
        assert memory is not None and memory.features is not None
        kind = 0 if frame_index - 1 in self.prompted else 1
        return Recall([(kind, memory.features)], [(1, memory.pointer)])


def by_memory(model: Sam2, clip: Shown, prompt: str, bank: type[MemoryBank] | None = None) -> np.ndarray:
    """(T, O, H, W) bool."""
    height, width = clip.masks.shape[2:]
    tracker = VideoTracker(model, SqueezedFrames(clip.frames, model), height, width)
    for number, mask in enumerate(clip.masks[0]):
        if prompt == "mask":
            tracker.add_mask(0, number, torch.from_numpy(mask))
        else:
            tracker.add_points(0, number, torch.tensor([center_point(mask)]), torch.ones(1, dtype=torch.int64))
    if bank is not None:
        for track in tracker._tracks.values():
            track.bank = bank(track.bank.num_memories, track.bank.num_pointers, track.bank.prompted)
    return np.stack([found.to_masks(height, width).numpy() for found in tracker.propagate()])


def without_memory(model: Sam2, clip: Shown, prompt: str, sam: Sam | Sam2 | None = None) -> np.ndarray:
    height, width = clip.masks.shape[2:]
    first = clip.masks[0]
    if prompt == "click":  # what the model itself makes of the click
        first = by_memory(model, Shown(clip.frames[:1], clip.masks[:1]), prompt)[0]
    follower = Follower(model if sam is None else sam, clip.frames, height, width)
    followed = [number for number, mask in enumerate(first) if mask.any()]
    for number in followed:
        follower.add_mask(0, number, torch.from_numpy(first[number]))
    masks = np.zeros(clip.masks.shape, dtype=bool)
    for found in follower.propagate() if followed else ():
        masks[found.frame_index, followed] = found.to_masks(height, width).numpy()
    return masks


WAYS: dict[str, Callable[[Sam2, Shown, str], np.ndarray]] = {
    "whole memory": by_memory,
    "the prompted frame's memory alone": lambda *given: by_memory(*given, PromptedFrame),
    "the memory of the frame before alone": lambda *given: by_memory(*given, FrameBefore),
    "no memory: the box of the frame before": without_memory,
}


def kinds_of(masks: np.ndarray) -> list[str]:
    """What happens to an object with masks (T, H, W) bool."""
    areas = masks.sum(axis=(1, 2))
    seen = np.flatnonzero(areas)
    kinds = ["all objects"]
    if not areas[: seen[-1]].all():
        kinds.append("hidden and seen again")
    if areas.min() < 0.5 * areas[0]:
        kinds.append("half or more covered for a while")
    return kinds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path, help="a folder of `maskfoundry scenes --video`")
    parser.add_argument("--checkpoint", default="sam2_small")
    parser.add_argument("--prompt", choices=("mask", "click"), default="mask")
    parser.add_argument(
        "--min-share", type=float, default=0.002, help="of the picture, smaller objects are passed over"
    )
    parser.add_argument("--limit", type=int, help="clips")
    parser.add_argument("--beside", help="a SAM, or SAM 2, that follows boxes beside it")
    args = parser.parse_args()
    model, _ = load_sam2(args.checkpoint)
    ways = dict(WAYS)
    if args.beside:
        other, _ = load_segmenter(args.beside)
        ways[f"no memory: boxes, {args.beside}"] = lambda *given: without_memory(*given, other)
    scores: dict[tuple[str, str], list[RegionAndBoundary]] = {}
    clips = LabelledClips([str(args.clips)])
    for index in range(len(clips))[: args.limit]:
        clip = read_clip(clips.read(index), args.min_share)
        if not clip.masks.shape[1]:
            continue
        for way, track in ways.items():
            found = track(model, clip, args.prompt)
            for number in range(clip.masks.shape[1]):
                truth = clip.masks[:, number]
                score = score_tracks(found[1:, number], truth[1:])
                for kind in kinds_of(truth):
                    scores.setdefault((kind, way), []).append(score)
    rows = [
        [
            f"{kind} ({len(all_of)})",
            way,
            f"{np.mean([one.region for one in all_of]):.3f}",
            f"{np.mean([one.boundary for one in all_of]):.3f}",
            f"{np.mean([one.mean for one in all_of]):.3f}",
        ]
        for (kind, way), all_of in sorted(scores.items(), key=lambda item: (item[0][0], list(ways).index(item[0][1])))
    ]
    print(markdown_table(["objects", "tracked by", "J", "F", "J&F"], rows))


if __name__ == "__main__":
    main()
