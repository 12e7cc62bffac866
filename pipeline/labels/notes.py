"""What was left out of labels, mended or noticed in them: how often, by reason."""

from collections.abc import Iterator
from dataclasses import dataclass, field

MAX_SHOWN = 200  # letters of a stranger's text in a line


@dataclass
class Notes:
    """Counts by reason (`left out: mask without a pixel`), and of each reason the first place where it was met."""

    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, reason: str, where: str, number: int = 1) -> None:
        """Counts `reason` once more, or `number` times."""
        self.counts[reason] = self.counts.get(reason, 0) + number
        self.first.setdefault(reason, where)

    def update(self, other: "Notes") -> None:
        """Adds what another one counted."""
        for reason, number in other.counts.items():
            self.add(reason, other.first[reason], number)

    def lines(self) -> Iterator[str]:
        """One line a reason, for a person."""
        for reason, number in sorted(self.counts.items()):
            yield f"{reason}: {number:,} (first: {self.first[reason]})"


def shown(value: object) -> str:
    """A stranger's value as part of a line: as Python writes it, cut where it is long."""
    text = repr(value) if not isinstance(value, str) else value
    text = " ".join(text[: 2 * MAX_SHOWN].encode("utf-8", "replace").decode().split())
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"
