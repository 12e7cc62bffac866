from pathlib import Path

import pytest

from models.pinned_weights import PinnedWeights
from pipeline.recipes.load_recipe import load_recipe, load_run_recipe, shipped_recipes, validate_recipe
from pipeline.runs.fingerprint import fingerprint
from pipeline.runs.resolve import resolve_labels_of
from pipeline.video.recipe import VideoRecipe

WEIGHTS = PinnedWeights("sam_tiny", "weights")
MINIMAL = {"input": "photos", "output": "out"}


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_generation_recipe_that_ships_is_valid(name: str) -> None:
    if name.startswith(("train", "loop")):
        pytest.skip("a training or loop recipe has a schema of its own")
    assert load_run_recipe(name).output


def test_the_video_recipe_has_the_settings_of_sa_v() -> None:
    found = load_run_recipe("video", ["input=clips", "track.merge_iou=0.4"])
    assert (found.generate.layers, found.generate.points_per_layer) == ((0, 1, 2), (32, 16, 4))
    assert [found.generate.points_in(layer) for layer in (0, 1, 2)] == [32, 16, 4]
    assert (found.filter.min_component_area, found.filter.max_hole_area) == (200, 200)
    assert isinstance(found, VideoRecipe) and found.track.merge_iou == 0.4
    with pytest.raises(ValueError, match=r"^generate: .*points_per_layer: 3 numbers for 1 layers; give one a layer"):
        load_run_recipe("video", ["generate.layers=[0]"])


def test_presets_set_what_their_papers_say_and_the_recipe_overrides_them() -> None:
    amg = validate_recipe({**MINIMAL, "preset": "sam_amg"})
    assert (amg.generate.points_per_side, amg.generate.layers) == (32, (0,))
    assert (amg.filter.pred_iou_thresh, amg.filter.stability_score_thresh, amg.filter.box_nms_thresh) == (
        0.88,
        0.95,
        0.7,
    )
    assert amg.filter.max_cover is None and amg.filter.duplicate_iou is None and amg.filter.min_component_area == 0
    sa1b = validate_recipe({**MINIMAL, "preset": "sa1b", "filter": {"max_cover": 0.9}})
    assert sa1b.generate.layers == (0, 1, 2) and sa1b.generate.crop_n_points_downscale_factor == 2
    assert not sa1b.generate.store_rejected
    assert sa1b.filter.max_cover == 0.9 and sa1b.filter.min_component_area == sa1b.filter.max_hole_area == 100


def test_overrides_reach_nested_fields(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("input: photos\noutput: out\n")
    overrides = ["generate.points_per_side=16", "generate.layers=[1, 2]", "filter.max_cover=null", "input=[odd"]
    recipe = load_recipe(str(path), overrides)
    assert recipe.generate.points_per_side == 16 and recipe.generate.layers == (1, 2)
    assert recipe.filter.max_cover is None and recipe.input == "[odd"


def test_thresholds_below_the_store_floor_lower_what_is_generated() -> None:
    recipe = validate_recipe({**MINIMAL, "filter": {"pred_iou_thresh": 0.5, "stability_score_thresh": 0.97}})
    assert recipe.min_predicted_iou == 0.5 and recipe.min_stability == 0.90
    lean = validate_recipe({**MINIMAL, "generate": {"store_rejected": False}})
    assert lean.min_predicted_iou == 0.88 and lean.min_stability == 0.95


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({**MINIMAL, "inptu": "x"}, r"^inptu: no such field; did you mean input\?$"),
        ({**MINIMAL, "generate": {"points_per_sid": 3}}, "did you mean generate.points_per_side"),
        ({**MINIMAL, "generate": {"zzz": 3}}, "generate.zzz: no such field; known here: points_per_side"),
        ({**MINIMAL, "generate": {"points_per_side": "many"}}, "generate.points_per_side: 'many' is not valid"),
        ({**MINIMAL, "filter": {"pred_iou_thresh": 1.5}}, "filter.pred_iou_thresh: 1.5 is not valid"),
        ({**MINIMAL, "generate": {"layers": []}}, r"generate.layers: .* name at least one layer"),
        ({**MINIMAL, "generate": {"layers": [1, 0]}}, r"layers must ascend without repeats: \[0, 1\]"),
        ({**MINIMAL, "generate": 3}, "generate: 3 is not valid"),
        ({**MINIMAL, "filter": {"consensus_thresh": 0.7}}, "consensus_thresh needs generate.agreement_iou; set it to"),
        (
            {**MINIMAL, "decode": {"sample_range": [4095, 0]}},
            r"decode.sample_range: \[4095, 0\] is not valid: give the value that becomes black and a larger one",
        ),
        (
            {**MINIMAL, "preset": "sab1"},
            "preset: 'sab1' is not valid: input should be 'default', 'sam_amg', 'sam2_amg' or 'sa1b'",
        ),
        ({**MINIMAL, "resources": {"sam_actors": "lots"}}, "resources.sam_actors: 'lots' is not valid"),
        (
            {**MINIMAL, "ray": {"address": "ray://head:10001"}},
            "ray.address: 'ray://head:10001' is not valid: ray Data does not run through Ray Client; submit",
        ),
        ({"output": "x"}, "input: missing; set it in the recipe or with -o input="),
    ],
)
def test_a_mistake_is_one_line_with_field_value_and_remedy(content: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        validate_recipe(content)
    assert "\n" not in str(caught.value)


def test_unreadable_recipes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="did you mean 'quickstart'"):
        load_recipe("quickstrat")
    broken = tmp_path / "broken.yaml"
    broken.write_text("input: [")
    with pytest.raises(ValueError, match="not valid YAML"):
        load_recipe(str(broken))
    broken.write_text("- a\n")
    with pytest.raises(ValueError, match="must be a mapping"):
        load_recipe(str(broken))
    broken.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="cannot be read"):
        load_recipe(str(broken))
    broken.write_text("input: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(ValueError, match="not valid YAML"):
        load_recipe(str(broken))
    with pytest.raises(ValueError, match="write it as field=value"):
        load_recipe("quickstart", ["generate.points_per_side"])
    with pytest.raises(ValueError, match="'input' is a value"):
        load_recipe("quickstart", ["input.path=3"])


def test_a_range_of_samples_is_another_dataset_and_a_limit_of_bytes_is_not() -> None:
    def links(**decode: object) -> dict[str, str]:
        return fingerprint(resolve_labels_of(validate_recipe({**MINIMAL, "decode": decode}), WEIGHTS)).links

    assert links() == links(max_bytes=5) == links(sample_range=None)
    assert len({links()["generate"], links(sample_range=[0, 4095])["generate"], links(max_pixels=5)["generate"]}) == 3
