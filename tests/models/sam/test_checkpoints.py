import dataclasses
from collections.abc import Callable

import pytest
import torch

from models.sam.build import build_sam
from models.sam.checkpoints import from_hugging_face, infer_config, is_hugging_face, resize_positions, to_hugging_face
from models.sam.config import SAM_SIZES, SamConfig
from models.sam.model import Sam

DEBUG = SAM_SIZES["debug"]
IMAGE_FREQUENCIES = "shared_image_embedding.positional_embedding"
PROMPT_FREQUENCIES = "prompt_encoder.shared_embedding.positional_embedding"


def meta_state(config: SamConfig) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return build_sam(config).state_dict()


@pytest.mark.parametrize("layers", [2, 3, 5])
def test_layouts_convert_both_ways(make_sam: Callable[[SamConfig], Sam], layers: int) -> None:
    state = make_sam(dataclasses.replace(DEBUG, iou_head_depth=layers)).state_dict()
    renamed = to_hugging_face(state)
    assert is_hugging_face(renamed)
    assert not is_hugging_face(state)
    assert len(renamed) == len(state) + 1
    back = from_hugging_face(renamed)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], value) for key, value in state.items())


@pytest.mark.parametrize("dropped", [IMAGE_FREQUENCIES, PROMPT_FREQUENCIES])
def test_either_copy_of_the_frequencies_is_enough(make_sam: Callable[[SamConfig], Sam], dropped: str) -> None:
    state = make_sam(DEBUG).state_dict()
    renamed = to_hugging_face(state)
    del renamed[dropped]
    assert from_hugging_face(renamed).keys() == state.keys()


def test_copies_of_the_frequencies_that_differ_are_refused(make_sam: Callable[[SamConfig], Sam]) -> None:
    renamed = to_hugging_face(make_sam(DEBUG).state_dict())
    renamed[IMAGE_FREQUENCIES][0, 0] += 1
    with pytest.raises(ValueError, match="differ; a SAM has one set"):
        from_hugging_face(renamed)


def test_unknown_keys_stay_to_be_named_later() -> None:
    assert list(from_hugging_face({"vision_encoder.surprise": torch.zeros(1)})) == ["image_encoder.surprise"]


@pytest.mark.parametrize("name", ["vit_h", "vit_l", "vit_b", "vit_s", "vit_t"])
def test_published_sizes_are_read_off_the_shapes(name: str) -> None:
    assert infer_config(meta_state(SAM_SIZES[name])) == SAM_SIZES[name]


def test_unusual_sizes_are_read_off_the_shapes() -> None:
    config = dataclasses.replace(
        SAM_SIZES["vit_t"], image_size=512, decoder_depth=3, num_multimask_outputs=4, iou_head_depth=2, window_size=7
    )
    assert infer_config(meta_state(config)) == config


def test_all_global_attention_is_recognised() -> None:
    found = infer_config(meta_state(dataclasses.replace(SAM_SIZES["vit_t"], window_size=0)))
    assert found.window_size == 0
    assert found.encoder_global_attn_indexes == tuple(range(12))


def test_what_shapes_do_not_tell_is_asked_for() -> None:
    with pytest.raises(ValueError, match=r"decoder_num_heads: shapes do not tell it .* width 32 and MLP width 64"):
        infer_config(meta_state(DEBUG))


def test_other_weights_are_no_sam() -> None:
    with pytest.raises(ValueError, match=r"not a SAM's .*image_encoder\.pos_embed"):
        infer_config({"visual.proj": torch.zeros(1)})


def test_positions_are_interpolated_to_the_new_grid(make_sam: Callable[[SamConfig], Sam]) -> None:
    config = dataclasses.replace(DEBUG, image_size=96)
    state = make_sam(DEBUG).state_dict()
    ramp = torch.arange(4.0).view(1, 4, 1, 1).expand(1, 4, 4, 32)
    state["image_encoder.pos_embed"] = ramp
    state["image_encoder.blocks.1.attn.rel_pos_h"] = torch.arange(7.0)[:, None].expand(7, 16)
    before = {key: value.clone() for key, value in state.items()}
    resized = resize_positions(state, config)
    assert resized["image_encoder.pos_embed"].shape == (1, 6, 6, 32)
    middle = resized["image_encoder.pos_embed"][0, :, 0, 0]
    assert (middle[:-1] < middle[1:]).all()
    assert middle.mean().item() == pytest.approx(1.5)
    table = resized["image_encoder.blocks.1.attn.rel_pos_h"][:, 0]
    assert table.shape == (11,)
    assert table[5].item() == pytest.approx(3)  # no offset stays no offset
    assert table[0].item() == pytest.approx(0)
    assert resized["image_encoder.blocks.0.attn.rel_pos_h"] is state["image_encoder.blocks.0.attn.rel_pos_h"]
    assert all(torch.equal(state[key], value) for key, value in before.items())
    sam = build_sam(config).eval()
    sam.load_state_dict(resized, strict=True)
    assert sam.encode_images(torch.zeros(1, 3, 96, 96)).shape == (1, 32, 6, 6)


def test_positions_that_fit_are_left_alone(make_sam: Callable[[SamConfig], Sam]) -> None:
    state = make_sam(DEBUG).state_dict()
    assert all(value is state[key] for key, value in resize_positions(state, DEBUG).items())
