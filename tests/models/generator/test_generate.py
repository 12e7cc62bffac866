import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from pycocotools import mask as coco_mask

from models.generator.candidates import Candidates
from models.generator.dense_scan import DenseScan
from models.generator.generate import MaskGenerator, resize_longest_side
from models.generator.grid import crop_boxes
from models.generator.image_prompts import ImagePrompts
from models.generator.settings import GenerateSettings
from models.masks.rle import areas, bounding_boxes, decode_masks
from models.sam.build import build_sam
from models.sam.config import SAM_SIZES
from models.sam.model import Prompts, Sam

POINTS_PER_SIDE = 4


@pytest.fixture(scope="module")
def sam() -> Sam:
    """Random weights; the last decoder layers are scaled up so that masks have clear borders and scores spread."""
    torch.manual_seed(3)
    sam = build_sam(SAM_SIZES["debug"]).eval().requires_grad_(False)
    torch.nn.init.normal_(sam.image_encoder.pos_embed, std=0.5)
    for mlp in sam.mask_decoder.output_hypernetworks_mlps:
        mlp.layers[-1].weight.mul_(400)
    sam.mask_decoder.iou_prediction_head.layers[-1].weight.mul_(10)
    return sam


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


@dataclass
class Output:
    """One decoder output as the naive generator sees it."""

    number: int
    predicted_iou: float
    stability: float
    point: tuple[float, float]
    crop_box: tuple[int, int, int, int]
    layer: int
    mask_index: int
    logits: np.ndarray  # of the whole image, far below zero outside the crop
    low: np.ndarray  # the low-resolution mask, without its padding


