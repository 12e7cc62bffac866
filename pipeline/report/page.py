"""Facts and pictures as one HTML page that needs no other file and no network."""

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from models.url_credentials import redact
from pipeline.report import charts
from pipeline.report.facts import Facts
from pipeline.report.gallery import Picture

MAX_RUNS = 20
MAX_RECIPE = 20_000  # characters


@dataclass(frozen=True)
class Content:
    """What a page is made of. `record` is `_run.json` of the newest round, or empty; `num_parts` those of the dataset,
    of which the facts may cover a sample."""

    uri: str
    rounds: tuple[int, ...]
    num_parts: int
    facts: Facts
    pictures: Sequence[Picture]
    record: dict[str, Any]


def render_page(content: Content) -> bytes:
    """The page. Every text from the dataset is escaped, and the page itself forbids the browser to load anything or to
    run any script but its own."""
    facts, record = content.facts, content.record
    style, script = _own("style.css"), _own("script.js")
    runs = [_run_row(run) for run in _dicts(record.get("runs"))][-MAX_RUNS:]
    names = sorted({name for picture in content.pictures for name in _tag_names(picture)})
    page = _environment().from_string(_own("page.html.j2"))
    return page.render(
        style=Markup(style),
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
        name=content.uri.rstrip("/").rpartition("/")[2] or content.uri,
        uri=content.uri,
        rounds=_rounds(content.rounds),
        written=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        facts=facts,
        funnel=facts.funnel(),
        num_parts=content.num_parts,
        sampled=facts.num_parts + len(facts.bad_parts) < content.num_parts,
        pictures=content.pictures,
        tags=names,
        charts=_charts(facts),
        size={
            "width": charts.WIDTH,
            "height": charts.HEIGHT,
            "left": charts.LEFT,
            "right": charts.WIDTH - charts.RIGHT,
            "bottom": charts.HEIGHT - charts.BOTTOM,
        },
        rate=next((run["rate"] for run in reversed(runs) if run["rate"]), None),
        run_facts=_run_facts(record),
        runs=runs,
        recipe=yaml.safe_dump(record["recipe"], sort_keys=False)[:MAX_RECIPE] if record.get("recipe") else None,
    ).encode()


def _environment() -> Environment:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, finalize=_without_secrets)
    environment.filters |= {"short": _short, "reason": _reason, "json_text": json.dumps}
    return environment


def _without_secrets(value: Any) -> Any:
    """A record of an earlier version, or of somebody else, may hold addresses with passwords."""
    return redact(value) if type(value) is str else value


def _own(name: str) -> str:
    return (files("pipeline.report") / name).read_text("utf-8")


def _hash(text: str) -> str:
    """What a Content-Security-Policy calls an inline text by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _short(text: Any, length: int = 200) -> str:
    text = str(text)
    return text if len(text) <= length else text[: length - 1] + "…"


def _reason(name: str) -> str:
    return {"box_nms": "box NMS", "crop_nms": "crop NMS", "predicted_iou": "predicted IoU"}.get(
        name, name.replace("_", " ")
    )


def _rounds(numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return f"round {numbers[0]}"
    return f"rounds {', '.join(map(str, numbers))}, of each image the newest" if numbers else "no published round"


def _tag_names(picture: Picture) -> list[str]:
    return [*picture.tags, *(name for mask in picture.outlines for name in json.loads(mask.tags))]


def _charts(facts: Facts) -> list[charts.Chart]:
    if not facts.num_masks:
        return []
    drawn = (
        charts.masks_per_image(facts.masks_per_image),
        charts.areas(facts.area),
        charts.scores("Predicted IoU", facts.predicted_iou),
        charts.scores("Stability score", facts.stability_score),
    )
    return [chart for chart in drawn if chart is not None]


def _run_facts(record: dict[str, Any]) -> list[tuple[str, str]]:
    """(label, value) of what a record says about its whole round; records of other origins say less."""
    recipe, weights = _dict(record.get("recipe")), _dict(record.get("weights"))
    subset = _dict(record.get("subset_of"))
    facts = {
        "Procedure": recipe.get("preset"),
        "Input": recipe.get("input"),
        "Weights": weights.get("checkpoint"),
        "Weights' sha256": weights.get("sha256"),
        "Subset of": subset.get("dataset"),
        "Predicate": subset.get("predicate"),
        **{f"Fingerprint: {link}": value for link, value in _dict(record.get("fingerprints")).items()},
        "Versions": ", ".join(f"{name} {value}" for name, value in _dict(record.get("versions")).items()),
    }
    return [(label, value if isinstance(value, str) else json.dumps(value)) for label, value in facts.items() if value]


def _run_row(run: dict[str, Any]) -> dict[str, str]:
    images, seconds = run.get("images"), run.get("seconds")
    rate = images / seconds if isinstance(images, int) and isinstance(seconds, int | float) and seconds > 0 else None
    resources = _dict(run.get("resources"))
    workers = resources.get("sam_actors")
    device = "GPU" if resources.get("gpus_per_actor") else "CPU"
    return {
        "name": str(run.get("run_id", "")),
        "started": str(run.get("started", "")).replace("T", " ").replace("+00:00", " UTC"),
        "status": str(run.get("status", "")),
        **{name: _number(run.get(name)) for name in ("images", "failed", "masks")},
        "seconds": _number(seconds),
        "rate": _number(rate) if rate else "",
        "workers": f"{workers} × {device}" if workers else "",
    }


def _number(value: Any) -> str:
    if not isinstance(value, int | float):
        return ""
    return f"{value:,.0f}" if isinstance(value, int) or value >= 100 else f"{value:.2g}"


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
