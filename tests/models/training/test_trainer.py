import io
from pathlib import Path

import pytest
import torch

from models.sam.build import build_sam
from models.sam.config import SAM_SIZES, SamConfig
from models.sam.model import Sam
from models.training.augment import Example
from models.training.dense import DenseHead
from models.training.interactive import PromptSettings
from models.training.losses import LossWeights
from models.training.optim import NonFiniteLossError, OptimSettings
from models.training.start import align_cross_attention
from models.training.trainer import DenseSettings, Trainer, TrainerSettings
from models.weights import load_sam, save_sam

SETTINGS = TrainerSettings(
    num_steps=8,
    seed=5,
    images_per_pass=2,
    drop_path=0.2,
    prompts=PromptSettings(num_prompts=4, num_clicks=1, num_refinements=1),
    loss=LossWeights(balanced=1.0, balanced_steps=4),
    optim=OptimSettings(learning_rate=1e-3, warmup_steps=2, ema_decay=0.9),
    dense=DenseSettings(steps=1, weight=0.5, num_queries=4),
)


def _sam(config: SamConfig = SAM_SIZES["debug"]) -> Sam:
    torch.manual_seed(0)
    sam = build_sam(config)
    align_cross_attention(sam)
    return sam


def _examples(step: int, count: int = 3) -> list[Example]:
    """Bright rectangles on dark ground; the last image has no mask."""
    generator = torch.Generator().manual_seed(step)
    found = []
    for index in range(count):
        image = torch.randint(0, 60, (3, 64, 48), generator=generator, dtype=torch.uint8)
        masks = torch.zeros(2, 16, 16, dtype=torch.bool)
        for mask in masks:
            y, x = torch.randint(0, 8, (2,), generator=generator).tolist()
            mask[y : y + 5, x : x + 4] = True
            image[:, 4 * y : 4 * y + 20, 4 * x : 4 * x + 16] += torch.randint(
                60, 190, (3, 1, 1), generator=generator, dtype=torch.uint8
            )
        labels = masks if index < count - 1 else masks[:0]
        found.append(Example(image, labels, torch.ones(len(labels)), f"image {index}"))
    return found


def test_kill_and_continue_equals_an_unbroken_run() -> None:
    unbroken = Trainer(_sam(), SETTINGS)
    rows = [unbroken.step(_examples(step)) for step in range(6)]

    first = Trainer(_sam(), SETTINGS)
    for step in range(3):
        first.step(_examples(step))
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    torch.manual_seed(99)  # whatever the new process did before
    second = Trainer(_sam(), SETTINGS)
    second.load_state_dict(torch.load(buffer, weights_only=True))
    torch.rand(7)
    for step in range(3, 6):
        row = second.step(_examples(step))
        assert row.loss == pytest.approx(rows[step].loss, abs=1e-5)
        assert row.dense_loss == pytest.approx(rows[step].dense_loss, abs=1e-5)
        assert row.gradient_norm == pytest.approx(rows[step].gradient_norm, abs=1e-4)
    for name, value in unbroken.weights().items():
        assert torch.allclose(value, second.weights()[name], atol=1e-5), name


def test_passes_add_up_to_the_step() -> None:
    """One image a pass or all at once: without drop path and with the dense loss alone, the gradients are the same."""
    settings = SETTINGS.model_copy(update={"drop_path": 0.0})
    together = Trainer(_sam(), settings.model_copy(update={"images_per_pass": 4}))
    apart = Trainer(_sam(), settings.model_copy(update={"images_per_pass": 1}))
    one, other = (trainer.step(_examples(0)[:2]) for trainer in (together, apart))
    # The dense queries are drawn image after image in both cases.
    assert one.dense_loss == pytest.approx(other.dense_loss, abs=1e-5)
    assert one.gradient_norm == pytest.approx(other.gradient_norm, rel=1e-4)


def test_the_first_steps_train_the_encoder_alone() -> None:
    trainer = Trainer(_sam(), SETTINGS)
    decoder = trainer.sam.mask_decoder.mask_tokens.weight.detach().clone()
    row = trainer.step(_examples(0))
    assert row.loss is None and row.point_iou_best is None and row.dense_loss is not None
    assert torch.equal(trainer.sam.mask_decoder.mask_tokens.weight, decoder)
    row = trainer.step(_examples(1))
    assert row.loss is not None and row.num_masks == 2 * 4 * 3
    assert not torch.equal(trainer.sam.mask_decoder.mask_tokens.weight, decoder)