def naive_outputs(sam: Sam, image: np.ndarray, settings: GenerateSettings) -> list[Output]:
    """Every decoder output of every point, one at a time and dense."""
    found = []
    height, width = image.shape[:2]
    size = sam.config.image_size
    for crop_index, crop in enumerate(crop_boxes(height, width, settings.layers, settings.crop_overlap_ratio)):
        x0, y0, x1, y1 = crop.box
        scale = size / max(x1 - x0, y1 - y0)
        new = max(1, round((x1 - x0) * scale)), max(1, round((y1 - y0) * scale))
        resized = np.array(Image.fromarray(image[y0:y1, x0:x1]).resize(new, Image.Resampling.BILINEAR))
        embedding = sam.encode_images(sam.preprocess(torch.from_numpy(resized).permute(2, 0, 1)[None]))
        side = settings.points_per_side // settings.crop_n_points_downscale_factor**crop.layer
        for index in range(side * side):
            x, y = (index % side + 0.5) / side, (index // side + 0.5) / side
            prompt = Prompts(torch.tensor([[[x * new[0], y * new[1]]]], dtype=torch.float32), torch.ones(1, 1))
            low, predicted = sam.predict_masks(embedding, prompt, multimask_output=True)
            padded = F.interpolate(low, (size, size), mode="bilinear", align_corners=False)[..., : new[1], : new[0]]
            rows, columns = (math.ceil(low.shape[-1] * length / size) for length in reversed(new))
            full = F.interpolate(padded, (y1 - y0, x1 - x0), mode="bilinear", align_corners=False)[0].numpy()
            for mask_index in range(3):
                logits = np.full((height, width), -1e3, np.float32)
                logits[y0:y1, x0:x1] = full[mask_index]
                outer = (full[mask_index] > -settings.stability_score_offset).sum()
                inner = (full[mask_index] > settings.stability_score_offset).sum()
                found.append(
                    Output(
                        number=(crop_index * settings.points_per_side**2 + index) * 3 + mask_index,
                        predicted_iou=float(predicted[0, mask_index]),
                        stability=float(inner / outer) if outer else 0.0,
                        point=(x0 + x * (x1 - x0), y0 + y * (y1 - y0)),
                        crop_box=(x0, y0, x1 - x0, y1 - y0),
                        layer=crop.layer,
                        mask_index=mask_index,
                        logits=logits,
                        low=low[0, mask_index, :rows, :columns].numpy() > 0,
                    )
                )
    return found


def between(values: Sequence[float], fraction: float) -> float:
    """A threshold about `fraction` of the way up, in the widest gap there, so that rounding moves no value over it."""
    ordered = np.sort(np.array(values))
    middle = int(fraction * len(ordered))
    start = max(0, middle - 10)
    gaps = np.diff(ordered[start : middle + 10])
    best = start + int(gaps.argmax())
    assert gaps.max() > 1e-4
    return float((ordered[best] + ordered[best + 1]) / 2)


def agreeing(output: Output, others: list[Output], iou_threshold: float) -> int:
    """The candidates of its crop that say the same."""
    lows = [other.low for other in others if other.crop_box == output.crop_box]
    return sum((output.low & low).sum() >= iou_threshold * (output.low | low).sum() > 0 for low in lows)


def assert_same(one: Candidates, other: Candidates, tolerance: float = 1e-4) -> None:
    assert np.array_equal(one.number, other.number)
    assert np.allclose(one.predicted_iou, other.predicted_iou, atol=tolerance)
    assert np.allclose(one.stability_score, other.stability_score, atol=0.01)
    for name in ("point", "crop_box", "crop_layer", "mask_index"):
        assert np.array_equal(getattr(one, name), getattr(other, name))
    first, second = (decode_masks(each.rles, each.height, each.width) for each in (one, other))
    assert (first != second).mean() < 1e-3


@pytest.mark.parametrize(
    ("layers", "downscale", "shape"),
    [((0,), 1, (45, 70)), ((0, 1), 2, (100, 60)), ((1, 2), 2, (90, 130)), ((0, 1, 2), 2, (64, 64))],
)
def test_equals_a_naive_dense_generator(sam: Sam, layers: tuple[int, ...], downscale: int, shape: tuple) -> None:
    settings = GenerateSettings(
        points_per_side=POINTS_PER_SIDE,
        layers=layers,
        crop_n_points_downscale_factor=downscale,
        agreement_iou=0.7,
    )
    image = picture(*shape)
    outputs = naive_outputs(sam, image, settings)
    num_crops = sum(4**layer for layer in layers)
    assert len({output.crop_box for output in outputs}) == num_crops
    assert len({output.number for output in outputs}) == len(outputs)
    min_iou = between([output.predicted_iou for output in outputs], 0.4)
    passed = [output for output in outputs if output.predicted_iou > min_iou]
    min_stability = between([output.stability for output in passed], 0.3)
    passed = [output for output in passed if output.stability > min_stability]
    assert len(passed) >= 20

    [found] = MaskGenerator(sam, settings, min_iou, min_stability, points_per_batch=5).generate([image])

    assert (found.height, found.width) == shape and len(found) == len(passed)
    assert found.number.tolist() == [output.number for output in passed]
    assert np.allclose(found.predicted_iou, [output.predicted_iou for output in passed], atol=1e-4)
    assert np.allclose(found.point, [output.point for output in passed], atol=1e-4)
    assert found.crop_box.tolist() == [list(output.crop_box) for output in passed]
    assert found.crop_layer.tolist() == [output.layer for output in passed]
    assert found.mask_index.tolist() == [output.mask_index for output in passed]
    assert found.agreement is not None and found.agreement.max() > 2
    assert found.agreement.tolist() == [agreeing(output, passed, 0.7) for output in passed]
    masks = decode_masks(found.rles, *shape)
    for output, mask, rle, stability in zip(passed, masks, found.rles, found.stability_score, strict=True):
        sure = np.abs(output.logits) > 1e-3 * max(1.0, float(output.logits.max()))
        assert np.array_equal(mask[sure], (output.logits > 0)[sure])
        assert (~sure).mean() < 0.02
        assert abs(stability - output.stability) < 0.01
        assert coco_mask.encode(np.asfortranarray(mask))["counts"] == rle
    assert np.array_equal(found.area, masks.sum((1, 2))) and found.area.min() > 0
    assert np.array_equal(found.area, areas(found.rles))
    assert np.array_equal(found.bbox, bounding_boxes(found.rles, shape[0]))


def test_column_types(sam: Sam) -> None:
    settings = GenerateSettings(points_per_side=2)
    [found] = MaskGenerator(sam, settings, -1e9, 0.0).generate([picture(30, 40)])
    kinds = {
        "number": np.int64,
        "bbox": np.int32,
        "area": np.int64,
        "predicted_iou": np.float32,
        "stability_score": np.float32,
        "point": np.float32,
        "crop_box": np.int32,
        "crop_layer": np.int8,
        "mask_index": np.int8,
    }
    assert len(found) > 0
    for name, kind in kinds.items():
        column = getattr(found, name)
        assert column.dtype == kind and len(column) == len(found)
        assert column.shape[1:] == {"bbox": (4,), "crop_box": (4,), "point": (2,)}.get(name, ())


@pytest.mark.parametrize("points_per_batch", [1, 7, 64])
@pytest.mark.parametrize("crops_per_batch", [1, 3])
def test_batch_sizes_and_neighbours_do_not_change_the_masks(
    sam: Sam, points_per_batch: int, crops_per_batch: int
) -> None:
    settings = GenerateSettings(points_per_side=POINTS_PER_SIDE, layers=(0, 1))
    images = [picture(45, 70, 1), picture(80, 33, 2), picture(64, 64, 3)]
    scores = np.concatenate([one.predicted_iou for one in MaskGenerator(sam, settings, -1e9, 0.0, 16).generate(images)])
    min_iou = between(scores.tolist(), 0.5)
    alone = [MaskGenerator(sam, settings, min_iou, 0.0, 16).generate([image])[0] for image in images]
    together = MaskGenerator(sam, settings, min_iou, 0.0, points_per_batch, crops_per_batch).generate(images)
    assert min(len(one) for one in together) > 10
    for one, other in zip(alone, together, strict=True):
        assert_same(one, other)


def test_whole_image_operations_find_the_same(sam: Sam, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path that a GPU takes, on the CPU."""
    settings = GenerateSettings(points_per_side=POINTS_PER_SIDE, layers=(0, 1))
    images = [picture(45, 70, 1), picture(80, 33, 2)]
    generator = MaskGenerator(sam, settings, -1e9, 0.3)
    expected = generator.generate(images)
    strips = MaskGenerator._scanner
    monkeypatch.setattr(
        MaskGenerator,
        "_scanner",
        lambda self, job, height: DenseScan(strips(self, job, height).upsampler, torch.device("cpu")),
    )
    for one, other in zip(generator.generate(images), expected, strict=True):
        assert len(one) > 20
        assert_same(one, other)


def test_full_blocks_find_the_same(sam: Sam) -> None:
    """A compiled model is given as many prompts and as many crops every time, after running out of memory too."""
    settings = GenerateSettings(points_per_side=3, layers=(0, 1), crop_n_points_downscale_factor=3)
    expected = MaskGenerator(sam, settings, -1e9, 0.3).generate([picture(45, 70, 1)])
    generator = MaskGenerator(sam, settings, -1e9, 0.3, points_per_batch=4, crops_per_batch=3)
    generator.full_blocks = True
    seen: list[list[int]] = [[], []]
    parts = (sam.image_encoder, sam.mask_decoder.transformer)
    hooks = [
        part.register_forward_pre_hook(lambda _, inputs, sizes=sizes: sizes.append(len(inputs[0])))
        for part, sizes in zip(parts, seen, strict=True)
    ]
    assert_same(generator.generate([picture(45, 70, 1)])[0], expected[0])
    assert seen == [[3, 3], [4] * 7]
    assert_same(generator.smaller(2).generate([picture(45, 70, 1)])[0], expected[0])
    assert seen[1][7:] == [2] * 9
    for hook in hooks:
        hook.remove()


def test_a_block_has_as_many_prompts_to_the_end(sam: Sam, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU, where the memory that is free changes with every block."""
    fitting = iter((4, 1))
    monkeypatch.setattr("models.generator.generate.prompts_per_block", lambda *_: next(fitting))
    generator = MaskGenerator(sam, GenerateSettings(points_per_side=3), -1e9, 0.3)
    blocks = []
    hook = sam.mask_decoder.transformer.register_forward_pre_hook(lambda _, inputs: blocks.append(len(inputs[0])))
    generator.generate([picture(45, 70, 1), picture(30, 30, 2)])
    hook.remove()
    assert blocks == [4, 4, 1] * 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # of the compiler's own code
@pytest.mark.parametrize("options", [{}, {"backend": "eager", "fullgraph": True}], ids=["compiled", "one graph"])
def test_compiled_it_finds_the_same(sam: Sam, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    settings = GenerateSettings(points_per_side=3)
    expected = MaskGenerator(sam, settings, -1e9, 0.3).generate([picture(45, 70, 1)])
    generator = MaskGenerator(copy.deepcopy(sam), settings, -1e9, 0.3, points_per_batch=4)
    compile_module = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **given: compile_module(self, **{**given, **options}))
    generator.compile()
    assert_same(generator.generate([picture(45, 70, 1)])[0], expected[0])


def test_no_candidates_and_no_images(sam: Sam) -> None:
    settings = GenerateSettings(points_per_side=2, layers=(0, 1))
    generator = MaskGenerator(sam, settings, 1e9, 0.0)
    assert generator.generate([]) == []
    found = generator.generate([picture(20, 30), picture(1, 1)])
    assert [len(one) for one in found] == [0, 0]
    assert (found[0].height, found[0].width) == (20, 30)
    assert found[0].bbox.shape == found[0].crop_box.shape == (0, 4) and found[0].point.shape == (0, 2)
    assert found[0].rles == [] and found[0].number.shape == found[0].area.shape == (0,)
    # every score is good enough, no mask is
    [found_unstable] = MaskGenerator(sam, settings, -1e9, 1.1).generate([picture(20, 30)])
    assert len(found_unstable) == 0


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (2, 3), (1, 5000)])
@pytest.mark.parametrize("layers", [(0,), (0, 1, 2)])
def test_tiny_and_thin_images(sam: Sam, shape: tuple[int, int], layers: tuple[int, ...]) -> None:
    settings = GenerateSettings(points_per_side=2, layers=layers, crop_n_points_downscale_factor=2)
    [found] = MaskGenerator(sam, settings, -1e9, 0.0).generate([picture(*shape)])
    assert len(found) > 0 and len(set(found.number.tolist())) == len(found)
    masks = decode_masks(found.rles, *shape)
    assert masks.any((1, 2)).all()
    height, width = shape
    assert ((found.point >= 0) & (found.point <= [width, height])).all()
    x, y, w, h = found.crop_box.T
    assert (x >= 0).all() and (y >= 0).all() and (x + w <= width).all() and (y + h <= height).all()
    for mask, (left, top, wide, high) in zip(masks, found.crop_box.tolist(), strict=True):
        mask[top : top + high, left : left + wide] = 0
        assert not mask.any(), "a mask stays in its crop"


