"""The same random weights in transformers' SAM 2 and in ours."""

import pytest
import torch
from torch import Tensor
from transformers import Sam2Config, Sam2MaskDecoderConfig, Sam2Model, Sam2PromptEncoderConfig, Sam2VideoModel
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

from models.sam.prompts import Prompts
from models.sam2.model import Sam2
from models.sam2.tracker import VideoTracker

Pair = tuple[Sam2VideoModel, Sam2]
# Two objects on two frames: one point, several, and both labels.
PROMPTS = [
    (0, 1, [[20.0, 30.0]], [1]),
    (0, 2, [[50.0, 10.0], [12.0, 40.0]], [1, 0]),
    (4, 1, [[10.0, 30.0], [33.0, 3.0]], [1, 1]),
    (4, 2, [[40.0, 44.0]], [1]),
]


def their_session(theirs: Sam2VideoModel, clip: Tensor, prompts: list) -> Sam2VideoInferenceSession:
    session = Sam2VideoInferenceSession(clip, 64, 64, dtype=torch.float32)
    for frame in sorted({frame for frame, *_ in prompts}):
        for _, object_id, points, labels in (prompt for prompt in prompts if prompt[0] == frame):
            inputs = {"point_coords": torch.tensor([[points]]), "point_labels": torch.tensor([[labels]])}
            session.add_point_inputs(session.obj_id_to_idx(object_id), frame, inputs)
            session.obj_with_new_inputs.append(object_id)
        theirs(session, frame_idx=frame)
    return session


def our_tracker(ours: Sam2, clip: Tensor, prompts: list) -> VideoTracker:
    tracker = VideoTracker(ours, clip, 64, 64)
    for frame, object_id, points, labels in prompts:
        tracker.add_points(frame, object_id, torch.tensor(points), torch.tensor(labels))
    return tracker


@pytest.mark.parametrize("pair", ["same_models", "same_models_2_0"])
def test_two_objects_prompted_on_two_frames(pair: str, clip: Tensor, request: pytest.FixtureRequest) -> None:
    theirs, ours = request.getfixturevalue(pair)
    expected = list(theirs.propagate_in_video_iterator(their_session(theirs, clip, PROMPTS)))
    got = list(our_tracker(ours, clip, PROMPTS).propagate())
    assert [one.frame_index for one in got] == [one.frame_idx for one in expected] == list(range(10))
    for one, other in zip(got, expected, strict=True):
        assert one.object_ids == other.object_ids == [1, 2]
        assert one.logits.std() > 0.5
        torch.testing.assert_close(one.logits, other.pred_masks[:, 0], rtol=0, atol=1e-4)
        torch.testing.assert_close(one.object_scores, other.object_score_logits.flatten(), rtol=0, atol=1e-5)


def test_backwards_from_the_middle(same_models: Pair, clip: Tensor) -> None:
    theirs, ours = same_models
    prompts = [prompt for prompt in PROMPTS if prompt[0] == 4]
    session, tracker = their_session(theirs, clip, prompts), our_tracker(ours, clip, prompts)
    for reverse, frames in ((False, [4, 5, 6, 7, 8, 9]), (True, [4, 3, 2, 1, 0])):
        expected = list(theirs.propagate_in_video_iterator(session, 4, reverse=reverse))
        got = list(tracker.propagate(4, reverse=reverse))
        assert [one.frame_index for one in got] == [one.frame_idx for one in expected] == frames
        for one, other in zip(got, expected, strict=True):
            torch.testing.assert_close(one.logits, other.pred_masks[:, 0], rtol=0, atol=1e-4)


def test_an_object_that_is_hidden(same_models: Pair, clip: Tensor) -> None:
    theirs, ours = same_models
    biases = [
        theirs.mask_decoder.pred_obj_score_head.proj_out.bias,
        ours.sam_mask_decoder.pred_obj_score_head.layers[2].bias,
    ]
    session, tracker = their_session(theirs, clip, PROMPTS[:2]), our_tracker(ours, clip, PROMPTS[:2])
    before = biases[0].clone()
    try:
        for bias in biases:
            bias.fill_(-1.0)
        expected = list(theirs.propagate_in_video_iterator(session, max_frame_num_to_track=3))
        got = list(tracker.propagate(max_frames=4))
        for one, other in zip(got[1:], expected[1:], strict=True):
            assert (one.logits == -1024).all() and (other.pred_masks == -1024).all() and not one.to_masks(64, 64).any()
        for bias in biases:
            bias.copy_(before)
        torch.testing.assert_close(
            next(tracker.propagate(4)).logits, theirs(session, frame_idx=4).pred_masks[:, 0], rtol=0, atol=1e-4
        )
    finally:
        for bias in biases:
            bias.copy_(before)


@pytest.mark.parametrize("multimask", [True, False])
def test_image_mode(same_models: Pair, clip: Tensor, multimask: bool) -> None:
    video, ours = same_models
    config = Sam2Config(
        vision_config=video.config.vision_config,
        prompt_encoder_config=Sam2PromptEncoderConfig(hidden_size=128, image_size=64),
        mask_decoder_config=Sam2MaskDecoderConfig(
            hidden_size=128, mlp_dim=64, num_attention_heads=2, iou_head_hidden_dim=32
        ),
    )
    theirs = Sam2Model(config).eval().requires_grad_(False)
    theirs.load_state_dict({name: video.state_dict()[name] for name in theirs.state_dict()})
    points = torch.tensor([[[20.0, 30.0], [5.0, 60.0]], [[50.0, 10.0], [12.0, 40.0]]])
    labels = torch.tensor([[1, 0], [1, 1]])
    expected = theirs(clip[:1], input_points=points[None], input_labels=labels[None], multimask_output=multimask)
    (image,) = ours.embed(clip[:1])
    logits, predicted_iou = ours.predict_masks(image, Prompts(points=points, labels=labels), multimask)
    assert logits.std() > 0.5
    torch.testing.assert_close(logits, expected.pred_masks[0], rtol=0, atol=1e-4)
    torch.testing.assert_close(predicted_iou, expected.iou_scores[0], rtol=0, atol=1e-5)
    boxes = torch.tensor([[5.0, 6.0, 40.0, 50.0]])
    expected = theirs(clip[:1], input_boxes=boxes[None], multimask_output=multimask)
    logits, _ = ours.predict_masks(image, Prompts(boxes=boxes), multimask)
    torch.testing.assert_close(logits, expected.pred_masks[0], rtol=0, atol=1e-4)
