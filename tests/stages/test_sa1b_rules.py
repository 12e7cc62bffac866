"""Each rule of the paper's appendix decides alone: candidates differ from kept ones in what the rule looks at."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.generator.grid import crop_boxes, points_per_crop
from models.masks.rle import decode_masks, encode_masks
from tests.stages.filter_cases import (
    HEIGHT,
    LAYER1,
    LAYER2,
    WHOLE,
    WIDTH,
    Candidate,
    Case,
    components,
    holed,
    recipe,
    rect,
)

sa1b = Case("sa1b")

# --- what is generated


def test_sa1b_looks_at_21_crops_with_32_16_and_8_points_a_side() -> None:
    generate = recipe("sa1b").generate
    crops = crop_boxes(1500, 2250, generate.layers, generate.crop_overlap_ratio)
    assert [crop.layer for crop in crops] == [0] + [1] * 4 + [2] * 16
    sides = [
        points_per_crop(generate.points_per_side, layer, generate.crop_n_points_downscale_factor) for layer in (0, 1, 2)
    ]
    assert sides == [32, 16, 8]
    assert 2 * crops[1].box[2] - 2250 == 512, "crops of the first layer share 512 pixels of a short side of 1500"
    assert generate.stability_score_offset == 1.0 and generate.precision == "fp32"


def test_sa1b_generates_what_its_thresholds_need_and_stores_no_more() -> None:
    whole = recipe("sa1b")
    assert (whole.min_predicted_iou, whole.min_stability, whole.generate.store_rejected) == (0.88, 0.95, False)


# --- scores


@pytest.mark.parametrize(
    ("predicted_iou", "stability", "reason"),
    [
        (0.88, 0.98, "predicted_iou"),  # strictly above
        (np.nextafter(np.float32(0.88), np.float32(1)), 0.98, None),
        (0.95, 0.95, None),  # at least
        (0.95, np.nextafter(np.float32(0.95), np.float32(0)), "stability_score"),
        (0.5, 0.5, "predicted_iou"),
        (1.02, 1.0, None),  # the predicted IoU is a regression and may exceed 1
        (float("nan"), 0.98, "predicted_iou"),
        (0.95, float("nan"), "stability_score"),
    ],
)
def test_sa1b_scores(predicted_iou: float, stability: float, reason: str | None) -> None:
    assert sa1b.reasons(Candidate(rect(50, 50, 80, 80), predicted_iou, stability)) == [reason]


def test_sa1b_low_scores_suppress_nothing() -> None:
    mask = rect(50, 50, 80, 80)
    unstable = Candidate(mask, predicted_iou=0.99, stability_score=0.90)
    assert sa1b.reasons(unstable, Candidate(mask, 0.89)) == ["stability_score", None]


# --- crop edges


def test_the_layout_of_the_crops_below() -> None:
    assert LAYER1 == [(0, 0, 368, 268), (0, 132, 368, 268), (232, 0, 368, 268), (232, 132, 368, 268)]


@pytest.mark.parametrize(
    ("box", "crop", "reason"),
    [
        # the right side of a top left crop ends at 368: 20 pixels from there to the last column of the mask
        ((100, 100, 249, 50), LAYER1[0], "crop_edge"),  # last column 348
        ((100, 100, 248, 50), LAYER1[0], None),  # 347
        ((100, 100, 268, 50), LAYER1[0], "crop_edge"),  # 367
        ((100, 100, 50, 149), LAYER1[0], "crop_edge"),  # last row 248 of 268
        ((100, 100, 50, 148), LAYER1[0], None),
        ((0, 0, 200, 200), LAYER1[0], None),  # at the image's own edges
        ((0, 0, 200, 260), LAYER1[0], "crop_edge"),  # at both kinds
        # the left and top sides of a bottom right crop, at 232 and 132
        ((252, 200, 50, 50), LAYER1[3], "crop_edge"),
        ((253, 200, 50, 50), LAYER1[3], None),
        ((300, 152, 50, 50), LAYER1[3], "crop_edge"),
        ((300, 153, 50, 50), LAYER1[3], None),
        ((300, 200, 300, 200), LAYER1[3], None),  # to the image's last pixel
        ((0, 0, WIDTH, 300), WHOLE, None),
        ((5, 5, 590, 300), WHOLE, None),
    ],
)
def test_sa1b_crop_edges(box: tuple[int, int, int, int], crop: tuple[int, int, int, int], reason: str | None) -> None:
    assert sa1b.reasons(Candidate(rect(*box), crop_box=crop)) == [reason]


def test_sa1b_a_crop_edge_that_is_nearly_the_images_does_not_count() -> None:
    near = (0, 0, WIDTH - 15, HEIGHT)
    assert sa1b.reasons(Candidate(rect(400, 100, 185, 100), crop_box=near)) == [None]
    far = (0, 0, WIDTH - 40, HEIGHT)
    assert sa1b.reasons(Candidate(rect(400, 100, 160, 100), crop_box=far)) == ["crop_edge"]


def test_sa1b_a_cut_mask_suppresses_nothing() -> None:
    cut = Candidate(rect(250, 100, 118, 100), 0.99, crop_box=LAYER1[0])
    assert sa1b.reasons(cut, Candidate(rect(250, 100, 95, 100), 0.90, crop_box=LAYER1[0])) == ["crop_edge", None]


# --- suppression in two phases


@pytest.mark.parametrize(("side", "kept"), [(71, True), (72, False)])
def test_sa1b_suppresses_above_a_box_iou_of_7_tenths(side: int, kept: bool) -> None:
    # boxes end at their last pixel: 70 x 100 of 100 x 100 is .7 exactly, and 71 x 100 more
    reasons = sa1b.reasons(Candidate(rect(50, 50, 101, 101), 0.95), Candidate(rect(50, 50, side, 101), 0.90))
    assert reasons == [None, None if kept else "box_nms"]


@pytest.mark.parametrize(("side", "kept"), [(71, True), (72, False)])
def test_sa1b_suppresses_across_crops_above_7_tenths(side: int, kept: bool) -> None:
    small = Candidate(rect(50, 50, 101, 101), 0.90, crop_box=LAYER1[0])
    assert sa1b.reasons(Candidate(rect(50, 50, side, 101), 0.95), small) == [None if kept else "crop_nms", None]


def test_sa1b_within_a_crop_the_better_predicted_iou_stays() -> None:
    masks = [Candidate(rect(50 + shift, 50, 100, 100), iou) for shift, iou in ((0, 0.90), (2, 0.97), (4, 0.93))]
    assert sa1b.reasons(*masks) == ["box_nms", None, "box_nms"]
    equal = [Candidate(rect(50 + shift, 50, 100, 100), 0.9) for shift in (0, 2)]
    assert sa1b.reasons(*equal) == [None, "box_nms"]


def test_sa1b_what_is_suppressed_suppresses_nothing() -> None:
    # neighbours have an IoU of .74, the outer two .54
    chain = [Candidate(rect(50 + shift, 50, 101, 101), iou) for shift, iou in ((0, 0.97), (15, 0.95), (30, 0.90))]
    assert sa1b.reasons(*chain) == [None, "box_nms", None]


def test_sa1b_boxes_count_not_masks() -> None:
    corner, other = rect(50, 50, 100, 100), rect(50, 50, 100, 100)
    corner[70:, 70:] = 0
    other[:130, :130] = 0
    other[50:60, 50:150] = other[50:150, 50:60] = 1
    assert (corner & other).sum() / (corner | other).sum() < 0.6
    assert sa1b.reasons(Candidate(corner, 0.95), Candidate(other, 0.9)) == [None, "box_nms"]


def test_sa1b_across_crops_the_smaller_crop_stays_though_its_predicted_iou_is_lower() -> None:
    mask = rect(160, 110, 40, 40)
    layer2 = LAYER2[5]
    assert layer2 == (133, 83, 201, 151)
    three = [
        Candidate(mask, 0.99, crop_box=WHOLE),
        Candidate(mask, 0.95, crop_box=LAYER1[0]),
        Candidate(mask, 0.89, crop_box=layer2),
    ]
    assert sa1b.reasons(*three) == ["crop_nms", "crop_nms", None]
    assert sa1b.reasons(*three[::-1]) == [None, "crop_nms", "crop_nms"]
    assert sa1b.reasons(*three[:2]) == ["crop_nms", None]


def test_sa1b_of_equally_large_crops_the_first_stays() -> None:
    mask = rect(260, 30, 60, 60)
    left, right = Candidate(mask, 0.90, crop_box=LAYER1[0]), Candidate(mask, 0.99, crop_box=LAYER1[2])
    assert sa1b.reasons(left, right) == [None, "crop_nms"]


def test_a_stricter_second_phase_ranks_a_crops_masks_by_predicted_iou() -> None:
    strict = Case("sa1b", overrides={"crop_nms_thresh": 0.5})
    worse, better = (Candidate(rect(x, 60, 61, 61), iou) for x, iou in ((276, 0.9), (258, 0.95)))  # their IoU is .54
    elsewhere = Candidate(rect(50, 60, 61, 61), 0.9, crop_box=LAYER1[0])
    assert strict.reasons(worse, better, elsewhere) == ["crop_nms", None, None]
    assert sa1b.reasons(worse, better, elsewhere) == [None, None, None]


def test_sa1b_suppresses_within_crops_before_across_them() -> None:
    best = Candidate(rect(100, 50, 101, 101), 0.99)
    beside = Candidate(rect(115, 50, 101, 101), 0.90)  # IoU .74 with the best
    crop = Candidate(rect(85, 50, 101, 101), 0.89, crop_box=LAYER1[0])  # .74 with the best, .54 with the one beside
    # in one phase, smaller crops first, `beside` would outlive `best`
    assert sa1b.reasons(best, beside, crop) == ["crop_nms", "box_nms", None]
    assert sa1b.reasons(beside, crop) == [None, None]


def test_sa1b_different_crops_do_not_meet_in_the_first_phase() -> None:
    mask = rect(100, 100, 50, 50)
    reasons = sa1b.reasons(Candidate(mask, 0.99), Candidate(mask, 0.9, crop_box=LAYER1[0]))
    assert reasons == ["crop_nms", None], "the first phase would have named box_nms and kept the other"


# --- cover


def test_sa1b_drops_what_covers_95_percent() -> None:
    square = Case("sa1b", 100, 100)
    whole = (0, 0, 100, 100)
    mask = rect(0, 0, 100, 95, 100, 100)
    assert square.reasons(Candidate(mask, crop_box=whole)) == ["cover"]
    mask[94, 99] = 0
    assert square.reasons(Candidate(mask, crop_box=whole)) == [None]
    frame = rect(0, 0, 100, 100, 100, 100)
    frame[30:70, 30:70] = 0  # its box covers everything, the mask 84 %
    assert square.reasons(Candidate(frame, crop_box=whole)) == [None]


def test_sa1b_cover_is_of_the_image_not_of_the_crop() -> None:
    x, y, w, h = LAYER1[0]
    assert sa1b.reasons(Candidate(rect(x, y, w - 21, h - 21), crop_box=LAYER1[0])) == [None]


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_sa1b_cover_has_no_rounding(height: int, width: int) -> None:
    least = -(-95 * height * width // 100)
    limit = recipe("sa1b").filter.max_cover
    assert limit is not None
    assert least >= limit * height * width > least - 1


# --- clean-up


def test_sa1b_removes_components_below_100_pixels() -> None:
    found = sa1b(Candidate(components(99)))
    assert found.drop_reason == [None]
    assert found.rles == encode_masks(rect(50, 50, 60, 60)[None])
    assert found.raw_rles == encode_masks(components(99)[None])
    assert found.bbox.tolist() == [[50, 50, 60, 60]] and found.area.tolist() == [3600]
    found = sa1b(Candidate(components(100)))
    assert found.rles == encode_masks(components(100)[None]) and found.raw_rles == [None]


def test_sa1b_fills_holes_below_100_pixels() -> None:
    found = sa1b(Candidate(holed(99)))
    assert found.rles == encode_masks(rect(50, 50, 60, 60)[None])
    assert found.raw_rles == encode_masks(holed(99)[None]) and found.area.tolist() == [3600]
    found = sa1b(Candidate(holed(100)))
    assert found.rles == encode_masks(holed(100)[None]) and found.raw_rles == [None]


def test_sa1b_removes_components_first_then_fills_holes() -> None:
    mask = rect(50, 50, 60, 60)
    mask[60:71, 60:70] = 0  # a hole of 110 pixels
    mask[62:69, 62:68] = 1  # with an island of 42 in it: a hole of 68 if it came first
    found = sa1b(Candidate(mask))
    [cleaned] = decode_masks(found.rles, HEIGHT, WIDTH)
    expected = rect(50, 50, 60, 60)
    expected[60:71, 60:70] = 0
    assert np.array_equal(cleaned, expected)


def test_sa1b_drops_a_mask_whose_largest_component_is_below_100_pixels() -> None:
    crumbs = rect(50, 50, 11, 9) + rect(200, 50, 9, 11) + rect(400, 200, 3, 3)
    found = sa1b(Candidate(crumbs), Candidate(rect(400, 300, 10, 10)))
    assert found.drop_reason == ["small", None]
    assert found.rles[0] == encode_masks(crumbs[None])[0] and found.raw_rles == [None, None]
    assert found.area.tolist() == [207, 100]


def test_sa1b_cleans_up_after_suppression() -> None:
    square = rect(50, 50, 60, 60)
    stray = square + rect(300, 300, 3, 3)  # a far larger box until the stray pixels are gone
    found = sa1b(Candidate(square, 0.95), Candidate(stray, 0.9))
    assert found.drop_reason == [None, None]
    assert found.rles[0] == found.rles[1] and found.raw_rles == [None, *encode_masks(stray[None])]


def test_sa1b_a_small_mask_suppresses_before_it_goes() -> None:
    crumbs = rect(50, 50, 5, 5) + rect(105, 105, 5, 5)
    assert sa1b.reasons(Candidate(crumbs, 0.99), Candidate(rect(50, 50, 60, 60), 0.95)) == ["small", "box_nms"]


def test_sa1b_has_no_duplicate_rule() -> None:
    square = rect(50, 50, 60, 60)
    assert sa1b.reasons(Candidate(square), Candidate(square + rect(300, 300, 10, 10))) == [None, None]


# --- all rules together, against a restatement


def naive_sa1b(candidates: list[Candidate]) -> list[str | None]:
    """Scores, edges, both suppressions and cover over rectangles, in plain Python."""
    reasons: list[str | None] = [None] * len(candidates)
    boxes = []
    for index, one in enumerate(candidates):
        rows, columns = np.nonzero(one.mask)
        boxes.append((columns.min(), rows.min(), columns.max(), rows.max()))
        x, y, w, h = one.crop_box
        sides = zip(boxes[index], (x, y, x + w, y + h), (0, 0, WIDTH, HEIGHT), strict=True)
        if not np.float32(one.predicted_iou) > np.float32(0.88):
            reasons[index] = "predicted_iou"
        elif np.float32(one.stability_score) < np.float32(0.95):
            reasons[index] = "stability_score"
        elif any(abs(side - crop) <= 20 and abs(side - image) > 20 for side, crop, image in sides):
            reasons[index] = "crop_edge"

    def suppress(order: list[int], reason: str) -> None:
        kept: list[int] = []
        for index in order:
            if any(box_iou(boxes[index], boxes[other]) > 0.7 for other in kept):
                reasons[index] = reason
            else:
                kept.append(index)

    def alive() -> list[int]:
        return [index for index, reason in enumerate(reasons) if reason is None]

    crops = list(dict.fromkeys(candidates[index].crop_box for index in alive()))
    for crop in crops:
        inside = [index for index in alive() if candidates[index].crop_box == crop]
        suppress(sorted(inside, key=lambda index: -np.float32(candidates[index].predicted_iou)), "box_nms")

    def rank(index: int) -> tuple[float, int, float]:
        crop = candidates[index].crop_box
        return crop[2] * crop[3], crops.index(crop), -np.float32(candidates[index].predicted_iou)

    suppress(sorted(alive(), key=rank), "crop_nms")
    for index in alive():
        if 100 * candidates[index].mask.sum() >= 95 * HEIGHT * WIDTH:
            reasons[index] = "cover"
        elif candidates[index].mask.sum() < 100:
            reasons[index] = "small"
    return reasons


def box_iou(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    wide = max(0, min(one[2], other[2]) - max(one[0], other[0]))
    high = max(0, min(one[3], other[3]) - max(one[1], other[1]))
    both = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)) - wide * high
    return wide * high / both if both else 0.0


@st.composite
def rectangles(draw: st.DrawFn) -> list[Candidate]:
    """Few places and sizes, so that many candidates meet."""
    crops = [WHOLE, LAYER1[0], LAYER1[2], LAYER2[0], LAYER2[5]]
    found = []
    for _ in range(draw(st.integers(0, 12))):
        x, y, w, h = crop = draw(st.sampled_from(crops))
        left = x + draw(st.sampled_from([0, 10, 22, 25, 30, 40]))
        top = y + draw(st.sampled_from([0, 21, 24]))
        wide, high = draw(st.sampled_from([(9, 9), (60, 60), (66, 60), (90, 80), (w, h)]))
        mask = rect(left, top, min(wide, x + w - left), min(high, y + h - top))
        scores = draw(st.sampled_from([0.5, 0.89, 0.9, 0.95])), draw(st.sampled_from([0.9, 0.96, 0.97, 0.98]))
        found.append(Candidate(mask, *scores, crop))
    return sorted(found, key=lambda one: crops.index(one.crop_box))  # the generator goes crop by crop


@given(rectangles())
@settings(max_examples=80, deadline=None)
def test_sa1b_equals_a_plain_restatement(candidates: list[Candidate]) -> None:
    assert sa1b.reasons(*candidates) == naive_sa1b(candidates)