def test_floors_are_respected_and_numbers_do_not_depend_on_them(sam: Sam) -> None:
    settings = GenerateSettings(points_per_side=POINTS_PER_SIDE, layers=(0, 1))
    image = picture(60, 80)
    [everything] = MaskGenerator(sam, settings, -1e9, 0.0).generate([image])
    min_iou = float(np.median(everything.predicted_iou))
    min_stability = float(np.median(everything.stability_score))
    [some] = MaskGenerator(sam, settings, min_iou, min_stability).generate([image])
    assert 0 < len(some) < len(everything)
    assert some.predicted_iou.min() >= min_iou and some.stability_score.min() >= min_stability
    chosen = (everything.predicted_iou >= min_iou) & (everything.stability_score >= min_stability)
    assert some.number.tolist() == everything.number[chosen].tolist()
    assert some.rles == [rle for rle, take in zip(everything.rles, chosen, strict=True) if take]


def test_bf16_roughly_agrees(sam: Sam) -> None:
    image = picture(60, 80)
    [exact] = MaskGenerator(sam, GenerateSettings(points_per_side=4), -1e9, 0.0).generate([image])
    [rough] = MaskGenerator(sam, GenerateSettings(points_per_side=4, precision="bf16"), -1e9, 0.0).generate([image])
    common, first, second = np.intersect1d(exact.number, rough.number, return_indices=True)
    assert len(common) >= 0.9 * len(exact)
    scores, rough_scores = exact.predicted_iou[first], rough.predicted_iou[second]
    assert not np.array_equal(scores, rough_scores), "bf16 was not used"
    assert np.abs(scores - rough_scores).mean() < 0.1 * np.std(exact.predicted_iou) + 0.05
    ones, others = decode_masks(exact.rles, 60, 80)[first], decode_masks(rough.rles, 60, 80)[second]
    assert (ones != others).mean() < 0.05


