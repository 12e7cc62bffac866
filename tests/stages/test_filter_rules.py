import numpy as np
import pytest

from models.masks.rle import encode_masks
from pipeline.recipes.presets import PRESETS
from stages.filter_rules import RULES
from tests.stages.filter_cases import HEIGHT, LAYER1, WIDTH, Candidate, Case, components, holed, recipe, rect

sa1b = Case("sa1b")
sam_amg = Case("sam_amg")
default = Case("default")

# --- sam_amg


def test_sam_amg_keeps_what_only_the_paper_drops() -> None:
    everything = sam_amg(Candidate(np.ones((HEIGHT, WIDTH))))
    assert everything.drop_reason == [None] and everything.raw_rles == [None]
    found = sam_amg(Candidate(components(99)), Candidate(holed(99), 0.93), Candidate(rect(300, 100, 3, 3)))
    assert found.drop_reason == [None, None, None] and found.raw_rles == [None] * 3


def test_sam_amg_filters_by_scores_and_one_suppression() -> None:
    assert recipe("sam2_amg").filter == recipe("sam_amg").filter.model_copy(update={"pred_iou_thresh": 0.8})
    assert recipe("sam_amg").generate.layers == (0,) and recipe("sam_amg").generate.points_per_side == 32
    square = rect(50, 50, 60, 60)
    reasons = sam_amg.reasons(
        Candidate(square, 0.88),
        Candidate(rect(300, 50, 60, 60), 0.89, 0.9499),
        Candidate(square, 0.89),
        Candidate(rect(51, 50, 60, 60), 0.9),
        Candidate(rect(300, 200, 60, 60), 0.89, 0.95),
    )
    assert reasons == ["predicted_iou", "stability_score", "box_nms", None, None]


# --- default: clean-up, duplicates and parents


def test_default_finds_duplicates_by_mask_iou() -> None:
    square = rect(50, 50, 100, 100)
    far = square + rect(400, 300, 20, 20)  # IoU 10000 / 10400, the boxes' far less
    assert default.reasons(Candidate(square, 0.90), Candidate(far, 0.95)) == ["duplicate", None]
    assert default.reasons(Candidate(square, 0.95), Candidate(far, 0.90)) == [None, "duplicate"]
    half = rect(50, 50, 60, 100) + rect(400, 300, 50, 50)
    assert default.reasons(Candidate(square, 0.95), Candidate(half, 0.90)) == [None, None]


@pytest.mark.parametrize(("rows", "reason"), [(88, "duplicate"), (82, "duplicate"), (81, None)])
def test_default_finds_duplicates_by_containment(rows: int, reason: str | None) -> None:
    # wholly inside the larger mask; below .9 of its 10200 pixels, so that IoU says nothing; at least .8 decides
    larger = rect(50, 50, 100, 100) + rect(400, 300, 20, 10)
    assert default.reasons(Candidate(larger, 0.95), Candidate(rect(50, 50, 100, rows), 0.9)) == [None, reason]


def test_default_a_rejected_duplicate_gets_its_own_mask_back() -> None:
    square = rect(50, 50, 100, 100)
    stray = square + rect(400, 300, 3, 3)
    found = default(Candidate(square, 0.95), Candidate(stray, 0.9))
    assert found.drop_reason == [None, "duplicate"]
    assert found.rles == encode_masks(np.array([square, stray])) and found.raw_rles == [None, None]
    assert found.bbox[1].tolist() == [50, 50, 353, 253] and found.area[1] == 10009
    found = default(Candidate(square, 0.9), Candidate(stray, 0.95))
    assert found.drop_reason == ["duplicate", None] and found.raw_rles[1] == encode_masks(stray[None])[0]


def test_parents_are_the_smallest_kept_masks_around() -> None:
    large, middle, small = rect(50, 50, 300, 300), rect(60, 60, 150, 150), rect(70, 70, 40, 40)
    beside = rect(450, 50, 100, 100)
    found = default(*map(Candidate, (small, large, beside, middle)))
    assert found.drop_reason == [None] * 4 and found.parent.tolist() == [3, -1, -1, 1]
    rejected = default(Candidate(small), Candidate(large), Candidate(beside), Candidate(middle, 0.5))
    assert rejected.parent.tolist() == [1, -1, -1, -1]
    # nine tenths inside are enough
    out = default(Candidate(large), Candidate(rect(311, 100, 40, 40)), Candidate(rect(315, 200, 40, 40)))
    assert out.parent.tolist() == [-1, 0, -1]


def test_parents_are_found_under_every_preset_after_clean_up() -> None:
    ring = holed(99)
    inside = rect(61, 61, 12, 12)
    assert Case("sa1b")(Candidate(ring), Candidate(inside)).parent.tolist() == [-1, 0]
    assert Case("sam_amg")(Candidate(ring), Candidate(inside)).parent.tolist() == [-1, -1]


# --- any preset


@pytest.mark.parametrize("preset", list(PRESETS))
def test_no_candidates(preset: str) -> None:
    found = Case(preset)()
    assert found.keep.shape == found.parent.shape == (0,) and found.keep.dtype == np.bool_
    assert found.rles == found.raw_rles == found.drop_reason == [] and found.bbox.shape == (0, 4)


