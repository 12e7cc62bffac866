import numpy as np
import pytest

from stages.tag_rules import GroupScores, Thresholds, best_candidates, choose_tags, image_tags, score_group
from stages.vocabulary import parse_vocabulary

GROUP = parse_vocabulary("car < vehicle\nbus < vehicle\nvehicle < thing\ntree", "w.txt").groups[0]


def tags(shares: list[float], thresholds: Thresholds | None = None) -> dict[str, float]:
    scores = GroupScores(GROUP, np.array([shares], np.float32))
    [found] = choose_tags(scores, thresholds or Thresholds({}, {}))
    return {name: round(score, 4) for name, score in found}


def test_a_tag_implies_its_parents_with_the_sum_of_what_lies_below_them() -> None:
    assert tags([0.6, 0.25, 0.05, 0.1]) == {"car": 0.6, "vehicle": 0.9, "thing": 0.9}
    assert tags([0.1, 0.1, 0.1, 0.7]) == {"tree": 0.7}


def test_where_the_word_abstains_its_parents_may_stand() -> None:
    assert tags([0.45, 0.4, 0.0, 0.15]) == {"vehicle": 0.85, "thing": 0.85}
    assert tags([0.3, 0.1, 0.0, 0.2]) == {}


def test_thresholds_are_the_words_then_the_groups_then_the_default() -> None:
    calibrated = Thresholds({"thing": 0.95}, {"thing": {"car": 0.2, "vehicle": 0.99, "thing": 0.99}})
    assert tags([0.6, 0.25, 0.05, 0.1], calibrated) == {"car": 0.6, "vehicle": 0.9, "thing": 0.9}
    assert tags([0.25, 0.6, 0.05, 0.1], calibrated) == {}
    assert tags([0.25, 0.0, 0.0, 0.2], Thresholds({}, {}, 0.1)) == {"car": 0.25, "vehicle": 0.25, "thing": 0.25}


def test_shares_are_a_softmax_in_which_nothing_takes_part() -> None:
    words = np.eye(5, dtype=np.float32)  # the fifth stands for nothing
    features = np.stack([words[1], words[4], np.zeros(5, np.float32)])
    shares = score_group(GROUP, features, words, 10.0, None).shares
    e = np.exp(10.0)
    assert shares.shape == (3, 4)
    np.testing.assert_allclose(shares[0], np.array([1, e, 1, 1]) / (e + 4), rtol=1e-5)
    np.testing.assert_allclose(shares[1], 1 / (e + 4), rtol=1e-5)
    np.testing.assert_allclose(shares[2], 0.2, rtol=1e-5)


def test_candidates_are_those_that_fit_the_image_and_others_get_no_share() -> None:
    words = np.eye(5, dtype=np.float32)
    image = np.array([0.1, 0.5, 0.3, 0.2, 0.9], np.float32)
    candidates = best_candidates(image, words, 4, 2)
    assert candidates is not None and sorted(candidates.tolist()) == [1, 2]
    assert best_candidates(image, words, 4, 4) is None and best_candidates(image, words, 4, None) is None
    shares = score_group(GROUP, words[:1], words, 10.0, candidates).shares[0]
    assert shares[0] == shares[3] == 0 and shares[1] == shares[2] == pytest.approx(1 / 3)


def test_an_image_has_the_best_score_of_each_tag() -> None:
    found = image_tags([[("car", 0.6), ("vehicle", 0.7)], [], [("car", 0.9)]], [("vehicle", 0.8)])
    assert found == [("car", 0.9), ("vehicle", 0.8)]
