"""The command line. A user's mistake gets one line and exit code 2, a failed run exit code 1."""

import sys
from contextlib import redirect_stdout
from typing import Annotated, Any

import typer

from models.url_credentials import redact
from pipeline.cli.dataset import (
    audit_command,
    drop_command,
    export_command,
    find_command,
    import_command,
    query_command,
    report_command,
)
from pipeline.cli.loop import assist_command, loop_command, refresh_command, rollback_command
from pipeline.cli.models import models_app
from pipeline.cli.options import AsJson, print_notes
from pipeline.cli.terminal import PlainConsole, say
from pipeline.json_text import json_text
from pipeline.video.command import run_video_command

app = typer.Typer(
    help="MaskFoundry turns a bucket of images into a segmentation dataset.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", "-o", metavar="FIELD=VALUE", help="Set a recipe field: -o generate.points_per_side=16"),
]


@app.command("run")
def run_command(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a shipped one.")],
    override: Overrides = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Redo images that failed before.")] = False,
    new_round: Annotated[bool, typer.Option("--new-round", help="Start the next round.")] = False,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Only the I-th of N fixed parts of the input (1/4 … 4/4).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Annotate images: write a dataset, or go on with one."""
    from pipeline.recipes.load_recipe import load_run_recipe
    from pipeline.recipes.recipe import Recipe
    from pipeline.report.write import report_on_run
    from pipeline.runs.run import run
    from pipeline.store.shards import parse_shard

    part = None if shard is None else parse_shard(shard)
    settings = load_run_recipe(recipe, override)
    if not isinstance(settings, Recipe):
        if part is not None:
            raise ValueError(
                f"--shard {shard!r}: not for videos; give each run a part of them with include and exclude"
            )
        run_video_command(settings, retry_failed, new_round, as_json)
        return
    with redirect_stdout(sys.stderr):  # Ray prints what it has to say there
        summary = run(settings, retry_failed, new_round, quiet=as_json, shard=part)
    page, problem = None, None
    if summary.status == "done":
        page, problem = report_on_run(summary.output, summary.round)
    if as_json:
        say(json_text(summary.as_dict() | {"report": page}))
    else:
        _print_run(summary)
        if page:
            say(f"report: {page}")
    if problem:
        say(f"the run is done, but its report could not be written: {problem}", file=sys.stderr)
    if summary.may_go_on:
        raise typer.Exit(1)


def _print_run(summary: Any) -> None:
    from pipeline.sources.notes import lines

    console = PlainConsole(soft_wrap=True)
    tally = summary.tally
    for line in lines(summary.listing):
        console.print(line)
    if summary.replayed.images:
        note = f", {summary.replayed.cut_short} with candidates cut short" if summary.replayed.cut_short else ""
        console.print(f"filters replayed on {summary.replayed.images:,} images{note}")
    if tally.images == 0 and summary.status == "done":
        console.print(f"nothing left to do: {summary.total_images:,} images in {summary.output}")
        return
    rate = tally.images / summary.seconds
    console.print(
        f"{tally.images:,} images, {tally.masks:,} masks in {summary.seconds:.1f} s ({rate:.2f} images/s)"
        f" → {summary.output}/round={summary.round:03d}",
        markup=False,
    )
    if tally.skipped:
        console.print(f"{tally.skipped:,} images skipped as near-duplicates")
    if tally.failed:
        console.print(f"{tally.failed:,} images failed:")
        for reason, count in tally.failures.most_common():
            console.print(f"  {count:,} × {reason}")
    if tally.failed == tally.images and not summary.may_go_on:
        console.print(f"so did all in the last {summary.fruitless_runs} runs, so they count as failed for good")
    if summary.total_images != tally.images:
        console.print(f"the round now holds {summary.total_images:,} images")
    if summary.status == "interrupted":
        console.print("interrupted; what is committed stays, run the same command to go on")


@app.command("filter")
def filter_command(
    dataset: Annotated[str, typer.Argument(help="The dataset whose newest round is filtered again.")],
    override: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Replay the filters on stored candidates with other thresholds; needs no GPU and no model."""
    from pipeline.replays.refilter import refilter

    with redirect_stdout(sys.stderr):
        result = refilter(dataset, override or [], quiet=as_json)
    if as_json:
        say(json_text(result))
        return
    say(f"{result['replayed_images']:,} images filtered again: {result['masks']:,} masks kept in {dataset}")
    if result["cut_short"]:
        say(
            f"{result['cut_short']:,} images had more rejected candidates than generate.store_floor.max_candidates; "
            "what the new rules make of the rest is not known"
        )


@app.command("scenes")
def scenes_command(
    output: Annotated[str, typer.Argument(help="A new folder: images/ and annotations.json, or clips, go there.")],
    count: Annotated[int, typer.Option(help="How many scenes.")] = 100,
    seed: Annotated[int, typer.Option(help="The first scene's seed; the next have the next ones.")] = 0,
    width: Annotated[int, typer.Option(help="Pixels.")] = 640,
    height: Annotated[int, typer.Option(help="Pixels.")] = 480,
    workers: Annotated[int, typer.Option(help="Processes.")] = 1,
    video: Annotated[bool, typer.Option("--video", help="Clips with moving objects, one SA-V-like JSON each.")] = False,
    frames: Annotated[int, typer.Option(help="With --video: frames a clip.")] = 24,
    mp4: Annotated[bool, typer.Option("--mp4", help="With --video: mp4 files, not folders of frames.")] = False,
) -> None:
    """Make synthetic labelled scenes: images and their true masks as COCO JSON, or clips."""
    from pipeline.progress import progress_bar
    from pipeline.scenes.write import write_scenes
    from pipeline.scenes.write_clips import write_clips

    if video:
        with progress_bar("drawing", count, "clips", quiet=False) as update:
            folder = write_clips(
                output, count, frames, seed, width, height, mp4, workers, lambda done: update(done, "")
            )
        say(f"{count:,} clips → {folder}")
        return
    with progress_bar("drawing", count, "scenes", quiet=False) as update:
        folder = write_scenes(output, count, seed, width, height, workers, lambda done: update(done, ""))
    say(f"{count:,} scenes → {folder}")


@app.command("verify")
def verify_command(dataset: Annotated[str, typer.Argument(help="A dataset.")], as_json: AsJson = False) -> None:
    """Decode every mask and hold it against its record."""
    from dataclasses import asdict

    from pipeline.store.verify import verify_dataset

    result = verify_dataset(dataset)
    if as_json:
        say(json_text(asdict(result)))
    else:
        say(f"{result.images:,} images ({result.failed:,} failed), {result.masks:,} masks, {result.rounds} rounds")
        for problem in result.problems:
            say(f"  {problem}")
        say(f"{result.num_problems:,} problems" if result.num_problems else "no problems")
    if result.num_problems:
        raise typer.Exit(1)


@app.command("train")
def train_command(
    recipe: Annotated[str, typer.Argument(help="A training recipe, or the name of a shipped one.")],
    override: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Train a SAM, a SAM 2, a CLIP or a captioner on labelled images and clips, or go on with a training."""
    from pipeline.recipes.load_recipe import load_train_recipe
    from pipeline.training.train_any import train_any

    summary = train_any(load_train_recipe(recipe, override), quiet=as_json)
    if as_json:
        say(json_text(summary.as_dict()))
        return
    loss = f", loss {summary.last['loss']:.3f}" if summary.last else ""
    say(
        f"{summary.num_steps_done:,} of {summary.num_steps:,} steps{loss}; {summary.num_masks:,} masks of "
        f"{summary.num_images:,} images in {summary.seconds:.0f} s → {summary.weights}"
    )
    print_notes(summary.notes)


@app.command("compact")
def compact_command(
    dataset: Annotated[str, typer.Argument(help="A dataset.")],
    images_per_part: Annotated[int, typer.Option(min=1, help="How many images a merged part may hold.")] = 1024,
) -> None:
    """Merge small parts into larger ones."""
    from pipeline.store.compact import compact

    result = compact(dataset, images_per_part)
    say(f"{result.parts_before:,} parts → {result.parts_after:,} in {dataset}")


@app.command("plan")
def plan_command(
    dataset: Annotated[str, typer.Argument(help="A dataset whose run is the yardstick.")],
    images: Annotated[int, typer.Option(min=1, help="How many images are to be annotated.")],
    hours: Annotated[float | None, typer.Option(min=0.01, help="How many workers would finish in this time.")] = None,
    as_json: AsJson = False,
) -> None:
    """Time, workers and bytes for many images, from a measured run."""
    from dataclasses import asdict

    from pipeline.store.plan import plan

    found = plan(dataset, images, hours)
    if as_json:
        say(json_text(asdict(found)))
        return
    worker = "GPU worker" if found.device == "cuda" else "CPU worker"
    say(f"measured: {found.images_per_worker_second:.2f} images/s a {worker}, on {found.measured_images:,} images")
    say(
        f"{found.images:,} images: {found.worker_hours:,.1f} {worker} hours; "
        f"{found.hours:,.1f} hours on {found.workers:,}; about {found.masks:,} masks, {found.bytes / 1e9:,.1f} GB"
    )


@app.command("status")
def status_command(dataset: Annotated[str, typer.Argument(help="A dataset.")], as_json: AsJson = False) -> None:
    """What a dataset holds, and how far a run is that is writing it."""
    from dataclasses import asdict

    from pipeline.sources.notes import lines
    from pipeline.store.status import read_status

    rounds = read_status(dataset)
    if as_json:
        say(json_text([asdict(one) for one in rounds]))
        return
    for one in rounds:
        hidden = "" if one.published else "; not published, so readers do not see it"
        say(f"round {one.number}: {one.images:,} images ({one.failed:,} failed) in {one.parts:,} parts{hidden}")
        if one.last_run:
            say(f"  last run {one.last_run['run_id']}: {one.last_run['status']}, {one.last_run['seconds']:.0f} s")
            for line in lines(one.last_run["listing"]) if "listing" in one.last_run else []:
                say(f"  {line}")
        for left in one.left_over:
            say(f"  {left}")
        for live in one.live:
            progress = live["progress"]
            done = f"{progress['images']:,} of {progress['of']:,} images" if progress else "starting"
            say(f"  run {live['run_id']} is writing (process {live['pid']} on {live['host']}): {done}")


@app.command("evaluate")
def evaluate_command(
    recipe: Annotated[str, typer.Argument(help="A run's recipe: its model, generate and filter sections count.")],
    data: Annotated[str, typer.Option(help="A folder with annotations.json and images/, or a COCO JSON file.")],
    images: Annotated[str | None, typer.Option(help="The pictures' folder, if they lie elsewhere.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first so many labelled images.")] = None,
    choose: Annotated[bool, typer.Option("--choose-thresholds", help="Find the filter's thresholds instead.")] = False,
    max_masks: Annotated[float, typer.Option(help="Masks an image that chosen thresholds may keep.")] = 300,
    override: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Measure a recipe's model on labelled images: prompted IoU, recall, best overlap, calibration."""
    from pipeline.evaluation import tables
    from pipeline.evaluation.choose_thresholds import choose_thresholds
    from pipeline.evaluation.evaluate import evaluate
    from pipeline.recipes.load_recipe import load_recipe

    settings = load_recipe(recipe, override)
    console = PlainConsole(soft_wrap=True)
    if choose:
        choice = choose_thresholds(settings, data, images, limit, max_masks, quiet=as_json)
        if as_json:
            say(json_text(choice.as_dict()))
            return
        console.print(tables.choice_table(choice))
        print_notes(choice.notes)
        best = choice.chosen
        say(
            f"-o filter.pred_iou_thresh={best.pred_iou_thresh:g} "
            f"-o filter.stability_score_thresh={best.stability_score_thresh:g}"
        )
        return
    found = evaluate(settings, data, images, limit, quiet=as_json)
    if as_json:
        say(json_text(found.as_dict()))
        return
    for table in (tables.size_table(found), tables.overlap_table(found), tables.calibration_table(found)):
        console.print(table)
    say(f"{found.num_images:,} images, {found.num_masks['all']:,} masks of {found.data} in {found.seconds:.1f} s")
    if found.num_without_masks:
        say(f"left out: {found.num_without_masks:,} images without masks")
    print_notes(found.notes)


app.command("query")(query_command)
app.command("find")(find_command)
app.command("export")(export_command)
app.command("import")(import_command)
app.command("audit")(audit_command)
app.command("drop")(drop_command)
app.command("report")(report_command)
app.command("assist")(assist_command)
app.command("loop")(loop_command)
app.command("refresh")(refresh_command)
app.command("rollback")(rollback_command)
app.add_typer(models_app, name="models")


def main() -> None:
    """Entry point of `maskfoundry`."""
    from models.weight_files import FetchError
    from pipeline.errors import RunError, TrainingError, UnreadableError

    try:
        app(standalone_mode=True)
    except FetchError as error:
        _fail(error, 1)
    except ValueError as error:
        _fail(error, 2)
    except (RunError, TrainingError, UnreadableError, OSError) as error:
        _fail(error, 1)


def _fail(error: Exception, code: int) -> None:
    say(f"maskfoundry: {redact(' '.join(str(error).split()))}", file=sys.stderr)
    sys.exit(code)
