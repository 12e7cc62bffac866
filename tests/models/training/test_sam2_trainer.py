import io

import pytest
import torch

from models.evaluation.video import score_tracks
from models.sam.build import build_sam
from models.sam.config import SAM_SIZES
from models.sam2.build import build_sam2
from models.sam2.config import SAM2_SIZES
from models.sam2.model import Sam2
from models.sam2.tracker import VideoTracker
from models.training.augment import Example
from models.training.clip_pass import ClipExample, ClipLossWeights, ClipPass, ClipPromptSettings
from models.training.interactive import PromptSettings
from models.training.optim import NonFiniteLossError, OptimSettings
from models.training.sam2_trainer import Sam2Trainer, Sam2TrainerSettings
from models.training.start import match_memories, take_over

SIDE = SAM2_SIZES["debug"].image_size
TRACKED = ClipPromptSettings(mask_share=1.0, corrected_share=0.0)
SETTINGS = Sam2TrainerSettings(
    num_steps=8,
    seed=3,
    prompts=PromptSettings(num_prompts=4, num_clicks=1, num_refinements=0),
    clips=ClipPromptSettings(corrected_share=0.5),
    loss=ClipLossWeights(focal=6.0, dice=3.0),
    optim=OptimSettings(learning_rate=2e-3, layer_decay=1.0, warmup_steps=3, ema_decay=0.8),
)


def _model() -> Sam2:
    torch.manual_seed(0)
    model = build_sam2(SAM2_SIZES["debug"])
    match_memories(model)
    return model


def _clip(num_frames: int = 4, hidden: int | None = None) -> ClipExample:
    """A red square and a green one on dark ground, that move towards each other; on frame `hidden` without the red."""
    frames = torch.full((num_frames, 3, SIDE, SIDE), 40, dtype=torch.uint8)
    masks = torch.zeros(num_frames, 2, SIDE, SIDE, dtype=torch.bool)
    for index in range(num_frames):
        masks[index, 1, 36:56, 40 - 3 * index : 60 - 3 * index] = True
        if index != hidden:
            masks[index, 0, 8:28, 4 + 3 * index : 24 + 3 * index] = True
        for mask, colour in zip(masks[index], ((220, 40, 40), (40, 200, 60)), strict=True):
            frames[index, :, mask] = torch.tensor(colour, dtype=torch.uint8)[:, None]
    return ClipExample(frames, masks, "two squares")


