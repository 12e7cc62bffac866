"""Words for what a scene shows: names, relations and captions, from the finished image and its masks."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_VOWELS = ("a", "e", "i", "o", "u")


@dataclass(frozen=True)
class Place:
    """What relations are told from: a segment's words, its box (x0, y0, x1, y1), middle, area and backdrop or not."""

    words: str
    box: tuple[int, int, int, int]
    middle: tuple[float, float]
    area: int
    backdrop: bool


def phrase(colour: str, pattern: str, noun: str) -> str:
    """The words for a segment: "red striped disc", or "red disc" when plain."""
    return f"{colour} {noun}" if pattern == "plain" else f"{colour} {pattern} {noun}"


def with_article(words: str) -> str:
    """The words with "a" or "an" before them."""
    return f"{'an' if words.startswith(_VOWELS) else 'a'} {words}"


def relation(of: int, places: Sequence[Place], scale: float) -> str:
    """Where segment `of` is relative to its nearest telling neighbour: "left of the blue car", "" if alone.

    `places` are whole objects and backdrop regions; `scale` is a length of the scene in pixels.
    """
    here = places[of]
    best, best_distance = None, np.inf
    for index, other in enumerate(places):
        if index == of or (other.backdrop and not here.backdrop) or other.words == here.words:
            continue
        distance = float(np.hypot(other.middle[0] - here.middle[0], other.middle[1] - here.middle[1]))
        distance *= 1.0 + 0.3 * scale / (scale + np.sqrt(other.area) * 20.0)  # prefer neighbours one can see well
        if distance < best_distance:
            best, best_distance = other, distance
    if best is None:
        return ""
    dx, dy = here.middle[0] - best.middle[0], here.middle[1] - best.middle[1]
    if _holds(best.box, here.box) and not best.backdrop:
        side = "in front of"
    elif abs(dx) >= abs(dy):
        side = "left of" if dx < 0 else "right of"
    else:
        side = "above" if dy < 0 else "below"
    return f"{side} the {best.words}"


def scene_caption(place: str, places: Sequence[Place]) -> str:
    """One sentence for the whole image: the place and its largest objects."""
    objects = sorted((p for p in places if not p.backdrop), key=lambda p: -p.area)
    counts = Counter(p.words for p in objects[:12])
    named = [with_article(words) if n == 1 else f"{_number(n)} {plural(words)}" for words, n in counts.items()][:4]
    if not named:
        return f"{with_article(place)} with nothing in it"
    listed = named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"
    return f"{with_article(place)} with {listed}"


def plural(words: str) -> str:
    """The plural of a phrase whose last word is its noun."""
    irregular = {"leaf": "leaves", "box": "boxes", "bus": "buses", "person": "people", "mouse": "mice",
                 "sheep": "sheep", "deer": "deer", "fish": "fish", "bush": "bushes", "cross": "crosses",
                 "cactus": "cacti", "branch": "branches", "butterfly": "butterflies", "lorry": "lorries",
                 "tomato": "tomatoes"}  # fmt: skip
    head, _, last = words.rpartition(" ")
    return f"{head} {irregular.get(last, last + 's')}".strip()


def _number(count: int) -> str:
    return ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")[count - 2]


def _holds(outer: tuple[int, int, int, int], inner: tuple[int, int, int, int]) -> bool:
    return outer[0] <= inner[0] and outer[1] <= inner[1] and inner[2] <= outer[2] and inner[3] <= outer[3]
