import numpy as np
import torch

from models.training.augment_clip import ClipSampling, augment_clip, choose_frames

PLAIN = ClipSampling(num_frames=2, min_scale=1.0, max_squeeze=1.0, flip=0.0, colour=0.0)


def _clip() -> tuple[list[np.ndarray], np.ndarray]:
    """Two frames of 40 x 60; a white object that moves, one that leaves, and one that is too small to prompt."""
    masks = np.zeros((2, 3, 40, 60), dtype=np.bool_)
    masks[0, 0, 4:20, 4:20] = masks[1, 0, 4:20, 10:26] = True
    masks[0, 1, 24:36, 40:56] = True
    masks[:, 2, 30, 2] = True
    frames = [np.where(some.any(axis=0)[..., None], 255, 0).astype(np.uint8).repeat(3, axis=2) for some in masks]
    return frames, masks


def test_frames_are_evenly_apart_and_in_the_clip() -> None:
    rng = np.random.default_rng(0)
    how = ClipSampling(num_frames=4, max_stride=3)
    strides = set()
    for _ in range(100):
        chosen = choose_frames(10, rng, how)
        steps = set(np.diff(chosen).tolist())
        assert len(chosen) == 4 and len(steps) == 1 and min(chosen) >= 0 and max(chosen) < 10
        strides |= steps
    assert strides == {-3, -2, -1, 1, 2, 3}
    assert sorted(choose_frames(3, rng, how)) == [0, 1, 2]
    assert choose_frames(1, rng, how) == [0]


def test_an_example_is_square_and_leaves_out_what_cannot_be_prompted() -> None:
    frames, masks = _clip()
    example = augment_clip(frames, masks, "a clip", 64, 16, np.random.default_rng(0), PLAIN)
    assert example.frames.shape == (2, 3, 64, 64) and example.frames.dtype == torch.uint8
    assert example.masks.shape == (2, 2, 64, 64) and example.masks.dtype == torch.bool and example.name == "a clip"
    assert example.masks[0].flatten(1).any(1).all() and not example.masks[1, 1].any()
    for frame, some in zip(example.frames, example.masks, strict=True):
        assert (frame[0][some.any(0)] > 200).float().mean() > 0.9, "masks lie on their objects"


def test_all_frames_change_alike() -> None:
    frames, masks = _clip()
    how = PLAIN.model_copy(update={"flip": 1.0, "colour": 0.4, "min_scale": 0.9})
    example = augment_clip([frames[0]] * 2, masks[[0, 0], :1], "", 64, 16, np.random.default_rng(3), how)
    assert torch.equal(example.frames[0], example.frames[1]) and torch.equal(example.masks[0], example.masks[1])
    assert example.masks.shape[1] == 1
    columns = torch.nonzero(example.masks[0, 0].any(0)).flatten().float()
    assert columns.mean() > 32, "what was left of the middle is right of it"
    assert not torch.equal(example.frames[0][0], example.frames[0][2]), "the white has a tint"


def test_a_clip_that_shows_nothing_has_no_object() -> None:
    frames, masks = _clip()
    example = augment_clip(frames[:1], masks[:1, 2:], "", 64, 16, np.random.default_rng(0), PLAIN)
    assert example.masks.shape == (1, 0, 64, 64)