def _pictures(step: int) -> list[Example]:
    """A bright rectangle on dark ground each; the last has no mask."""
    generator = torch.Generator().manual_seed(step)
    found = []
    for index in range(3):
        image = torch.randint(0, 60, (3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
        masks = torch.zeros(1, SIDE // 4, SIDE // 4, dtype=torch.bool)
        y, x = torch.randint(0, 10, (2,), generator=generator).tolist()
        masks[0, y : y + 5, x : x + 4] = True
        image[:, 4 * y : 4 * y + 20, 4 * x : 4 * x + 16] += 150
        masks = masks if index < 2 else masks[:0]
        found.append(Example(image, masks, torch.ones(len(masks)), f"picture {index}"))
    return found


def _pass(
    model: Sam2,
    clip: ClipExample,
    prompts: ClipPromptSettings = TRACKED,
    weights: ClipLossWeights = ClipLossWeights(),  # noqa: B008
) -> ClipPass:
    return ClipPass(model, clip, prompts, weights, 0, torch.Generator().manual_seed(0))


class _Frames:
    def __init__(self, model: Sam2, clip: ClipExample) -> None:
        self.pixels = model.preprocess(clip.frames)

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.pixels[index]


def _track(model: Sam2, clip: ClipExample) -> tuple[torch.Tensor, torch.Tensor]:
    """Masks (T, 2, S, S) and object scores (T, 2), the first frame's masks given."""
    tracker = VideoTracker(model.eval(), _Frames(model, clip), SIDE, SIDE)
    for number, mask in enumerate(clip.masks[0]):
        tracker.add_mask(0, number, mask)
    found = list(tracker.propagate())
    return torch.stack([one.to_masks(SIDE, SIDE) for one in found]), torch.stack([one.object_scores for one in found])


def test_a_clip_is_learnt_by_heart() -> None:
    clip = _clip(4, hidden=2)
    optim = OptimSettings(learning_rate=1e-3, layer_decay=1.0, warmup_steps=5, weight_decay=0.0)
    settings = SETTINGS.model_copy(update={"num_steps": 160, "clips": TRACKED, "optim": optim})
    trainer = Sam2Trainer(_model(), settings)
    rows = [trainer.step([], [clip]) for _ in range(120)]
    assert rows[0].loss is not None and rows[-1].loss is not None and rows[-1].loss < 0.5 * rows[0].loss
    masks, scores = _track(trainer.model, clip)
    found, truth = masks.numpy(), clip.masks.numpy()
    assert score_tracks(found[1:, 1], truth[1:, 1]).region > 0.8
    assert score_tracks(found[3:, 0], truth[3:, 0]).region > 0.7, "it is back as soon as it is in sight again"
    assert scores[2, 0] < 0 < scores[3, 0]


def test_kill_and_continue_equals_an_unbroken_run() -> None:
    clips = [_clip(), _clip(num_frames=2), _clip(num_frames=1)]
    unbroken = Sam2Trainer(_model(), SETTINGS)
    rows = [unbroken.step(_pictures(step), [clips[step % 3], clips[0]]) for step in range(4)]
    first = Sam2Trainer(_model(), SETTINGS)
    for step in range(2):
        first.step(_pictures(step), [clips[step % 3], clips[0]])
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    torch.manual_seed(99)  # whatever the new process did before
    second = Sam2Trainer(_model(), SETTINGS)
    second.load_state_dict(torch.load(buffer, weights_only=True))
    for step in range(2, 4):
        row = second.step(_pictures(step), [clips[step % 3], clips[0]])
        assert row.loss == pytest.approx(rows[step].loss, abs=1e-5)
        assert row.gradient_norm == pytest.approx(rows[step].gradient_norm, rel=1e-4)
    for name, value in unbroken.weights().items():
        assert torch.allclose(value, second.weights()[name], atol=1e-5), name


def test_a_picture_is_a_clip_of_one_frame() -> None:
    """There is nothing to remember, so nothing of the memory learns; its first prompt is never the mask itself."""
    model = _model()
    loss, tally = _pass(model, _clip(1), ClipPromptSettings(mask_share=1.0)).run()
    loss.backward()
    assert tally.num_first == tally.num_scores == 2 and tally.num_tracked == 0
    assert all(value.grad is None for value in model.memory_attention.parameters())
    assert all(value.grad is None for value in model.memory_encoder.parameters())
    assert model.image_encoder.trunk.patch_embed.proj.weight.grad is not None
    assert model.mask_decoder.conv_s0.weight.grad is not None, "the finer features learn as well"


def test_a_clip_is_tracked_as_by_the_tracker() -> None:
    model, clip = _model(), _clip(4)
    trained = _pass(model, clip)
    trained.run()
    tracker = VideoTracker(model.eval(), _Frames(model, clip), SIDE, SIDE)
    for number, mask in enumerate(clip.masks[0]):
        tracker.add_mask(0, number, mask)
    for found in list(tracker.propagate())[1:3]:  # the last frame is not remembered in training
        memories = [bank.tracked[found.frame_index] for bank in trained.banks]
        for memory, logits, score in zip(memories, found.logits, found.object_scores, strict=True):
            assert memory.logits is not None and memory.logits.std() > 0
            assert torch.allclose(memory.logits, logits, atol=1e-3)
            assert float(memory.object_score.detach()) == pytest.approx(float(score), abs=1e-3)


def test_the_memory_learns_from_the_frames_after_it() -> None:
    model = _model()
    loss, tally = _pass(model, _clip(3)).run()
    loss.backward()
    assert (tally.num_first, tally.num_tracked, tally.num_scores) == (0, 4, 4)
    for name in (
        "memory_encoder.mask_downsampler.encoder.0.weight",
        "maskmem_tpos_enc",
        "obj_ptr_proj.layers.0.weight",
    ):
        gradient = model.get_parameter(name).grad
        assert gradient is not None and gradient.abs().sum() > 0, name


def test_out_of_sight_the_occlusion_score_alone_learns() -> None:
    clip = _clip(2)
    clip.masks[1] = False
    loss, tally = _pass(_model(), clip, weights=ClipLossWeights(occlusion=0.0)).run()
    assert float(loss.detach()) == 0.0 and tally.num_scores == 2 and tally.num_tracked == 0
    with_score, _ = _pass(_model(), clip).run()
    assert float(with_score.detach()) > 1.0, "a fresh model takes every object to be in sight"


def test_a_corrected_frame_is_asked_twice() -> None:
    _, tally = _pass(_model(), _clip(4), ClipPromptSettings(mask_share=1.0, corrected_share=1.0)).run()
    assert (tally.num_first, tally.num_tracked, tally.num_scores) == (2, 6, 8)


def test_a_loss_that_is_no_number_leaves_the_weights() -> None:
    trainer = Sam2Trainer(_model(), SETTINGS)
    with torch.no_grad():
        trainer.model.mask_decoder.conv_s0.bias.fill_(float("nan"))
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    with pytest.raises(NonFiniteLossError, match=r"step 0: loss is nan on two squares; continue from"):
        trainer.step([], [_clip()])
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, before[name]) or value.isnan().any(), name


def test_the_encoder_begins_by_imitating_a_teacher() -> None:
    """It comes closer to the teacher's embedding step by step; then pictures prompt what it took over."""
    torch.manual_seed(1)
    teacher = build_sam(SAM_SIZES["debug"]).eval().requires_grad_(False)
    model = _model()
    take_over(model, teacher)
    assert torch.equal(model.mask_decoder.iou_token.weight, teacher.mask_decoder.iou_token.weight)
    assert torch.equal(
        model.mask_decoder.transformer.layers[0].mlp.layers[1].weight,
        teacher.mask_decoder.transformer.layers[0].mlp.lin2.weight,
    )
    assert not model.mask_decoder.conv_s0.weight.any(), "the finer features begin without a say"
    settings = SETTINGS.model_copy(update={"num_steps": 20, "imitate_steps": 12})
    trainer = Sam2Trainer(model, settings, teacher)
    rows = [trainer.step(_pictures(0)) for _ in range(13)]
    losses = [row.imitation_loss for row in rows[:12]]
    assert all(one is not None for one in losses) and losses[11] < 0.8 * losses[0]
    assert rows[11].picture_loss is None and rows[12].imitation_loss is None
    assert rows[12].picture_loss is not None and rows[12].num_masks == 16
