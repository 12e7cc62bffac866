"""`maskfoundry models`: the models there are, and their files."""

from typing import Annotated

import typer
from rich.table import Table

from pipeline.cli.captions import calibrate_captions_command, measure_captions_command
from pipeline.cli.options import AsJson
from pipeline.cli.tags import calibrate_tags_command, measure_tags_command
from pipeline.cli.terminal import PlainConsole, say
from pipeline.json_text import json_text

models_app = typer.Typer(help="The models there are, and their files.", no_args_is_help=True)
models_app.command("calibrate-tags")(calibrate_tags_command)
models_app.command("measure-tags")(measure_tags_command)
models_app.command("calibrate-captions")(calibrate_captions_command)
models_app.command("measure-captions")(measure_captions_command)


@models_app.command("list")
def models_list(as_json: AsJson = False) -> None:
    """Embedded and published models."""
    from dataclasses import asdict

    from models.weights import available_models

    models = available_models()
    if as_json:
        say(json_text([asdict(model) for model in models]))
        return
    table = Table("name", "size", "from")
    for model in models:
        table.add_row(model.name, f"{model.num_bytes / 1e6:,.0f} MB", f"{model.origin}: {model.location}")
    PlainConsole(soft_wrap=True).print(table)


@models_app.command("convert")
def models_convert(
    source: Annotated[str, typer.Argument(help="A model's name, or a checkpoint file or folder.")],
    destination: Annotated[str, typer.Argument(help="The file to write: .pth (official layout) or .safetensors.")],
) -> None:
    """Write a checkpoint in another layout."""
    from pathlib import Path

    from models.weights import convert

    convert(source, Path(destination))
    say(f"{source} → {destination}")


@models_app.command("calibrate")
def models_calibrate(
    checkpoint: Annotated[str, typer.Argument(help="A model's name, or a checkpoint file or folder.")],
    destination: Annotated[str, typer.Argument(help="The .safetensors file to write.")],
    data: Annotated[str, typer.Option(help="A folder with annotations.json and images/, or a COCO JSON file.")],
    limit: Annotated[int | None, typer.Option(help="Only the first so many labelled images.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Another input size in pixels, for which to write it.")] = None,
) -> None:
    """Make a model's predicted IoU mean what it says on labelled images; no mask changes."""
    from pathlib import Path

    from pipeline.evaluation.calibrate import calibrate

    fit = calibrate(checkpoint, data, Path(destination), limit, image_size)
    say(
        f"on held-out images, squared error of the predicted IoU {fit.error_before:.4f} → {fit.error_after:.4f}; IoU "
        f"of the mask rated best {fit.chosen_before:.3f} → {fit.chosen_after:.3f} (the best of three: {fit.best:.3f})"
    )
    say(f"{checkpoint} → {destination}")


@models_app.command("verify")
def models_verify(checkpoint: Annotated[str, typer.Argument(help="A model's name, or a checkpoint file.")]) -> None:
    """Load a checkpoint strictly and print its checksum and size."""
    from models.weights import verify_checkpoint

    found = verify_checkpoint(checkpoint)
    say(
        f"{found.path}: in order, {found.layout} layout, {found.num_parameters / 1e6:.1f} M parameters, "
        f"{found.config.image_size} px input, sha256 {found.sha256}"
    )
