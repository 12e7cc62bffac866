"""The commands for rounds from better weights: refresh, rollback, loop, assist."""

import sys
from contextlib import redirect_stdout
from typing import Annotated

import typer

from pipeline.cli.options import AsJson, print_notes
from pipeline.cli.terminal import PlainConsole, say
from pipeline.json_text import json_text


def refresh_command(
    dataset: Annotated[str, typer.Argument(help="The dataset whose next round is to be made.")],
    checkpoint: Annotated[str, typer.Option(help="The new weights: a name, or a file.")],
    held_out: Annotated[
        str | None, typer.Option("--held-out", help="Labelled images (COCO) that no training saw, for the gate.")
    ] = None,
    where: Annotated[
        str | None, typer.Option(help='Only images with a mask for which this holds: "predicted_iou < .8"')
    ] = None,
    max_fall: Annotated[float, typer.Option(min=0, max=1, help="How far a measure may fall.")] = 0.01,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many held-out images.")] = None,
    recipe: Annotated[str | None, typer.Option(help="A run's recipe, instead of the newest round's own.")] = None,
    override: Annotated[
        list[str] | None, typer.Option("--set", "-o", metavar="FIELD=VALUE", help="Set a field of that recipe.")
    ] = None,
    other_sizes: Annotated[bool, typer.Option("--other-sizes", help="Take weights of another model size.")] = False,
    as_json: AsJson = False,
) -> None:
    """Annotate a dataset again with new weights; readers see it only if the weights pass the gate."""
    from pipeline.loop.refresh import RefreshPlan, refresh
    from pipeline.loop.settings import GateSettings
    from pipeline.loop.tables import churn_table, gate_table
    from pipeline.recipes.load_recipe import read_recipe

    if held_out is None:
        raise ValueError("--held-out: missing; the gate needs labelled images that no training saw")
    plan = RefreshPlan(
        dataset=dataset,
        checkpoint=checkpoint,
        gate=GateSettings(data=held_out, limit=limit, max_fall=max_fall),
        where=where,
        recipe=None if recipe is None else read_recipe(recipe),
        overrides=tuple(override or ()),
        other_sizes=other_sizes,
    )
    with redirect_stdout(sys.stderr):
        summary = refresh(plan, quiet=as_json)
    if as_json:
        say(json_text(summary.as_dict()))
    else:
        console = PlainConsole(soft_wrap=True)
        console.print(gate_table(summary.gate))
        if summary.churn:
            console.print(churn_table(summary.churn))
        say(_refresh_line(summary.status, summary.round, summary.images, summary.masks, dataset, summary.gate))
    if summary.status in ("refused", "interrupted", "taken_back"):
        raise typer.Exit(1)


def _refresh_line(status: str, number: int | None, images: int, masks: int, dataset: str, gate: dict) -> str:
    if status == "refused":
        return f"refused: {', '.join(gate['fell'])} fell by more than {gate['max_fall']:g}; nothing was annotated"
    if status == "interrupted":
        return "interrupted; what is committed stays unpublished, run the same command to go on"
    if status == "taken_back":
        return (
            f"round {number} of {dataset} is what these weights made, and was taken back; nothing was annotated "
            f"(`maskfoundry rollback --undo {number}` publishes it again)"
        )
    note = "published already" if status == "unchanged" else "published"
    return f"round {number} of {dataset} {note}: {images:,} images, {masks:,} masks"


def rollback_command(
    dataset: Annotated[str, typer.Argument(help="A dataset.")],
    undo: Annotated[int | None, typer.Option("--undo", help="Publish this round, which was taken back, again.")] = None,
) -> None:
    """Take the newest published round back; its files stay, and readers see the round before."""
    from pipeline.loop.rollback import restore, rollback

    if undo is not None:
        restore(dataset, undo)
        say(f"round {undo} of {dataset} is published again")
        return
    taken, shown = rollback(dataset)
    say(f"round {taken} of {dataset} is taken back; readers see round {shown} (--undo {taken} publishes it again)")


def loop_command(
    recipe: Annotated[str, typer.Argument(help="A loop's recipe, or the name of a shipped one.")],
    rounds: Annotated[int, typer.Option(min=1, help="How many rounds after the first.")] = 1,
    override: Annotated[
        list[str] | None, typer.Option("--set", "-o", metavar="FIELD=VALUE", help="Set a field: -o run.input=PHOTOS")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run, then train on the masks and annotate again, round after round; goes on where it was killed."""
    from pipeline.loop.loop import loop
    from pipeline.loop.tables import rounds_table
    from pipeline.recipes.load_recipe import load_loop_recipe

    with redirect_stdout(sys.stderr):
        summary = loop(load_loop_recipe(recipe, override), rounds, quiet=as_json)
    found = summary.as_dict()
    if as_json:
        say(json_text(found))
    else:
        PlainConsole(soft_wrap=True).print(rounds_table(found["rounds"]))
        say(f"{LOOP_ENDS[summary.status]} → {summary.dataset}")
    if summary.status != "done":
        raise typer.Exit(1)


LOOP_ENDS = {
    "done": "every round is published",
    "refused": "the gate refused the last weights; readers see the round before",
    "taken_back": "the next round was rolled back; `maskfoundry rollback --undo` publishes it again",
    "interrupted": "interrupted; run the same command to go on",
}


def assist_command(
    dataset: Annotated[str, typer.Argument(help="A dataset.")],
    labels: Annotated[str, typer.Option(help="People's masks of its images (COCO), or the truth for the oracle.")],
    confident: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Keep the model's masks of at least this predicted IoU; by default none."),
    ] = None,
    clicks: Annotated[
        int | None, typer.Option(min=1, help="Have an oracle click the masks, so many times at most an object.")
    ] = None,
    checkpoint: Annotated[str | None, typer.Option(help="The model that the oracle clicks with.")] = None,
    objects: Annotated[
        int | None, typer.Option(min=1, help="So many objects an image at most, the largest first.")
    ] = None,
    draw: Annotated[bool, typer.Option("--draw", help="Draw by hand what clicks do not get right.")] = False,
    as_json: AsJson = False,
) -> None:
    """Add people's masks to a dataset as its next round, beside the masks that the model is sure of."""
    from models.training.oracle import OracleSettings
    from pipeline.loop.assist import assist

    oracle = None if clicks is None else OracleSettings(max_clicks=clicks, draw=draw, max_objects=objects)
    summary = assist(dataset, labels, confident, oracle, checkpoint, quiet=as_json)
    if as_json:
        say(json_text(summary.as_dict()))
        return
    drawn, missed = summary.drawn, summary.missed
    note = (
        f" with {summary.clicks:,} clicks ({drawn:,} drawn in the end), {missed:,} objects left out" if oracle else ""
    )
    say(
        f"round {summary.round} of {dataset} ({summary.stage}): {summary.images:,} images, {summary.confident:,} masks "
        f"of the model kept, {summary.added:,} added{note}"
    )
    print_notes(summary.notes)
