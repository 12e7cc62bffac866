import pytest

from pipeline.report import charts


@pytest.mark.parametrize("value", [1, 4, 5, 7, 10, 11, 99, 100, 101, 999, 123_456])
def test_an_axis_ends_at_a_round_number(value: int) -> None:
    assert value <= charts.nice_top(value) <= max(value + 1, 1.45 * value)
    assert value <= charts.round_up(value) <= 2.5 * value


def test_charts_of_one_value_and_of_wide_ranges() -> None:
    assert charts.areas({}) is None and charts.scores("Score", {}) is None and charts.masks_per_image({}) is None
    zero = charts.masks_per_image({0: 5})
    assert zero is not None and [bar.label for bar in zero.bars] == ["0: 5 images"]
    wide = charts.masks_per_image({0: 1, 4000: 1})
    assert wide is not None and [bar.label for bar in wide.bars] == ["0 to 199: 1 image", "4,000 to 4,199: 1 image"]
    above = charts.scores("Score", {50: 2, 49: 1})
    assert above is not None and [bar.label for bar in above.bars] == ["0.98 or more: 3 masks"]
    areas_chart = charts.areas({0: 1, 23: 2})
    assert areas_chart is not None and areas_chart.bars[0].label == "1 pixels: 1 mask"
    for chart in (zero, wide, above, areas_chart):
        for bar in chart.bars:
            assert bar.x >= charts.LEFT and bar.x + bar.width <= charts.WIDTH and bar.width > 0
            assert bar.y >= charts.TOP and bar.y + bar.height <= charts.HEIGHT - charts.BOTTOM + 0.01