@pytest.mark.parametrize("preset", list(PRESETS))
def test_one_candidate(preset: str) -> None:
    found = Case(preset)(Candidate(rect(50, 50, 60, 60)))
    assert found.keep.tolist() == [True] and found.parent.tolist() == [-1] and found.raw_rles == [None]
    refused = Case(preset)(Candidate(rect(50, 50, 60, 60), 0.2))
    assert refused.keep.tolist() == [False] and refused.parent.tolist() == [-1]


@pytest.mark.parametrize("preset", list(PRESETS))
def test_an_empty_mask(preset: str) -> None:
    empty = np.zeros((HEIGHT, WIDTH))
    square = rect(50, 50, 60, 60)
    assert Case(preset).reasons(Candidate(empty, 0.99, 0.0), Candidate(square)) == ["stability_score", None]
    if not preset.endswith("_amg"):
        found = Case(preset)(Candidate(empty, 0.99), Candidate(square))
        assert found.drop_reason == ["small", None] and found.parent.tolist() == [-1, -1]


@pytest.mark.parametrize("preset", list(PRESETS))
def test_a_mask_of_one_pixel(preset: str) -> None:
    found = Case(preset)(Candidate(rect(7, 9, 1, 1)), Candidate(rect(599, 399, 1, 1)))
    assert found.drop_reason == ([None, None] if preset.endswith("_amg") else ["small", "small"])
    assert found.bbox.tolist() == [[7, 9, 1, 1], [599, 399, 1, 1]] and found.area.tolist() == [1, 1]


@pytest.mark.parametrize("preset", list(PRESETS))
def test_an_image_of_one_pixel(preset: str) -> None:
    tiny = Case(preset, 1, 1)
    reason = {"sam_amg": None, "sam2_amg": None, "sa1b": "cover", "default": "small"}[preset]
    assert tiny.reasons(Candidate(np.ones((1, 1)), crop_box=(0, 0, 1, 1))) == [reason]


@pytest.mark.parametrize(
    ("setting", "candidates"),
    [
        ("crop_edge_tolerance", [Candidate(rect(100, 100, 268, 50), crop_box=LAYER1[0])]),
        ("box_nms_thresh", [Candidate(rect(50, 50, 60, 60)), Candidate(rect(51, 50, 60, 60))]),
        ("crop_nms_thresh", [Candidate(rect(50, 50, 60, 60)), Candidate(rect(50, 50, 60, 60), crop_box=LAYER1[0])]),
        ("max_cover", [Candidate(np.ones((HEIGHT, WIDTH)))]),
    ],
)
def test_null_leaves_a_rule_out(setting: str, candidates: list[Candidate]) -> None:
    assert sa1b(*candidates).keep.all() is np.False_
    free = Case("sa1b", overrides={setting: None})
    if setting == "box_nms_thresh":
        free.overrides["crop_nms_thresh"] = None
    assert free(*candidates).keep.all()


def test_consensus_decides_and_ranks_in_the_place_of_predicted_iou() -> None:
    square, shifted = rect(50, 50, 60, 60), rect(51, 50, 60, 60)  # IoU .97
    rated = Candidate(square, predicted_iou=0.99, stability_score=0.96, agreement=1)
    agreed = Candidate(shifted, predicted_iou=0.9, stability_score=0.96, agreement=3)  # .96 · log2(4) = 1.92
    assert Case("sam_amg").reasons(rated, agreed) == [None, "box_nms"]
    assert Case("sam_amg", overrides={"consensus_thresh": 0.9}).reasons(rated, agreed) == ["box_nms", None]
    assert Case("sam_amg", overrides={"consensus_thresh": 0.97}).reasons(rated, agreed) == ["consensus", None]
    by_masks = {"consensus_thresh": 0.9, "box_nms_thresh": None}
    assert Case("default", overrides=by_masks).reasons(rated, agreed) == ["duplicate", None]
    strict = Case("sam_amg", overrides={"consensus_thresh": 1.9})
    assert strict.reasons(agreed, rated) == [None, "consensus"] and strict().drop_reason == []


def test_across_crops_the_smaller_crop_stays_before_the_higher_consensus() -> None:
    square = rect(50, 50, 60, 60)
    found = Case("sa1b", overrides={"consensus_thresh": 0.5})(
        Candidate(square, agreement=9), Candidate(square, agreement=1, crop_box=LAYER1[0])
    )
    assert found.drop_reason == ["crop_nms", None]


def test_zero_leaves_clean_up_out() -> None:
    crumbs = Candidate(components(99) * (np.arange(WIDTH) > 200) + rect(50, 50, 2, 2))
    assert sa1b.reasons(crumbs) == ["small"]
    found = Case("sa1b", overrides={"min_component_area": 0})(crumbs, Candidate(holed(50)))
    assert found.drop_reason == [None, None] and found.raw_rles[0] is None and found.raw_rles[1] is not None
    found = Case("sa1b", overrides={"max_hole_area": 0})(Candidate(holed(50)))
    assert found.raw_rles == [None]


def test_the_rules_stand_in_the_papers_order() -> None:
    assert [rule.__name__ for rule in RULES] == [
        "by_predicted_iou",
        "by_stability",
        "by_consensus",
        "by_crop_edge",
        "by_box_nms",
        "by_crop_nms",
        "by_cover",
        "clean_up",
        "by_duplicate",
        "find_parents",
    ]
