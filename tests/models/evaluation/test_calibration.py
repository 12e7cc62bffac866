import numpy as np
import pytest

from models.evaluation.calibration import CalibrationBin, CalibrationTally


def test_error_and_curve_by_hand() -> None:
    tally = CalibrationTally()
    # two masks in [.50, .55), off by .1 and .2 the same way; one in [.90, .95) that is right; one off by .45
    tally.add(np.array([[0.50, 0.54]]), np.array([[0.40, 0.34]]))
    tally.add(np.array([0.92, 0.05]), np.array([0.92, 0.50]))
    found = tally.calibration()
    assert found.num_masks == 4
    assert found.error == pytest.approx((0.1 + 0.2 + 0.0 + 0.45) / 4)
    assert [one.low for one in found.bins] == [0.05, 0.5, 0.9]
    assert found.bins[1] == CalibrationBin(0.5, 0.55, 2, pytest.approx(0.52), pytest.approx(0.37))


def test_errors_that_cancel_within_a_bin_are_no_miscalibration() -> None:
    tally = CalibrationTally()
    tally.add(np.array([0.72, 0.72]), np.array([0.52, 0.92]))
    assert tally.calibration().error == pytest.approx(0.0)


def test_predictions_beyond_the_ends_keep_their_value() -> None:
    tally = CalibrationTally()
    tally.add(np.array([1.0, 1.2, -0.1], np.float32), np.array([1.0, 1.0, 0.0]))
    found = tally.calibration()
    assert [(one.low, one.num_masks) for one in found.bins] == [(0.0, 1), (0.95, 2)]
    assert found.bins[1].mean_predicted == pytest.approx(1.1)
    assert found.error == pytest.approx(0.1)


def test_perfect_predictions_and_no_predictions() -> None:
    tally = CalibrationTally()
    assert tally.calibration().error is None and tally.calibration().bins == []
    values = np.linspace(0, 1, 101)
    tally.add(values, values)
    assert tally.calibration().error == pytest.approx(0.0, abs=1e-12)
