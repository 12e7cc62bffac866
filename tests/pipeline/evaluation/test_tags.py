import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.clip_training.views import read_labelled_views, some_masks
from pipeline.evaluation.tags import LabelledScores, _measure, thresholds_of
from stages.tag_rules import GroupScores, Thresholds
from stages.vocabulary import parse_vocabulary

GROUP = parse_vocabulary("groups: {thing: {words: [beagle < dog, pug < dog, dog < animal, sofa]}}", "w.yaml").groups[0]
BEAGLE, PUG, DOG, SOFA = range(4)


def scores(shares: list[list[float]], right: list[int]) -> LabelledScores:
    return LabelledScores(GroupScores(GROUP, np.array(shares)), np.array(right), np.full(len(right), 2000))


def test_a_parent_is_right_where_its_kind_cannot_be_told() -> None:
    labelled = scores(
        [[0.9, 0.05, 0.0, 0.0], [0.4, 0.45, 0.0, 0.1], [0.1, 0.1, 0.6, 0.1], [0.3, 0.2, 0.1, 0.4]],
        [BEAGLE, BEAGLE, PUG, SOFA],
    )
    found = _measure(labelled, Thresholds({"thing": 0.5}, {}))
    # a beagle, a dog (neither breed reaches .5), a dog, and a sofa of .4 with no tag
    assert (found.accuracy, found.accuracy_kin, found.precision) == (0.5, 0.75, 1.0)
    assert found.abstained == 0.25 and found.num_masks == 4


def test_a_kind_is_wrong_where_only_its_parent_is_right() -> None:
    found = _measure(scores([[0.3, 0.7, 0.0, 0.0]], [BEAGLE]), Thresholds({"thing": 0.5}, {}))
    assert found.precision == 0.0 and found.accuracy_kin == 0.0


def test_parents_have_thresholds_by_all_that_imply_them() -> None:
    beagles = [[0.5, 0.4, 0.05, 0.0]] * 50
    sofas = [[0.2, 0.1, 0.1, 0.0]] * 5
    group, own = thresholds_of(scores(beagles + sofas, [PUG] * 50 + [SOFA] * 5), precision=0.95)
    assert group == pytest.approx(0.505) and own["beagle"] == pytest.approx(0.505)
    assert own["dog"] == pytest.approx(0.405), "a breed says nothing here, that it is a dog is always right above .4"
    assert own["animal"] == own["dog"] or "animal" not in own


def test_images_of_one_thing_are_labelled_by_their_own_field(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 6)).save(tmp_path / "images" / "a.png")
    rle = {"size": [6, 8], "counts": [0, 6, 42]}
    content = {
        "images": [{"id": 1, "file_name": "images/a.png", "width": 8, "height": 6, "class": "beagle"}],
        "annotations": [
            {"id": number, "image_id": 1, "category_id": 1, "segmentation": rle, "colour": "red"} for number in range(9)
        ],
        "categories": [{"id": 1, "name": "sofa"}],
    }
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    [picture] = read_labelled_views([str(tmp_path)], {"thing": "category/class", "colour": "colour"})
    assert picture.whole is not None and picture.whole.texts == {"thing": "beagle"}
    assert [mask.texts for mask in picture.masks] == [{"thing": "sofa", "colour": "red"}] * 9
    [image_only] = read_labelled_views([str(tmp_path)], {"thing": "class"})
    assert image_only.masks == () and image_only.whole == picture.whole
    fewer, same = (some_masks([picture], 4, seed=1)[0] for _ in range(2))
    assert len(fewer.masks) == 4 and fewer == same and some_masks([picture], None, 1) == [picture]
    with pytest.raises(ValueError, match="has one of the fields sort; name others in labels"):
        read_labelled_views([str(tmp_path)], {"thing": "sort"})
