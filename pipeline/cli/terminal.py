"""What a person reads on a terminal: ids, tags and errors come from strangers, and may hold codes that steer it."""

import sys
import unicodedata
from collections.abc import Iterable
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

_KEPT = "\n\t"


def plain(text: str) -> str:
    """`text` with what steers a terminal or turns the direction of writing spelled out, as `\\x1b`."""
    return "".join(one if one in _KEPT or not _steers(one) else repr(one)[1:-1] for one in text)


def _steers(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def say(text: str = "", file: TextIO | None = None) -> None:
    """`print` for texts that hold names of a dataset."""
    print(plain(text), file=file or sys.stdout)


class PlainConsole(Console):
    """Tables and lines whose cells hold names of a dataset; rich's own codes, for colours, stay."""

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """A cell's text, which is measured and drawn as it is shown."""
        return super().render_str(plain(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(plain(segment.text), segment.style)
