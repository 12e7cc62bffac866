"""What several commands' options share."""

from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from pipeline.cli.terminal import say

if TYPE_CHECKING:
    from pipeline.labels.notes import Notes

Allow = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PREFIX",
        help="A folder or prefix, besides the dataset's own input, that pictures may be read from; may be repeated.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one machine-readable summary.")]


def print_notes(notes: "Notes") -> None:
    """What was left out of labels, mended or noticed: a line a reason."""
    for line in notes.lines():
        say(line)


def one_of(option: str, value: str, literal: Any) -> Any:
    """`value` if it is one of a Literal's. Raises ValueError, naming the option, if not."""
    known = get_args(literal)
    if value not in known:
        raise ValueError(f"{option}: {value!r} is none of {', '.join(known)}")
    return value
