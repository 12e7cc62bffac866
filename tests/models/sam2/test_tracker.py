import pytest
import torch
from torch import Tensor

from models.sam2.model import Sam2
from models.sam2.tracker import VideoTracker

POINT, LABEL = torch.tensor([[40.0, 20.0]]), torch.tensor([1])


def square(top: int, left: int) -> Tensor:
    mask = torch.zeros(48, 96, dtype=torch.bool)
    mask[top : top + 20, left : left + 20] = True
    return mask


def test_objects_tracked_together_are_as_tracked_alone(sam2: Sam2, clip: Tensor) -> None:
    together = VideoTracker(sam2, clip, 48, 96)
    alone = [VideoTracker(sam2, clip, 48, 96) for _ in range(3)]
    for tracker, ids in [(together, [0, 1, 2]), *[(one, [index]) for index, one in enumerate(alone)]]:
        for object_id in ids:  # the last one is prompted later, so that its memories have another structure
            tracker.add_mask(3 if object_id == 2 else 0, object_id, square(5, 20 * object_id))
    for masks, *others in zip(together.propagate(0), *[one.propagate(0) for one in alone], strict=True):
        logits = torch.cat([other.logits for other in others])
        torch.testing.assert_close(masks.logits, logits, rtol=0, atol=1e-4)
        assert masks.to_masks(48, 96).shape == (3, 48, 96)


def test_half_precision_roughly_agrees(sam2: Sam2, clip: Tensor) -> None:
    exact, rough = VideoTracker(sam2, clip, 48, 96), VideoTracker(sam2, clip, 48, 96, "fp16")
    for tracker in (exact, rough):
        tracker.add_mask(0, 1, square(10, 50))
        tracker.add_points(0, 2, POINT, LABEL)
    for one, other in zip(exact.propagate(), rough.propagate(), strict=True):
        assert other.logits.dtype == torch.float32
        difference = (one.logits - other.logits).abs()
        assert difference.mean() < 0.02 * one.logits.std()
        assert one.frame_index == 0 or difference.max() > 0, "fp16 was not used"


def test_a_mask_is_its_own_answer(sam2: Sam2, clip: Tensor) -> None:
    mask = square(10, 50)
    got = VideoTracker(sam2, clip, 48, 96).add_mask(0, 7, mask).to_masks(48, 96)[0]
    assert ((got & mask).sum() / (got | mask).sum()) > 0.8  # a low resolution of 16 x 16
    empty = VideoTracker(sam2, clip, 48, 96).add_mask(0, 7, torch.zeros_like(mask))
    assert empty.object_scores[0] == -10 and not empty.to_masks(48, 96).any()


def test_a_correction_is_kept_and_changes_what_follows(sam2: Sam2, clip: Tensor) -> None:
    tracker = VideoTracker(sam2, clip, 48, 96)
    tracker.add_points(0, 1, POINT, LABEL)
    before = {one.frame_index: one.logits for one in tracker.propagate()}
    corrected = tracker.add_points(9, 1, torch.tensor([[60.0, 30.0]]), torch.tensor([0]))
    assert not torch.equal(corrected.logits, before[9])
    after = {one.frame_index: one.logits for one in tracker.propagate(8)}
    torch.testing.assert_close(after[9], corrected.logits)
    assert not torch.allclose(after[8], before[8])


def test_an_earlier_answer_is_fed_back(sam2: Sam2, clip: Tensor) -> None:
    def second(previous: Tensor | None) -> Tensor:
        return VideoTracker(sam2, clip, 48, 96).add_points(0, 1, POINT, LABEL, previous=previous).logits

    tracker = VideoTracker(sam2, clip, 48, 96)
    first = tracker.add_points(0, 1, POINT, LABEL)
    again = tracker.add_points(0, 1, POINT, LABEL)
    assert not torch.allclose(again.logits, first.logits)
    torch.testing.assert_close(again.logits, second(first.logits[0]))
    torch.testing.assert_close(first.logits, second(None))


def test_frames_are_asked_for_once_each(sam2: Sam2, clip: Tensor) -> None:
    class Counting:
        def __init__(self) -> None:
            self.asked: list[int] = []

        def __len__(self) -> int:
            return len(clip)

        def __getitem__(self, index: int, /) -> Tensor:
            self.asked.append(index)
            return clip[index]

    frames = Counting()
    tracker = VideoTracker(sam2, frames, 48, 96)
    tracker.add_points(2, 1, POINT, LABEL)
    tracker.add_points(2, 2, box=(10, 10, 50, 40))
    assert [one.frame_index for one in tracker.propagate(max_frames=4)] == [2, 3, 4, 5]
    assert frames.asked == [2, 3, 4, 5]


def test_objects_come_and_go(sam2: Sam2, clip: Tensor) -> None:
    tracker = VideoTracker(sam2, clip, 48, 96)
    tracker.add_points(0, 5, POINT, LABEL)
    assert [one.object_ids for one in tracker.propagate(max_frames=3)] == [[5]] * 3
    tracker.add_mask(3, 8, square(0, 0))
    assert [one.object_ids for one in tracker.propagate(3, max_frames=2)] == [[5, 8]] * 2
    tracker.remove_object(5)
    assert next(tracker.propagate(5)).object_ids == [8]


def test_mistakes_are_named(sam2: Sam2, clip: Tensor) -> None:
    tracker = VideoTracker(sam2, clip, 48, 96)
    with pytest.raises(ValueError, match="propagate: nothing to track"):
        next(tracker.propagate())
    with pytest.raises(ValueError, match="frame_index: 10 is not in the clip; use 0 to 9"):
        tracker.add_points(10, 1, POINT, LABEL)
    with pytest.raises(ValueError, match="points: neither"):
        tracker.add_points(0, 1)
    with pytest.raises(ValueError, match=r"mask: shape \(96, 48\)"):
        tracker.add_mask(0, 1, square(0, 0).T)
    with pytest.raises(ValueError, match="object_id: there is no object 3"):
        tracker.remove_object(3)
    assert tracker.object_ids == []
