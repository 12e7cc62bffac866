"""Rows of text as a table that reads well on a screen and in Markdown."""

from collections.abc import Sequence


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with its columns padded: the first to the left, the others to the right."""
    widths = [max(len(row[index]) for row in (header, *rows)) for index in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        return " | ".join(["| " + first[0].ljust(first[1]), *(text.rjust(width) for text, width in others)]) + " |"

    first, *others = widths
    rule = "|".join(["|" + "-" * (first + 2), *("-" * (width + 1) + ":" for width in others)]) + "|"
    return "\n".join([line(header), rule, *(line(row) for row in rows)])
