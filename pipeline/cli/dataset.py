"""The commands for a dataset in use: query, export, import, audit, drop, report."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.options import Allow, AsJson, one_of, print_notes
from pipeline.cli.terminal import PlainConsole, say
from pipeline.json_text import json_text

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.cli.answers import Format


def query_command(
    dataset: Annotated[str, typer.Argument(help="A dataset, on disk or in a bucket.")],
    predicate: Annotated[
        str | None, typer.Argument(help='SQL over a mask and its image: "predicted_iou > .9 and area > 1000"')
    ] = None,
    sql: Annotated[str | None, typer.Option(help="A whole SELECT over the views `images` and `masks` instead.")] = None,
    round_number: Annotated[int | None, typer.Option("--round", help="One round only.")] = None,
    all_rounds: Annotated[bool, typer.Option("--all-rounds", help="Every round, not each image's newest.")] = False,
    candidates: Annotated[bool, typer.Option("--candidates", help="Stored rejected masks too.")] = False,
    output_format: Annotated[
        str | None, typer.Option("--format", help="table, json (lines), csv or parquet; by default as --output ends.")
    ] = None,
    output: Annotated[str | None, typer.Option(help="A file for the answer.")] = None,
    subset: Annotated[str | None, typer.Option(help="Write the matching rows and masks as a dataset.")] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave damaged parts out.")] = False,
    max_seconds: Annotated[float, typer.Option(min=0.1, help="How long the query may take.")] = 600,
    max_memory: Annotated[
        float | None, typer.Option(min=0.01, metavar="GB", help="What it may take; by default half of what is free.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find masks by what is known about them."""
    from pipeline.cli.answers import choose_format
    from pipeline.dataset import open_dataset
    from pipeline.queries.limits import QueryLimits
    from pipeline.queries.query import query
    from pipeline.queries.subset import write_subset
    from pipeline.video.masklets import RESULT as MASKLET_RESULT
    from pipeline.video.masklets import open_masklets

    if sql is not None and (predicate is not None or subset is not None):
        raise ValueError("--sql: a whole statement takes neither a predicate nor --subset; give one of them")
    chosen = choose_format(output_format, output)
    limits = QueryLimits(max_seconds, None if max_memory is None else int(max_memory * 1e9))
    masklets = open_masklets(dataset, round_number)
    if masklets is not None:
        if subset is not None:
            raise ValueError("--subset: not for masklets; use --output x.parquet, or export --where")
        where = "" if predicate is None else f" WHERE ({predicate}\n)"
        answer = masklets.query(sql or f"SELECT {MASKLET_RESULT} FROM masklets{where}", candidates, limits)
        _give(answer, chosen, output, as_json)
        return
    found = open_dataset(dataset, round_number, all_rounds, candidates)
    if predicate is not None:
        found = found.filter(predicate)
    if subset is not None:
        summary = write_subset(found, subset, quiet=as_json)
        say(
            json_text(summary.as_dict())
            if as_json
            else f"{summary.masks:,} masks of {summary.images:,} images → {summary.output}"
        )
        return
    answer, bad = query(found, sql, skip_bad, limits)
    for path in bad:
        say(f"left out, as it cannot be read: {path}", file=sys.stderr)
    _give(answer, chosen, output, as_json)


def _give(answer: "pa.Table", chosen: "Format", output: str | None, as_json: bool) -> None:
    """The answer to a question, printed or as a file."""
    from pipeline.cli.answers import print_answer, save_answer

    if output is None:
        print_answer(answer, "json" if as_json else chosen)
    else:
        save_answer(answer, chosen, output)
        say(f"{answer.num_rows:,} rows → {output}")


