import base64
import hashlib
import io
import json
import re
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from typer.testing import CliRunner

from models.masks.rle import areas, bounding_boxes, encode_masks
from pipeline.cli import app
from pipeline.dataset import open_dataset
from pipeline.report import charts
from pipeline.report.facts import Step, choose_parts, read_facts
from pipeline.report.gallery import SIDE, THUMBNAIL_BYTES, read_gallery
from pipeline.report.outlines import MAX_PATH, outline
from pipeline.report.write import report_on_run, write_report
from pipeline.store.rounds import Round, publish
from pipeline.store.storage import Folder
from stages.record import SCHEMA

HEIGHT, WIDTH = 20, 30
HOSTILE = "<script>alert('x')</script></style>\"'>{{7*7}}{% raw %}<!--\nnext & line\u202e"
VOID = {"meta", "input", "br"}


class Page(HTMLParser):
    """A page's elements as (tag, attributes, text), checked for balance."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.open: list[int] = []
        self.feed(text)
        self.close()
        assert not self.open, "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), []))
        if tag not in VOID:
            self.open.append(len(self.elements) - 1)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), []))

    def handle_endtag(self, tag: str) -> None:
        assert self.elements[self.open.pop()][0] == tag

    def handle_data(self, data: str) -> None:
        for index in self.open:
            self.elements[index][2].append(data)

    def all(self, tag: str, **wanted: str) -> list[tuple[dict[str, str | None], str]]:
        return [
            (attributes, "".join(text))
            for name, attributes, text in self.elements
            if name == tag and all(value in (attributes.get(key) or "").split() for key, value in wanted.items())
        ]

    def table(self, **wanted: str) -> list[list[str]]:
        """The cells of the first table of a class, row by row."""
        rows: list[list[str]] = []
        inside = False
        for name, attributes, text in self.elements:
            if name == "table":
                inside = all(value in (attributes.get(key) or "").split() for key, value in wanted.items())
            elif inside and name == "tr":
                rows.append([])
            elif inside and name in ("td", "th"):
                rows[-1].append(" ".join("".join(text).split()))
        return rows


def _rectangle(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[y0:y1, x0:x1] = 1
    return mask


WHOLE, LEFT, DOT = (_rectangle(*box) for box in ((0, 0, WIDTH, HEIGHT), (0, 0, 15, HEIGHT), (29, 19, 30, 20)))


def _row(name: str, masks: list[tuple[np.ndarray, dict[str, Any]]], **changes: Any) -> dict[str, Any]:
    height, width = masks[0][0].shape if masks else (HEIGHT, WIDTH)
    rles = encode_masks(np.stack([one for one, _ in masks])) if masks else []
    boxes = bounding_boxes(rles, height).tolist() if rles else []
    common = {"source": "auto", "keep": True, "predicted_iou": 0.9, "stability_score": 0.95, "iscrowd": False}
    return {
        "image_id": name,
        "uri": name,
        "width": width,
        "height": height,
        "status": "ok",
        "tags": [],
        "masks": [
            {"mask_id": f"{name}/{index}", "bbox": bbox, "area": int(area), "tags": [], **common, **fields}
            for index, ((_, fields), bbox, area) in enumerate(zip(masks, boxes, areas(rles), strict=True))
        ],
        "rles": rles,
        "raw_rles": [None] * len(rles),
        "round": 0,
        **changes,
    }


def _failed(name: str, error: str | None) -> dict[str, Any]:
    return _row(name, [], status="failed", error=error, width=None, height=None)


def _dataset(uri: str, *parts: list[dict[str, Any]], record: dict[str, Any] | None = None, number: int = 0) -> str:
    folder = Folder(uri)
    for index, rows in enumerate(parts):
        Round(folder, number).write_part(index, pa.Table.from_pylist(rows, schema=SCHEMA))
    Round(folder, number).write_record(record or {"round": number, "runs": []})
    publish(folder, number)
    return uri


def _photo(path: Path, width: int = WIDTH, height: int = HEIGHT) -> dict[str, Any]:
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path, format="PNG")
    return {"uri": str(path), "content_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def _page(uri: str, **how: Any) -> tuple[str, Page]:
    summary = write_report(open_dataset(uri), **how)
    text = Path(summary.output).read_text()
    assert summary.bytes == len(text.encode())
    return text, Page(text)


@pytest.fixture
def small(tmp_path: Path) -> str:
    """a: three masks and three candidates, b: one mask, c and d: failed."""
    dog = {"predicted_iou": 0.97, "tags": [{"name": "animal", "score": 0.5}, {"name": "dog", "score": 0.8}]}
    a = [
        (WHOLE, dog | {"caption": "a dog"}),
        (LEFT, {"predicted_iou": 0.93}),
        (DOT, {"predicted_iou": None, "stability_score": None, "source": "human"}),
        (LEFT, {"keep": False, "drop_reason": "duplicate"}),
        (DOT, {"keep": False, "drop_reason": "predicted_iou"}),
        (DOT, {"keep": False, "drop_reason": "predicted_iou"}),
    ]
    record = {
        "round": 0,
        "fingerprints": {"generate": "ab12", "filter": "cd34"},
        "recipe": {"preset": "default", "input": "photos", "generate": {"points_per_side": 24}},
        "weights": {"checkpoint": "sam_tiny", "sha256": "ffee"},
        "versions": {"python": "3.11.7"},
        "runs": [{"run_id": "r1", "images": 4, "failed": 2, "masks": 4, "seconds": 8.0, "status": "done"}],
    }
    return _dataset(
        str(tmp_path / "small"),
        [
            _row("a.png", a, **_photo(tmp_path / "a.png"), caption="two pets", tags=[{"name": "pets", "score": 0.9}]),
            _row("b.png", [(LEFT, {})], **_photo(tmp_path / "b.png")),
        ],
        [
            _failed("c.png", "decode: UnidentifiedImageError: no image"),
            _failed("d.png", "decode: UnidentifiedImageError"),
        ],
        record=record,
    )


def test_the_page_says_what_the_dataset_holds(small: str) -> None:
    text, page = _page(small)
    figures = [" ".join(text.split()) for _, text in page.all("div") if re.match(r"\s*[\d.]", text)]
    assert figures[:1] == ["4images, 2 failed"] and "4masks" in figures and "2.0masks an image" in figures
    assert "0.5images a second" in figures
    assert page.table(**{"class": "funnel"})[1:] == [
        ["candidates", "", "", "7"],
        ["predicted IoU", "", "2", "5"],
        ["duplicate", "", "1", "4"],
    ]
    bars = [text for _, text in page.all("title")]
    assert {"1: 1 image", "3: 1 image", "1 pixels: 1 mask", "0.96 to 0.98: 1 mask", "0.94 to 0.96: 3 masks"} <= {*bars}
    failures = [text for attributes, text in page.all("td") if "UnidentifiedImageError" in text or "c.png" in text]
    assert "decode: UnidentifiedImageError" in failures[0] and failures[1] == "c.pngd.png"
    for value in ("ab12", "cd34", "sam_tiny", "ffee", "python 3.11.7", "r1", "points_per_side: 24"):
        assert value in text


def test_the_gallery_draws_each_mask_with_what_is_known_of_it(small: str) -> None:
    _, page = _page(small)
    assert [text for _, text in page.all("option")] == ["all", "animal", "dog", "pets"]
    pictures = page.all("figure", **{"class": "picture"})
    assert [json.loads(attributes["data-tags"] or "") for attributes, _ in pictures] == [["pets"], []]
    assert "two pets" in pictures[0][1]
    whole, left, dot, _ = (attributes for attributes, _ in page.all("path"))
    assert whole["data-tag"] == "dog 0.80, animal 0.50" and json.loads(whole["data-tags"] or "") == ["dog", "animal"]
    assert (whole["data-caption"], whole["data-iou"], whole["data-stability"]) == ("a dog", "0.970", "0.950")
    assert (left["data-area"], "data-tag" in left, left["class"]) == ("300", False, "c1")
    assert "data-iou" not in dot and dot["data-area"] == "1"
    jpeg = page.all("image")[0][0]["href"] or ""
    with Image.open(io.BytesIO(base64.b64decode(jpeg.removeprefix("data:image/jpeg;base64,")))) as image:
        assert (image.format, image.size) == ("JPEG", (WIDTH, HEIGHT))
    # a gallery of none and of one
    assert not _page(small, num_pictures=0)[1].all("image")
    assert len(_page(small, num_pictures=1)[1].all("image")) == 1


def test_nothing_is_loaded_from_anywhere(small: str) -> None:
    _, page = _page(small)
    for name, attributes, _ in page.elements:
        assert name not in ("link", "iframe", "object", "embed", "base", "img", "video", "audio")
        for attribute in {"src", "href", "xlink:href", "srcset", "action", "style", "onclick"} & {*attributes}:
            assert (attributes[attribute] or "").startswith("data:image/jpeg;base64,")
    style, script = page.all("style")[0][1], page.all("script")[0][1]
    assert "url(" not in style and "@import" not in style and "fetch" not in script and "import(" not in script
    policy = next(a["content"] or "" for a, _ in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    for inline in (style, script):
        assert base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode() in policy


def test_texts_of_the_data_stay_texts(tmp_path: Path) -> None:
    tag = [{"name": HOSTILE, "score": 0.5}]
    masks = [
        (LEFT, {"tags": tag, "caption": HOSTILE, "mask_id": HOSTILE, "source": HOSTILE}),
        (WHOLE, {"source": "human"}),
        (DOT, {"keep": False, "drop_reason": HOSTILE}),
    ]
    rows = [
        _row(HOSTILE, masks, uri=HOSTILE, caption=HOSTILE, tags=tag),
        _failed(HOSTILE + "2", HOSTILE),
    ]
    record = {
        "fingerprints": {HOSTILE: HOSTILE},
        "recipe": {"preset": HOSTILE, "input": [HOSTILE]},
        "weights": {"checkpoint": HOSTILE, "sha256": HOSTILE},
        "versions": {HOSTILE: HOSTILE},
        "subset_of": {"dataset": HOSTILE, "predicate": HOSTILE},
        "runs": [{"run_id": HOSTILE, "started": HOSTILE, "status": HOSTILE, "images": HOSTILE, "seconds": 1}],
    }
    text, page = _page(_dataset(str(tmp_path / "{{7*7}}<b>"), rows, record=record))
    assert [len(page.all(name)) for name in ("script", "style", "b")] == [1, 1, 3]
    assert "<script>alert" not in text and ">49" not in text and "{{7*7}}" in text
    assert page.all("path")[1][0]["data-caption"] == HOSTILE
    assert page.all("path")[1][0]["data-tag"] == f"{HOSTILE} 0.50"
    assert [attributes.get("value") for attributes, _ in page.all("option")] == ["", HOSTILE]
    assert page.all("h1")[0][1] == "{{7*7}}<b>"
    assert any(text == HOSTILE for _, text in page.all("span", **{"class": "id"}))


@pytest.mark.parametrize("case", ["no images", "failures only", "no masks", "one pixel", "no record of its kind"])
def test_a_bare_dataset_has_a_page(tmp_path: Path, case: str) -> None:
    one = np.ones((1, 1), np.uint8)
    rows = {
        "no images": [],
        "failures only": [_failed("a", None), _failed("b", "decode: late: by far")],
        "no masks": [_row("a", [], **_photo(tmp_path / "none"))],
        "one pixel": [_row("a", [(one, {}), (one * 0, {})], **_photo(tmp_path / "dot", 1, 1))],
        "no record of its kind": [_row("a", [(LEFT, {})], **_photo(tmp_path / "a"))],
    }[case]
    record = {"runs": None, "recipe": 7, "weights": [], "fingerprints": None}
    text, page = _page(_dataset(str(tmp_path / "out"), rows, record=record if "record" in case else None))
    expected = {
        "no images": "No image has been annotated",
        "failures only": "decode: late: by far",
        "no masks": "There are no masks to count",
        "one pixel": "1 mask is not drawn",
        "no record of its kind": "The run",
    }[case]
    assert expected in text
    assert len(page.all("image")) == (0 if case in ("no images", "failures only") else 1)
    if case == "one pixel":
        assert [attributes["d"] for attributes, _ in page.all("path")] == ["M256,256l0,1536 1536,0 0,-1536z"]


def test_a_picture_that_is_gone_changed_or_broken_is_shown_as_masks_on_grey(tmp_path: Path) -> None:
    rows = [
        _row(name, [(LEFT, {})], **_photo(tmp_path / name)) for name in ("broken", "changed", "gone", "large", "size")
    ]
    (tmp_path / "broken").write_bytes(b"nothing")
    rows[0]["content_sha256"] = None
    (tmp_path / "changed").write_bytes(b"other")
    (tmp_path / "gone").unlink()
    rows[3] |= {"width": 20_000, "height": 20_000}
    _photo(tmp_path / "size", 7, 7)
    rows[4]["content_sha256"] = None
    _, page = _page(_dataset(str(tmp_path / "out"), rows))
    notes = [text for attributes, text in page.all("span", **{"class": "quiet"}) if text.startswith("the picture")]
    assert notes == [
        "the picture cannot be read (UnidentifiedImageError)",
        "the picture has changed since it was annotated",
        "the picture is no longer where it was",
        "the picture is too large for a thumbnail",
        "the picture has another size than when it was annotated",
    ]
    assert not page.all("image") and len(page.all("rect", **{"class": "gone"})) == 5
    assert len(page.all("path")) == 4  # the run lengths of `large` do not fit


def test_a_store_that_hangs_does_not_hold_the_page(small: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.pictures.read_source", lambda *_: time.sleep(5))
    started = time.monotonic()
    text, page = _page(small, picture_seconds=0.3)
    assert time.monotonic() - started < 4
    assert not page.all("image") and "there was no time to read the picture" in text


def test_a_page_has_a_bound_whatever_the_pictures(tmp_path: Path) -> None:
    specks = np.random.default_rng(0).integers(0, 2, (200, 520), np.uint8)
    noise = [(specks, {"caption": "long " * 500})] * 44
    tags = [{"name": "t" * 5000, "score": 0.5}] * 50
    rows = [_row("noise", noise, **_photo(tmp_path / "noise", 520, 200), tags=tags)]
    text, page = _page(_dataset(str(tmp_path / "out"), rows))
    assert max(len(attributes["d"] or "") for attributes, _ in page.all("path")) <= MAX_PATH
    assert len(text) < 5e6 / 24 + 25_000  # and what each page has once
    for attributes, _ in page.all("image"):
        jpeg = base64.b64decode((attributes["href"] or "").partition(",")[2])
        assert len(jpeg) <= THUMBNAIL_BYTES
        with Image.open(io.BytesIO(jpeg)) as image:
            assert max(image.size) == SIDE
    assert "not drawn" in text


def test_a_damaged_part_is_named_and_left_out(small: str) -> None:
    path = Path(small) / "round=000" / "part-000000.parquet"
    path.write_bytes(path.read_bytes()[:200] + b"PAR1")
    text, _ = _page(small)
    assert "1 part cannot be read and is left out" in text and path.name in text
    result = CliRunner().invoke(app, ["report", small, "--json"])
    assert result.exit_code == 0 and json.loads(result.stdout)["bad_parts"] == [str(path)]
    assert json.loads(result.stdout)["failed"] == 2


def test_a_sample_of_parts_bounds_the_cost(tmp_path: Path) -> None:
    parts = [[_row(f"{part}/{index}", [(LEFT, {})]) for index in range(4)] for part in range(10)]
    dataset = open_dataset(_dataset(str(tmp_path / "out"), *parts))
    chosen = choose_parts(dataset, 10)
    assert len(chosen) == 3 and chosen == choose_parts(dataset, 10) and len(choose_parts(dataset, None)) == 10
    assert read_facts(dataset, chosen).num_images == 12
    text, _ = _page(dataset.uri, max_images=10)
    assert "a random sample: 3 parts of 10" in text
    assert len(read_gallery(dataset, dataset.parts(), 24, 10)) == 24


def test_of_each_image_the_newest_round_counts(small: str) -> None:
    _dataset(small, [_row("b.png", [(LEFT, {}), (DOT, {})], round=1)], number=1)
    facts = read_facts(open_dataset(small), choose_parts(open_dataset(small), None))
    assert facts.masks_per_image == {2: 1, 3: 1} and facts.num_failed == 2
    assert facts.funnel() == [Step("predicted_iou", 2, 6), Step("duplicate", 1, 5)]
    assert facts.sources == {"auto": 4, "human": 1}
    assert "rounds 0, 1, of each image the newest" in _page(small)[0]


def test_the_command_writes_where_it_is_told(small: str, tmp_path: Path) -> None:
    page = tmp_path / "pages" / "one.html"
    result = CliRunner().invoke(app, ["report", small, "-o", str(page), "--gallery", "1", "--round", "0"])
    assert result.exit_code == 0 and result.stdout.endswith(f"→ {page}\n")
    assert result.stdout.startswith("4 images, 4 masks; 1 pictures") and page.read_text().startswith("<!DOCTYPE html>")
    with pytest.raises(ValueError, match="is a folder; name a file"):
        write_report(open_dataset(small), f"{tmp_path}/")


def test_a_run_says_why_it_has_no_page(small: str) -> None:
    assert report_on_run(small, 0) == (f"{small}/report/index.html", None)
    Path(small, "report", "index.html").unlink()
    Path(small, "report", "index.html").mkdir()
    page, problem = report_on_run(small, 0)
    assert page is None and problem is not None and "cannot be written" in problem and "\n" not in problem


def test_in_a_bucket(s3_server: Path, tmp_path: Path) -> None:
    (s3_server / "report-bucket").mkdir()
    photo = _photo(s3_server / "report-bucket" / "a.png") | {"uri": "s3://report-bucket/a.png"}
    uri = _dataset("s3://report-bucket/dataset", [_row("a.png", [(LEFT, {}), (DOT, {"keep": False})], **photo)])
    page, problem = report_on_run(uri, 0)
    assert (page, problem) == ("s3://report-bucket/dataset/report/index.html", None)
    found = Page((s3_server / "report-bucket" / "dataset" / "report" / "index.html").read_text())
    assert len(found.all("image")) == 1 and len(found.all("path")) == 1


@pytest.mark.parametrize(
    ("mask", "path"),
    [
        (np.ones((2, 3), np.uint8), "M11,21l0,18 28,0 0,-18z"),
        (np.zeros((2, 3), np.uint8), ""),
        (np.ones((100, 200), np.uint8), "M15,25l0,990 1990,0 0,-990z"),
    ],
)
def test_an_outline_goes_around_the_pixels(mask: np.ndarray, path: str) -> None:
    assert outline(mask, 1, 2, 10.0) == path


def test_an_outline_has_holes_and_parts() -> None:
    ring = np.ones((9, 9), np.uint8)
    ring[3:6, 3:6] = 0
    assert outline(ring, 0, 0, 100.0).count("M") == 2
    assert outline(np.eye(5, dtype=np.uint8)[:, ::2], 0, 0, 100.0).count("M") == 3


@pytest.mark.parametrize("value", [1, 4, 5, 7, 10, 11, 99, 100, 101, 999, 123_456])
def test_an_axis_ends_at_a_round_number(value: int) -> None:
    assert value <= charts.nice_top(value) <= max(value + 1, 1.45 * value)
    assert value <= charts.round_up(value) <= 2.5 * value


def test_charts_of_one_value_and_of_wide_ranges() -> None:
    assert charts.areas({}) is None and charts.scores("Score", {}) is None and charts.masks_per_image({}) is None
    zero = charts.masks_per_image({0: 5})
    assert zero is not None and [bar.label for bar in zero.bars] == ["0: 5 images"]
    wide = charts.masks_per_image({0: 1, 4000: 1})
    assert wide is not None and [bar.label for bar in wide.bars] == ["0 to 199: 1 image", "4,000 to 4,199: 1 image"]
    above = charts.scores("Score", {50: 2, 49: 1})
    assert above is not None and [bar.label for bar in above.bars] == ["0.98 or more: 3 masks"]
    areas_chart = charts.areas({0: 1, 23: 2})
    assert areas_chart is not None and areas_chart.bars[0].label == "1 pixels: 1 mask"
    for chart in (zero, wide, above, areas_chart):
        for bar in chart.bars:
            assert bar.x >= charts.LEFT and bar.x + bar.width <= charts.WIDTH and bar.width > 0
            assert bar.y >= charts.TOP and bar.y + bar.height <= charts.HEIGHT - charts.BOTTOM + 0.01
