"""Against an independent implementation: `transformers.SamModel` with the same random weights."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from models.sam.checkpoints import from_hugging_face, hugging_face_config, to_hugging_face
from models.sam.config import SAM_SIZES, SamConfig
from models.sam.model import Prompts, Sam
from models.weights import convert, save_sam

TOLERANCE = 1e-4
NUM_PROMPTS = 5
DEBUG = SAM_SIZES["debug"]

Pair = tuple[Sam, transformers.SamModel]


def reference_of(sam: Sam) -> transformers.SamModel:
    sizes: dict[str, Any] = {
        key: value for key, value in hugging_face_config(sam.config).items() if key.endswith("_config")
    }
    reference = transformers.SamModel(transformers.SamConfig(**sizes)).eval().requires_grad_(False)
    reference.load_state_dict(to_hugging_face(sam.state_dict()), strict=True)
    return reference


@pytest.fixture(
    params=[
        DEBUG,
        dataclasses.replace(DEBUG, decoder_depth=3),
        dataclasses.replace(DEBUG, window_size=0),
        dataclasses.replace(DEBUG, image_size=80, num_multimask_outputs=2, iou_head_depth=4),
    ],
    ids=["two layers", "three layers", "all global", "other sizes"],
)
def pair(request: pytest.FixtureRequest, make_sam: Callable[[SamConfig], Sam]) -> Pair:
    sam = make_sam(request.param)
    return sam, reference_of(sam)


def all_prompts(sam: Sam, num_images: int, num_prompts: int) -> dict[str, dict[str, Tensor]]:
    """Every kind of prompt, each field (images, prompts, …); mask prompts are one an image in the reference."""
    generator = torch.Generator().manual_seed(1)
    size, low_res = sam.config.image_size, 4 * sam.config.embedding_size

    def pixels(*shape: int) -> Tensor:
        return torch.rand(num_images, num_prompts, *shape, generator=generator) * size

    def labels(low: int, num_points: int) -> Tensor:
        return torch.randint(low, 2, (num_images, num_prompts, num_points), generator=generator)

    boxes = pixels(2, 2).sort(dim=2).values.flatten(2)
    mask = 8 * torch.randn(num_images, 1, low_res, low_res, generator=generator)
    return {
        "one point": {"points": pixels(1, 2), "labels": labels(1, 1)},
        "several points": {"points": pixels(4, 2), "labels": labels(0, 4)},
        "padded points": {"points": pixels(4, 2), "labels": labels(-1, 4)},
        "box": {"boxes": boxes},
        "box and points": {"points": pixels(3, 2), "labels": labels(-1, 3), "boxes": boxes},
        "point and mask": {"points": pixels(2, 2), "labels": labels(0, 2), "masks": mask},
    }


def largest_differences(
    sam: Sam, reference: transformers.SamModel, num_images: int, num_prompts: int
) -> dict[str, Any]:
    """Largest absolute difference of logits or IoU, for the embedding and every kind of prompt and output."""
    size = sam.config.image_size
    images = torch.randn(num_images, 3, size, size, generator=torch.Generator().manual_seed(2))
    embeddings, expected_embeddings = sam.encode_images(images), reference.get_image_embeddings(images)
    found = {"embedding": float((embeddings - expected_embeddings).abs().max())}
    for name, fields in all_prompts(sam, num_images, num_prompts).items():
        names = {"points": "input_points", "labels": "input_labels", "boxes": "input_boxes", "masks": "input_masks"}
        for multimask in (True, False):
            expected = reference(
                image_embeddings=expected_embeddings,
                multimask_output=multimask,
                **{names[key]: value for key, value in fields.items()},
            )
            assert expected.pred_masks.std() > 0.05, "the reference is too flat to compare with"
            for image in range(num_images):
                own = {key: value[image] for key, value in fields.items() if key != "masks"}
                if "masks" in fields:
                    own["masks"] = fields["masks"][image].expand(num_prompts, 1, -1, -1)
                logits, iou = sam.predict_masks(embeddings[image][None], Prompts(**own), multimask)
                assert logits.shape == expected.pred_masks[image].shape
                difference = max(
                    (logits - expected.pred_masks[image]).abs().max(), (iou - expected.iou_scores[image]).abs().max()
                )
                key = f"{name}, {'multimask' if multimask else 'single'}"
                found[key] = max(found.get(key, 0.0), float(difference))
    return found


def test_every_kind_of_prompt_on_two_images(pair: Pair) -> None:
    found = largest_differences(*pair, num_images=2, num_prompts=NUM_PROMPTS)
    assert len(found) == 13
    assert max(found.values()) <= TOLERANCE, found


def test_one_embedding_a_prompt(pair: Pair) -> None:
    """A batch in which every prompt has an image of its own, as in training."""
    sam, reference = pair
    size = sam.config.image_size
    images = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(3))
    points = torch.tensor([[[5.0, 9.0]], [[30.0, 31.0]], [[60.0, 1.0]]])
    expected = reference(pixel_values=images, input_points=points[:, None])
    logits, iou = sam.predict_masks(sam.encode_images(images), Prompts(points=points, labels=torch.ones(3, 1)), True)
    assert (logits - expected.pred_masks[:, 0]).abs().max() <= TOLERANCE
    assert (iou - expected.iou_scores[:, 0]).abs().max() <= TOLERANCE


def test_the_reference_layout_converts_back_to_the_same_weights(pair: Pair) -> None:
    sam, reference = pair
    state = from_hugging_face(reference.state_dict())
    assert sorted(state) == sorted(sam.state_dict())
    for key, value in sam.state_dict().items():
        assert torch.equal(state[key], value), key


def test_converted_folder_opens_in_transformers(make_sam: Callable[[SamConfig], Sam], tmp_path: Path) -> None:
    sam = make_sam(DEBUG)
    save_sam(tmp_path / "own.safetensors", sam, sam.config, torch.float32)
    convert(str(tmp_path / "own.safetensors"), tmp_path / "folder")
    reference = transformers.SamModel.from_pretrained(tmp_path / "folder").eval().requires_grad_(False)
    found = largest_differences(sam, reference, num_images=1, num_prompts=2)
    assert max(found.values()) <= TOLERANCE, found


@pytest.mark.slow
def test_vit_b_at_its_published_size(make_sam: Callable[[SamConfig], Sam]) -> None:
    sam = make_sam(SAM_SIZES["vit_b"])
    reference = reference_of(sam)
    start = time.monotonic()
    found = largest_differences(sam, reference, num_images=1, num_prompts=3)
    print(f"ViT-B: largest difference {max(found.values()):.1e} in {time.monotonic() - start:.0f} s: {found}")
    assert max(found.values()) <= TOLERANCE, found