def test_the_longest_side_is_resized_as_published() -> None:
    assert resize_longest_side(picture(45, 70), 64).shape == (41, 64, 3)
    assert resize_longest_side(picture(70, 45), 64).shape == (64, 41, 3)
    assert resize_longest_side(picture(3, 700), 64).shape == (1, 64, 3)  # 0.27 rounds to 0
    assert resize_longest_side(picture(1, 1), 64).shape == (64, 64, 3)
    assert resize_longest_side(picture(75, 64), 150).shape == (150, 128, 3)
    same = picture(64, 30)
    assert np.array_equal(resize_longest_side(same, 64), same)
    expected = np.array(Image.fromarray(same[:, ::-1].copy()).resize((15, 32), Image.Resampling.BILINEAR))
    assert np.array_equal(resize_longest_side(same[:, ::-1], 32), expected)


def test_boxes_and_points_of_an_image_against_the_model_itself(sam: Sam) -> None:
    image = picture(70, 90, seed=4)
    boxes, points = [[5.0, 8.0, 60.0, 64.5], [-3.0, 2.0, 95.0, 69.0]], [[30.0, 20.0]]
    generator = MaskGenerator(sam, GenerateSettings(points_per_side=2, layers=(0, 1)), -1e9, 0.0, points_per_batch=1)
    [found] = generator.generate([image], [ImagePrompts.of(boxes, points, 70, 90)])
    resized = torch.from_numpy(resize_longest_side(image, sam.config.image_size)).permute(2, 0, 1)
    embedding = sam.encode_images(sam.preprocess(resized[None]))
    scale = torch.tensor([resized.shape[2] / 90, resized.shape[1] / 70] * 2)
    # the second box is cut to the image
    asked = Prompts(boxes=torch.tensor([boxes[0], [0.0, 2.0, 90.0, 69.0]]) * scale)
    low, predicted = sam.predict_masks(embedding, asked, multimask_output=False)
    answers = [(low[index, 0], float(predicted[index, 0]), index, -1) for index in range(2)]
    asked = Prompts(torch.tensor(points)[:, None] * scale[:2], torch.ones(1, 1))
    low, predicted = sam.predict_masks(embedding, asked, multimask_output=True)
    answers += [(low[0, index], float(predicted[0, index]), 2 + index, index) for index in range(3)]
    size = sam.config.image_size
    expected = []
    for logits, score, number, mask_index in answers:
        full = F.interpolate(logits[None, None], (size, size), mode="bilinear", align_corners=False)
        full = F.interpolate(full[..., : resized.shape[1], : resized.shape[2]], (70, 90), mode="bilinear")[0, 0] > 0
        if full.any():
            expected.append((number, mask_index, score, full.numpy()))
    assert found.number.tolist() == [number for number, *_ in expected]
    assert found.mask_index.tolist() == [mask_index for _, mask_index, *_ in expected]
    np.testing.assert_allclose(found.predicted_iou, [score for _, _, score, _ in expected], atol=1e-4)
    masks = decode_masks(found.rles, 70, 90)
    assert np.mean(masks.astype(bool) != np.stack([mask for *_, mask in expected])) < 1e-4
    assert set(found.crop_layer.tolist()) == {0}


@pytest.mark.parametrize(
    ("boxes", "points", "message"),
    [
        ([[5, 5, 5, 9]], [], r"boxes: \[5\.0, 5\.0, 5\.0, 9\.0\] holds no pixel of 20×10"),
        ([[1, 1, 4, float("nan")]], [], "holds no pixel"),
        ([], [[20.5, 3]], r"points: \[20\.5, 3\.0\] is outside of 20×10"),
    ],
)
def test_prompts_outside_are_refused(boxes: list, points: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImagePrompts.of(boxes, points, 10, 20)
