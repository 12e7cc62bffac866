"""`maskfoundry models`: how well a CLIP names labelled masks, and the thresholds of its tags."""

from typing import Annotated

import typer

from pipeline.cli.options import AsJson
from pipeline.cli.terminal import say
from pipeline.json_text import json_text

Checkpoint = Annotated[str, typer.Argument(help="A CLIP's name, or a checkpoint file or folder.")]
Data = Annotated[str, typer.Option(help="A folder with annotations.json and images/, or a COCO JSON file.")]
Datas = Annotated[
    list[str],
    typer.Option("--data", help="A folder with annotations.json and images/, or a COCO JSON file; or several."),
]
Words = Annotated[str, typer.Option("--vocabulary", help="A shipped vocabulary's name, or a file.")]
Labels = Annotated[
    list[str] | None,
    typer.Option(
        "--label",
        metavar="GROUP=FIELD",
        help="The field of a group, of annotations or of images of one thing; thing=category by default.",
    ),
]


def calibrate_tags_command(
    checkpoint: Checkpoint,
    destination: Annotated[str, typer.Argument(help="The .safetensors file to write.")],
    data: Datas,
    vocabulary: Words = "everyday",
    label: Labels = None,
    precision: Annotated[float, typer.Option(min=0, max=1, help="The share of tags that are to be right.")] = 0.95,
    blanks: Annotated[
        bool, typer.Option("--blanks", help="Higher, too, than what blank pictures reach in the first group of words.")
    ] = False,
) -> None:
    """Write a CLIP with the thresholds at which its tags are as precise as asked on labelled masks."""
    from pathlib import Path

    from pipeline.evaluation.tags import calibrate_tags
    from pipeline.recipes.vocabularies import read_vocabulary
    from stages.tag_settings import TagSettings

    words, settings = read_vocabulary(vocabulary), TagSettings(checkpoint=checkpoint, vocabulary=vocabulary)
    found = calibrate_tags(settings, words, data, parse_labels(label), Path(destination), precision, blanks)
    for group, threshold in found.groups.items():
        say(f"{group}: {threshold:.3f}, and its own for {len(found.words[group])} words")
    say(f"{checkpoint} → {destination}")


def measure_tags_command(
    checkpoint: Checkpoint, data: Datas, vocabulary: Words = "everyday", label: Labels = None, as_json: AsJson = False
) -> None:
    """How often a CLIP's likeliest word is right on labelled masks, and its tags at their thresholds."""
    from dataclasses import asdict

    from pipeline.evaluation.tags import measure_tags
    from pipeline.recipes.vocabularies import read_vocabulary
    from stages.tag_settings import TagSettings

    settings = TagSettings(checkpoint=checkpoint, vocabulary=vocabulary)
    found = measure_tags(settings, read_vocabulary(vocabulary), data, parse_labels(label), quiet=as_json)
    if as_json:
        say(json_text({group: asdict(one) for group, one in found.items()}))
        return
    for group, one in found.items():
        say(
            f"{group}: {one.num_masks:,} masks and images, likeliest word right {one.accuracy:.1%} (or implied by the "
            f"right one {one.accuracy_kin:.1%}; large masks {one.accuracy_large:.1%}); tags right {one.precision:.1%}, "
            f"no tag {one.abstained:.1%}"
        )


def parse_labels(pairs: list[str] | None) -> dict[str, str]:
    """`group=field` pairs as a dict. Raises ValueError for one that is not of that form."""
    found = {}
    for pair in pairs or ["thing=category"]:
        group, mark, field = pair.partition("=")
        if not (group and mark and field):
            raise ValueError(f"--label {pair!r}: write it as GROUP=FIELD, such as thing=category")
        found[group] = field
    return found
