from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from models.masks.rle import decode_masks, encode_masks
from models.tracking.follower import FollowedMasks
from models.tracking.tracks import FoundMask, Rules, Track, find_tracks, track_iou

HEIGHT, WIDTH = 20, 30
RULES = Rules(
    key_frame_every=4,
    merge_iou=0.5,
    min_component_area=3,
    max_hole_area=0,
    min_frames=2,
    min_stability=0.5,
    duplicate_iou=0.7,
    objects_at_once=2,
    max_objects=10,
)


def square(x: int, y: int = 5, side: int = 6) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y : y + side, x : x + side] = True
    return mask


def clip(*paths: list[int | None]) -> list[np.ndarray]:
    """Frames in which thing k has colour k + 1 and stands at the x that its path says, at a height of its own."""
    frames = []
    for positions in zip(*paths, strict=True):
        frame = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        for number, x in enumerate(positions):
            if x is not None:
                frame[square(x, 1 + 9 * number)] = number + 1
        frames.append(frame)
    return frames


class ByColour:
    """Follows whatever has the colour that most of an object's first mask has; exact, unlike any model."""

    def __init__(self, frames: list[np.ndarray]) -> None:
        self.frames = frames
        self.colours: dict[int, int] = {}
        self.start = 0

    def add_mask(self, frame_index: int, object_id: int, mask: torch.Tensor) -> None:
        self.colours[object_id] = int(np.bincount(self.frames[frame_index][..., 0][mask.numpy()]).argmax())
        self.start = frame_index

    def propagate(self) -> Iterator[FollowedMasks]:
        for index in range(self.start, len(self.frames)):
            shown = np.stack([self.frames[index][..., 0] == colour for colour in self.colours.values()])
            logits = torch.from_numpy(np.where(shown, 4.0, -4.0).astype(np.float32))
            scores = torch.from_numpy(np.where(shown.any((1, 2)), 2.0, -2.0))
            yield FollowedMasks(index, tuple(self.colours), logits, scores)


def find_colours(frame: np.ndarray) -> list[FoundMask]:
    colours = [int(colour) for colour in np.unique(frame[..., 0]) if colour]
    rles = encode_masks(np.stack([frame[..., 0] == colour for colour in colours])) if colours else []
    return [FoundMask(rle, 0.9 - 0.1 * one, 0.95, (1.0, 2.0)) for one, rle in enumerate(rles)]


def follow(
    frames: list[np.ndarray], rules: Rules = RULES, find: Callable[[np.ndarray], list[FoundMask]] = find_colours
) -> list[Track]:
    return find_tracks(frames, HEIGHT, WIDTH, find, lambda: ByColour(frames), rules)


def test_an_object_that_leaves_and_comes_back_is_one_track_with_empty_frames() -> None:
    (track,) = follow(clip([2, 4, None, None, 8, 10]))
    assert (track.key_frame, track.drop_reason) == (0, None)
    assert track.visible.tolist() == [True, True, False, False, True, True]
    assert track.areas == [36, 36, 0, 0, 36, 36]
    assert [score > 0 for score in track.object_scores] == track.visible.tolist()
    for index, x in ((0, 2), (5, 10)):
        np.testing.assert_array_equal(decode_masks([track.rles[index]], HEIGHT, WIDTH)[0], square(x, 1))
    assert track.at(2) is None and track.at(6) is None and track.at(5) == track.rles[5]
    assert track.stability == 1.0


def test_what_appears_later_is_found_on_the_next_key_frame_and_what_is_known_is_not_found_twice() -> None:
    tracks = follow(clip([2] * 10, [None] * 5 + [10] * 5))
    assert [(track.key_frame, len(track.rles)) for track in tracks] == [(0, 10), (8, 2)]
    assert [track.drop_reason for track in tracks] == [None, None]
    only_first = Rules(**{**vars(RULES), "key_frame_every": None})
    assert [track.key_frame for track in follow(clip([2] * 10, [None] * 5 + [10] * 5), only_first)] == [0]


def test_objects_beyond_the_limit_are_left_out_and_batches_change_nothing() -> None:
    frames = clip([2, 3, 4], [5, 6, 7])
    one_at_once = Rules(**{**vars(RULES), "objects_at_once": 1})
    assert [track.rles for track in follow(frames, one_at_once)] == [track.rles for track in follow(frames)]
    assert len(follow(frames, Rules(**{**vars(RULES), "max_objects": 1}))) == 1


def test_specks_go_and_short_tracks_are_dropped() -> None:
    frames = clip([2, None, None, None])
    frames[1][0, 29] = 1  # a component below three pixels
    (track,) = follow(frames)
    assert track.areas == [36, 0, 0, 0] and track.drop_reason == "short"
    # on a clip's last frame there is no time to be longer
    assert [track.drop_reason for track in follow(clip([None, None, None, None, 3]))] == [None]


def test_of_two_tracks_of_the_same_thing_the_better_found_stays() -> None:
    def find(frame: np.ndarray) -> list[FoundMask]:
        (mask,) = find_colours(frame)
        return [FoundMask(mask.rle, score, 0.9, (0.0, 0.0)) for score in (0.5, 0.8)]

    tracks = follow(clip([2, 3, 4]), find=find)
    assert [track.drop_reason for track in tracks] == ["duplicate", None]


def test_unstable_tracks_are_dropped() -> None:
    rules = Rules(**{**vars(RULES), "min_stability": 1.0})
    assert [track.drop_reason for track in follow(clip([2, 3, 4]), rules)] == [None]
    track = Track(0, find_colours(clip([2])[0])[0], areas=[4, 0, 4], stability_scores=[0.5, 0.0, 0.7])
    assert track.stability == pytest.approx(0.6)


def test_track_iou_by_hand() -> None:
    found = find_colours(clip([2])[0])[0]

    def track(key: int, *xs: int | None) -> Track:
        masks = np.stack([np.zeros((HEIGHT, WIDTH), bool) if x is None else square(x) for x in xs])
        return Track(key, found, encode_masks(masks), [int(mask.sum()) for mask in masks])

    # frame 0: one is seen alone; 1: half of each shared; 2: the same; 3: the other is seen alone
    overlap = track_iou([track(0, 2, 2, 2, None), track(1, 5, 2, 9)], 4, HEIGHT, WIDTH)
    shared, either = 18 + 36, 36 + 54 + 36 + 36
    np.testing.assert_allclose(overlap, [[1.0, shared / either], [shared / either, 1.0]], atol=1e-9)
