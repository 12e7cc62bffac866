"""Bar charts as plain numbers, which the page's template draws as SVG."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.report.facts import DECADE_STEP, SCORE_STEP

WIDTH, HEIGHT = 300, 180
LEFT, RIGHT, TOP, BOTTOM = 38, 10, 10, 38
MAX_BARS = 30


@dataclass(frozen=True)
class Bar:
    """A rectangle of the picture, and what it stands for."""

    x: float
    y: float
    width: float
    height: float
    label: str


@dataclass(frozen=True)
class Tick:
    """A mark on an axis at `place` (x on the lower axis, y on the left one)."""

    place: float
    label: str


@dataclass(frozen=True)
class Chart:
    """A histogram in a picture of WIDTH by HEIGHT; `summary` says in words what it shows."""

    title: str
    axis: str
    summary: str
    bars: list[Bar]
    x_ticks: list[Tick]
    y_ticks: list[Tick]


def masks_per_image(images: dict[int, int]) -> Chart | None:
    """Of {number of masks: images}; bars are as wide as a round number of masks."""
    if not images:
        return None
    width = round_up(math.ceil((max(images) + 1) / MAX_BARS))
    bins: dict[int, int] = {}
    for count, num in images.items():
        bins[count // width] = bins.get(count // width, 0) + num
    last = max(bins)

    def name(index: int) -> str:
        return _range(index * width, (index + 1) * width - 1)

    every = round_up(math.ceil((last + 1) / 6))
    ticks = [(index + (0.5 if width == 1 else 0), compact(index * width)) for index in range(0, last + 1, every)]
    return _chart("Masks per image", "masks", "images", bins, (0, last + 1), ticks, name)


def scores(title: str, masks: dict[int, int]) -> Chart | None:
    """Of {bin of a score: kept masks}; only the tenths of the range 0 to 1 that are in use are shown."""
    if not masks:
        return None
    tenth = SCORE_STEP // 10
    low, high = min(masks) // tenth * tenth, min(max(masks) // tenth * tenth + tenth, SCORE_STEP)
    # whatever is 1 or above stands in the last bar
    bins: dict[int, int] = {}
    for index, num in masks.items():
        bins[min(index, SCORE_STEP - 1)] = bins.get(min(index, SCORE_STEP - 1), 0) + num
    low = min(low, min(bins) // tenth * tenth)
    every = tenth if high - low <= 5 * tenth else 2 * tenth

    def name(index: int) -> str:
        first = f"{index / SCORE_STEP:.2f}"
        return f"{first} or more" if index == SCORE_STEP - 1 else f"{first} to {(index + 1) / SCORE_STEP:.2f}"

    ticks = [(index, f"{index / SCORE_STEP:.1f}") for index in range(low, high + 1, every)]
    return _chart(title, title[0].lower() + title[1:], "masks", bins, (low, high), ticks, name)


def areas(masks: dict[int, int]) -> Chart | None:
    """Of {bin of the logarithm: kept masks}."""
    if not masks:
        return None
    low = min(masks) // DECADE_STEP * DECADE_STEP
    high = max(masks) // DECADE_STEP * DECADE_STEP + DECADE_STEP

    def name(index: int) -> str:
        first, beyond = (math.ceil(round(10 ** (one / DECADE_STEP), 6)) for one in (index, index + 1))
        return _range(first, max(first, beyond - 1)) + " pixels"

    ticks = [(index, compact(10 ** (index // DECADE_STEP))) for index in range(low, high + 1, DECADE_STEP)]
    return _chart("Area", "pixels, logarithmic", "masks", masks, (low, high), ticks, name)


def _chart(
    title: str,
    axis: str,
    unit: str,
    bins: dict[int, int],
    span: tuple[int, int],
    x_ticks: Sequence[tuple[float, str]],
    name: Callable[[int], str],
) -> Chart:
    low, high = span
    top = nice_top(max(bins.values()))
    step = (WIDTH - LEFT - RIGHT) / (high - low)
    full = HEIGHT - TOP - BOTTOM
    gap = min(1.5, step * 0.15)
    bars = []
    for index in sorted(bins):
        tall = bins[index] / top * full
        x = LEFT + (index - low) * step + gap / 2
        label = f"{name(index)}: {bins[index]:,} {unit.removesuffix('s') if bins[index] == 1 else unit}"
        bars.append(Bar(round(x, 2), round(TOP + full - tall, 2), round(step - gap, 2), round(tall, 2), label))
    peak = max(bins, key=lambda index: (bins[index], -index))
    total = sum(bins.values())
    summary = f"{title}: {total:,} {unit} from {name(min(bins))} up to {name(max(bins))}; most at {name(peak)}."
    return Chart(
        title=title,
        axis=axis,
        summary=summary,
        bars=bars,
        x_ticks=[Tick(round(LEFT + (place - low) * step, 2), label) for place, label in x_ticks],
        y_ticks=[Tick(round(TOP + full - share * full, 2), compact(top * share)) for share in _shares(top)],
    )


def _shares(top: int) -> tuple[float, ...]:
    return (0, 0.5, 1) if top % 2 == 0 else (0, 1)


def _range(first: int, last: int) -> str:
    return f"{first:,}" if first == last else f"{first:,} to {last:,}"


def round_up(value: int) -> int:
    """The smallest of 1, 2, 5, 10, 20, 50 … that is not below `value`."""
    unit = 10 ** max(0, len(str(value)) - 1)
    return next(unit * one for one in (1, 2, 5, 10) if unit * one >= value)


def nice_top(value: int) -> int:
    """Where an axis ends that holds `value`: two digits that are easy to halve, rounded up."""
    if value <= 4:
        return max(1, value)
    unit = 10 ** (len(str(value)) - 1)
    return next(round(unit * one) for one in (1, 1.2, 1.6, 2, 2.4, 3, 4, 5, 6, 8, 10) if round(unit * one) >= value)


def compact(value: float) -> str:
    """A number for an axis: 950, 1.2k, 30M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"