def find_command(
    dataset: Annotated[str, typer.Argument(help="A dataset, on disk or in a bucket.")],
    text: Annotated[str, typer.Argument(help='What the masks should show: "a red striped ball"')],
    number: Annotated[int, typer.Option("-n", min=1, help="How many masks.")] = 20,
    where: Annotated[str | None, typer.Option(help="Only the masks for which this SQL predicate holds.")] = None,
    round_number: Annotated[int | None, typer.Option("--round", help="One round only.")] = None,
    output_format: Annotated[
        str | None, typer.Option("--format", help="table, json (lines), csv or parquet; by default as --output ends.")
    ] = None,
    output: Annotated[str | None, typer.Option(help="A file for the answer.")] = None,
    subset: Annotated[str | None, typer.Option(help="Write these masks and their images as a dataset, too.")] = None,
    as_json: AsJson = False,
) -> None:
    """Find the masks that look most like a sentence; needs the embeddings that `tag.store_embeddings` keeps."""
    from pipeline.cli.answers import choose_format, print_answer, save_answer
    from pipeline.dataset import open_dataset
    from pipeline.queries.find import find
    from pipeline.queries.subset import write_subset

    chosen = choose_format(output_format, output)
    found = open_dataset(dataset, round_number)
    found = found if where is None else found.filter(where)
    answer = find(found, text, number, quiet=as_json)
    if answer.num_without:
        say(f"not searched, as they have no embedding: {answer.num_without:,} masks", file=sys.stderr)
    if subset is not None:
        ids = ", ".join("'" + one.replace("'", "''") + "'" for one in answer.masks["mask_id"].to_pylist())
        write_subset(found.filter(f"mask_id IN ({ids or 'NULL'})"), subset, quiet=as_json)
    if output is None:
        print_answer(answer.masks, "json" if as_json else chosen)
    else:
        save_answer(answer.masks, chosen, output)
        say(f"{answer.masks.num_rows:,} rows → {output}")