def test_clicks_only_in_every_second_step() -> None:
    settings = SETTINGS.model_copy(update={"clicks_every": 2, "dense": DenseSettings()})
    trainer = Trainer(_sam(), settings)
    assert [trainer.step(_examples(step)).num_masks for step in range(3)] == [24, 8, 24]


def test_images_without_masks_are_a_step_without_loss() -> None:
    trainer = Trainer(_sam(), SETTINGS.model_copy(update={"dense": DenseSettings()}))
    before = trainer.sam.image_encoder.patch_embed.proj.weight.detach().clone()
    row = trainer.step([_examples(0)[-1]])
    assert row.loss is None and row.num_masks == 0 and row.gradient_norm == 0
    assert torch.equal(trainer.sam.image_encoder.patch_embed.proj.weight, before)


def test_a_loss_that_is_no_number_stops_and_leaves_the_weights() -> None:
    trainer = Trainer(_sam(), SETTINGS)
    trainer.step(_examples(0))
    with torch.no_grad():
        trainer.sam.mask_decoder.iou_token.weight.fill_(float("nan"))
    before = {name: value.clone() for name, value in trainer.sam.state_dict().items()}
    with pytest.raises(NonFiniteLossError, match=r"step 1: prompt loss is nan on images image 0, image 1, image 2"):
        trainer.step(_examples(1))
    assert trainer.num_steps_done == 1
    for name, value in trainer.sam.state_dict().items():
        assert torch.equal(value, before[name]) or value.isnan().any()


def test_exported_weights_load_strictly(tmp_path: Path) -> None:
    trainer = Trainer(_sam(), SETTINGS)
    trainer.step(_examples(0))
    path = tmp_path / "model.safetensors"
    save_sam(path, trainer.weights(), trainer.sam.config, torch.float16)
    loaded, _ = load_sam(str(path))
    assert loaded.config == trainer.sam.config
    for name, value in trainer.weights().items():
        assert torch.allclose(loaded.state_dict()[name], value, atol=1e-3)


def test_bf16_trains() -> None:
    trainer = Trainer(_sam(), SETTINGS.model_copy(update={"bf16": True}))
    losses = [trainer.step(_examples(step)).loss for step in range(4)]
    assert losses[0] is None and all(loss is not None and 0 < loss < 50 for loss in losses[1:])
    assert {parameter.dtype for parameter in trainer.sam.parameters()} == {torch.float32}


def test_settings_refuse_nonsense() -> None:
    with pytest.raises(ValueError, match="num_steps"):
        TrainerSettings(num_steps=0)
    with pytest.raises(ValueError, match="drop_pth"):
        TrainerSettings.model_validate({"num_steps": 1, "drop_pth": 0.1})


@pytest.fixture
def overfit_examples() -> list[Example]:
    return _examples(0, 5)[:4]


@pytest.mark.slow
def test_four_images_are_learnt_by_heart(overfit_examples: list[Example]) -> None:
    config = SamConfig(
        image_size=64,
        patch_size=8,
        encoder_embed_dim=96,
        encoder_depth=3,
        encoder_num_heads=3,
        encoder_global_attn_indexes=(0, 1, 2),
        window_size=0,
        prompt_embed_dim=64,
        decoder_mlp_dim=128,
        decoder_num_heads=4,
        iou_head_hidden_dim=64,
    )
    examples = [
        Example(one.image, torch.nn.functional.interpolate(one.masks[None].float(), 32)[0] > 0.5, one.weights, one.name)
        for one in overfit_examples
    ]
    settings = TrainerSettings(
        num_steps=400,
        images_per_pass=4,
        prompts=PromptSettings(num_prompts=8, num_clicks=0, num_refinements=0),
        loss=LossWeights(balanced=1.0, balanced_steps=150),
        optim=OptimSettings(learning_rate=2e-3, warmup_steps=20, layer_decay=1.0, weight_decay=0.0),
        dense=DenseSettings(steps=50, weight=0.2, num_queries=16),
    )
    trainer = Trainer(_sam(config), settings)
    rows = [trainer.step(examples) for _ in range(settings.num_steps)]
    last = rows[-20:]
    point = sum(row.point_iou_best or 0 for row in last) / len(last)
    box = sum(row.box_iou or 0 for row in last) / len(last)
    assert point >= 0.9, f"1-point IoU {point:.3f}"
    assert box >= 0.9, f"box IoU {box:.3f}"


def test_the_dense_head_is_part_of_the_checkpoint_and_not_of_the_weights() -> None:
    trainer = Trainer(_sam(), SETTINGS)
    assert set(trainer.state_dict()["head"]) == set(DenseHead(32).state_dict())
    assert not any("metrics" in name for name in trainer.weights())
