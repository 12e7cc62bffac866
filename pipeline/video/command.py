"""What `maskfoundry run` does with a recipe over videos."""

import sys
from contextlib import redirect_stdout
from typing import TYPE_CHECKING

import typer

from pipeline.cli.terminal import say
from pipeline.json_text import json_text
from pipeline.sources.notes import lines

if TYPE_CHECKING:
    from pipeline.video.recipe import VideoRecipe
    from pipeline.video.run import VideoRunSummary


def run_video_command(recipe: "VideoRecipe", retry_failed: bool, new_round: bool, as_json: bool) -> None:
    """Annotate videos: write a dataset of masklets, or go on with one."""
    from pipeline.video.run import run_video

    with redirect_stdout(sys.stderr):  # Ray prints what it has to say there
        summary = run_video(recipe, retry_failed, new_round, quiet=as_json)
    if as_json:
        say(json_text(summary.as_dict()))
    else:
        _print_run(summary)
    if summary.may_go_on:
        raise typer.Exit(1)


def _print_run(summary: "VideoRunSummary") -> None:
    tally = summary.tally
    for line in lines(summary.listing):
        say(line)
    if tally.videos == 0 and summary.status == "done":
        say(f"nothing left to do: {summary.total_videos:,} videos in {summary.output}")
    else:
        rate = tally.frames / summary.seconds
        say(
            f"{tally.videos:,} videos, {tally.masklets:,} masklets on {tally.frames:,} frames in "
            f"{summary.seconds:.1f} s ({rate:.2f} frames/s) → {summary.output}/round={summary.round:03d}"
        )
        for reason, count in tally.failures.most_common():
            say(f"  {count:,} failed: {reason}")
        if tally.failed == tally.videos and not summary.may_go_on:
            say(f"so did all in the last {summary.fruitless_runs} runs, so they count as failed for good")
        if summary.total_videos != tally.videos:
            say(f"the round now holds {summary.total_videos:,} videos")
        if summary.status == "interrupted":
            say("interrupted; what is committed stays, run the same command to go on")