def export_command(
    dataset: Annotated[str, typer.Argument(help="A dataset, on disk or in a bucket.")],
    output: Annotated[str, typer.Argument(help="The folder to write, on disk or in a bucket.")],
    layout: Annotated[
        str,
        typer.Option(
            help="coco, sa1b, webdataset, panoptic, yolo, huggingface or label-studio; of masklets sav or youtube-vis."
        ),
    ] = "coco",
    pictures: Annotated[bool, typer.Option("--images", help="Write the pictures too, not only their URIs.")] = False,
    short_side: Annotated[
        int | None, typer.Option(min=1, help="Make larger pictures and their masks so small; needs --images.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(metavar="TRAIN/VAL/TEST", help="Shares, as 80/10/10; near-duplicates stay together.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the split.")] = 0,
    where: Annotated[str | None, typer.Option(help="Only the masks for which this SQL predicate holds.")] = None,
    allow: Allow = None,
    as_json: AsJson = False,
) -> None:
    """Write a dataset in another tool's layout."""
    from pipeline.dataset import open_dataset
    from pipeline.export.split import parse_shares
    from pipeline.export.write import Layout, export
    from pipeline.video.export import VideoLayout, export_masklets
    from pipeline.video.masklets import open_masklets

    masklets = open_masklets(dataset)
    if masklets is not None:
        written = export_masklets(masklets, output, one_of("--layout", layout, VideoLayout), where)
        say(
            json_text(written.as_dict())
            if as_json
            else f"{written.masklets:,} masklets of {written.videos:,} videos → {written.output}"
        )
        return
    chosen: Layout = one_of("--layout", layout, Layout)
    shares = None if split is None else parse_shares(split)
    found = open_dataset(dataset).allowing(allow or ())
    found = found if where is None else found.filter(where)
    summary = export(found, output, chosen, pictures, as_json, short_side, shares, seed)
    if as_json:
        say(json_text(summary.as_dict()))
        return
    say(f"{summary.masks:,} masks of {summary.images:,} images → {summary.output}")
    if summary.lost_masks:
        say(f"left out, as no pixel of them is left: {summary.lost_masks:,} masks")
    if summary.turned:
        say(
            f"referenced pictures that EXIF turns: {summary.turned:,}; their sizes and masks are those of the upright "
            "picture, and --images writes it so"
        )
    if summary.missing:
        say(f"left out, as the picture cannot be read: {summary.missing:,} images ({summary.missing_names[0]})")


def import_command(
    labels: Annotated[
        str, typer.Argument(help="COCO, LVIS or Label Studio JSON; a folder of SA-1B's files or WebDataset archives.")
    ],
    output: Annotated[str, typer.Argument(help="A dataset; one that exists gets a round of the corrected images.")],
    images: Annotated[str | None, typer.Option(help="The pictures' folder, if they lie elsewhere.")] = None,
    source: Annotated[str, typer.Option(help="Who made the masks: human, or imported from a machine.")] = "human",
    as_json: AsJson = False,
) -> None:
    """Read other tools' masks into a dataset."""
    from pipeline.imports.write import Source, import_labels

    chosen: Source = one_of("--source", source, Source)
    summary = import_labels(labels, output, images, chosen, quiet=as_json)
    if as_json:
        say(json_text(summary.as_dict()))
    else:
        say(
            f"{summary.masks:,} masks of {summary.images:,} images ({summary.corrected:,} corrected, "
            f"{summary.added:,} added, {summary.failed:,} failed) → {summary.output}/round={summary.round:03d}"
        )
        print_notes(summary.notes)
        if summary.failures:
            say(f"failed: {summary.failures[0]}")
    if summary.images and summary.failed == summary.images:
        raise typer.Exit(1)


def audit_command(
    dataset: Annotated[str, typer.Argument(help="A dataset, on disk or in a bucket.")],
    num_images: Annotated[
        int | None, typer.Option("-n", min=1, help="Draw so many images for people; without it, report on the last.")
    ] = None,
    output: Annotated[str | None, typer.Option(help="A folder for the tasks; by default DATASET-audit.")] = None,
    pictures: Annotated[bool, typer.Option("--images", help="Write the pictures too, not only their URIs.")] = False,
    seed: Annotated[int, typer.Option(help="Another seed draws other images.")] = 0,
    allow: Allow = None,
    as_json: AsJson = False,
) -> None:
    """Have people look over a sample of the masks, and measure how much they changed."""
    from pipeline.audit.measure import measure_audit
    from pipeline.audit.sample import draw_sample
    from pipeline.audit.tables import audit_table
    from pipeline.dataset import open_dataset

    if num_images is not None:
        target = output or f"{dataset.rstrip('/')}-audit"
        drawn = draw_sample(open_dataset(dataset).allowing(allow or ()), num_images, target, pictures, seed, as_json)
        text = f"{drawn.masks:,} masks of {drawn.images:,} images → {drawn.output}/tasks, for Label Studio"
        say(json_text(drawn.as_dict()) if as_json else text)
        return
    found = measure_audit(dataset)
    if as_json:
        say(json_text(found.as_dict()))
        return
    PlainConsole(soft_wrap=True).print(audit_table(found))
    say(
        f"{found.images:,} of {found.sampled:,} images have come back; people took {found.removed:,} masks away and "
        f"drew {found.added:,}"
    )


def drop_command(
    dataset: Annotated[str, typer.Argument(help="A dataset, on disk or in a bucket.")],
    images: Annotated[list[str], typer.Option("--image", help="An image's or video's id or URI; may be repeated.")],
    as_json: AsJson = False,
) -> None:
    """Take images down: out of every round, and never back."""
    from pipeline.store.drop import drop_images

    summary = drop_images(dataset, images, quiet=as_json)
    if as_json:
        say(json_text(summary.as_dict()))
    else:
        say(f"{summary.images:,} images dropped: {summary.rows:,} rows in {summary.parts:,} parts of {dataset}")
        if summary.in_no_round:
            say(f"{summary.in_no_round:,} of them stand in no round; they are listed, and no run will bring them in")
        if summary.again:
            say(f"{summary.again:,} images that were skipped as near-duplicates of these are annotated by the next run")


def report_command(
    dataset: Annotated[str, typer.Argument(help="A dataset, on disk or in a bucket.")],
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="The page's file; by default report/index.html in the dataset.")
    ] = None,
    gallery: Annotated[int, typer.Option(min=0, max=500, help="How many images are shown with their masks.")] = 24,
    round_number: Annotated[int | None, typer.Option("--round", help="One round only.")] = None,
    allow: Allow = None,
    as_json: AsJson = False,
) -> None:
    """Write one HTML page about a dataset: figures, charts, failures, pictures with their masks."""
    from pipeline.dataset import open_dataset
    from pipeline.report.write import write_report
    from pipeline.video.masklets import open_masklets
    from pipeline.video.report import write_video_report

    masklets = open_masklets(dataset, round_number)
    if masklets is not None:
        page = write_video_report(masklets.allowing(allow or ()), output, gallery)
        say(
            json_text(page.as_dict())
            if as_json
            else f"{page.videos:,} videos, {page.masklets:,} masklets; {page.strips:,} filmstrips → {page.output}"
        )
        return
    summary = write_report(open_dataset(dataset, round_number).allowing(allow or ()), output, gallery)
    if as_json:
        say(json_text(summary.as_dict()))
        return
    for path in summary.bad_parts:
        say(f"left out, as it cannot be read: {path}", file=sys.stderr)
    say(
        f"{summary.images:,} images, {summary.masks:,} masks; {summary.pictures:,} pictures, "
        f"{summary.bytes / 1e6:.1f} MB in {summary.seconds:.1f} s → {summary.output}"
    )
