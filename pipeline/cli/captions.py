"""`maskfoundry models`: how often captions of labelled masks are right, and the score that they must reach."""

from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.options import AsJson
from pipeline.cli.tags import Data, Labels, Words, parse_labels
from pipeline.cli.terminal import say
from pipeline.json_text import json_text

if TYPE_CHECKING:
    from pipeline.evaluation.captions import LabelledCaptions

Captioner = Annotated[str, typer.Argument(help="A captioner's name, or its checkpoint file.")]
Clip = Annotated[str, typer.Option(help="The CLIP on whose features it was trained.")]
Templates = Annotated[
    list[str] | None, typer.Option("--template", help="Further candidates, of a mask's tags: 'a {colour} {thing}'.")
]
MinArea = Annotated[int, typer.Option(min=0, help="Only masks of so many pixels or more.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first so many labelled images.")]


def calibrate_captions_command(
    captioner: Captioner,
    destination: Annotated[str, typer.Argument(help="The .safetensors file to write.")],
    clip: Clip,
    data: Data,
    vocabulary: Words = "everyday",
    label: Labels = None,
    template: Templates = None,
    min_area: MinArea = 0,
    limit: Limit = None,
    correct: Annotated[
        float, typer.Option(min=0, max=1, help="The share of captions that are to name every label rightly.")
    ] = 0.8,
) -> None:
    """Write a captioner with the score from which on its captions are as right as asked on labelled masks."""
    from pathlib import Path

    from pipeline.evaluation.captions import calibrate_captions

    found = _captions(captioner, clip, data, vocabulary, label, template, min_area, limit, -1.0, quiet=False)
    chosen = calibrate_captions(captioner, found, Path(destination), correct)
    left = found.scores >= chosen
    say(f"{len(left):,} masks; captions from a score of {chosen:.3f} on, which {left.mean():.1%} of the masks have")
    say(f"{captioner} → {destination}")


def measure_captions_command(
    captioner: Captioner,
    clip: Clip,
    data: Data,
    vocabulary: Words = "everyday",
    label: Labels = None,
    template: Templates = None,
    min_area: MinArea = 0,
    limit: Limit = None,
    min_score: Annotated[
        float | None, typer.Option(min=-1, max=1, help="The score that captions must reach; by default the calibrated.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """How many of the captions of labelled masks name the right words."""
    found = _captions(captioner, clip, data, vocabulary, label, template, min_area, limit, min_score, quiet=as_json)
    correct = found.correct()
    if as_json:
        say(json_text({"num_masks": len(found.scores), "without_caption": found.rejected, "correct": correct}))
        return
    named = ", ".join(f"{group} {share:.1%}" for group, share in correct.items())
    say(f"{len(found.scores):,} masks, {found.rejected:.1%} without a caption; the others name rightly: {named}")


def _captions(
    captioner: str,
    clip: str,
    data: str,
    vocabulary: str,
    label: list[str] | None,
    template: list[str] | None,
    min_area: int,
    limit: int | None,
    min_score: float | None,
    quiet: bool,
) -> "LabelledCaptions":
    from pipeline.evaluation.captions import caption_labelled
    from pipeline.recipes.vocabularies import read_vocabulary
    from stages.caption_settings import CaptionSettings
    from stages.tag_settings import TagSettings

    labels = parse_labels(label)
    found = caption_labelled(
        CaptionSettings(captioner=captioner, templates=tuple(template or ()), min_score=min_score),
        TagSettings(checkpoint=clip, vocabulary=vocabulary),
        read_vocabulary(vocabulary),
        [data],
        labels,
        list(labels),
        min_area,
        limit,
        quiet,
    )
    if not len(found.scores):
        raise ValueError(f"--min-area {min_area}: no labelled mask of {data!r} is as large; choose a lower one")
    return found
