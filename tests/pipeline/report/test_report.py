import base64
import hashlib
import io
import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.dataset import open_dataset
from pipeline.report.facts import Step, choose_parts, read_facts
from pipeline.report.gallery import SIDE, THUMBNAIL_BYTES, read_gallery
from pipeline.report.outlines import MAX_PATH
from pipeline.report.write import report_on_run, write_report
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder
from tests.pipeline.report.report_cases import (
    DOT,
    HEIGHT,
    HOSTILE,
    LEFT,
    WHOLE,
    WIDTH,
    Page,
    draw,
    failed_row,
    image_row,
    make_dataset,
    page_of,
)


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
    return make_dataset(
        str(tmp_path / "small"),
        [
            image_row(
                "a.png", a, **draw(tmp_path / "a.png"), caption="two pets", tags=[{"name": "pets", "score": 0.9}]
            ),
            image_row("b.png", [(LEFT, {})], **draw(tmp_path / "b.png")),
        ],
        [
            failed_row("c.png", "decode: UnidentifiedImageError: no image"),
            failed_row("d.png", "decode: UnidentifiedImageError"),
        ],
        record=record,
    )


def test_the_page_says_what_the_dataset_holds(small: str) -> None:
    text, page = page_of(small)
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
    _, page = page_of(small)
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
    assert not page_of(small, num_pictures=0)[1].all("image")
    assert len(page_of(small, num_pictures=1)[1].all("image")) == 1


def test_nothing_is_loaded_from_anywhere(small: str) -> None:
    _, page = page_of(small)
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
        image_row(HOSTILE, masks, uri=HOSTILE, caption=HOSTILE, tags=tag),
        failed_row(HOSTILE + "2", HOSTILE),
    ]
    record = {
        "fingerprints": {HOSTILE: HOSTILE},
        "recipe": {"preset": HOSTILE, "input": [HOSTILE]},
        "weights": {"checkpoint": HOSTILE, "sha256": HOSTILE},
        "versions": {HOSTILE: HOSTILE},
        "subset_of": {"dataset": HOSTILE, "predicate": HOSTILE},
        "runs": [{"run_id": HOSTILE, "started": HOSTILE, "status": HOSTILE, "images": HOSTILE, "seconds": 1}],
    }
    text, page = page_of(make_dataset(str(tmp_path / "{{7*7}}<b>"), rows, record=record))
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
        "failures only": [failed_row("a", None), failed_row("b", "decode: late: by far")],
        "no masks": [image_row("a", [], **draw(tmp_path / "none"))],
        "one pixel": [image_row("a", [(one, {}), (one * 0, {})], **draw(tmp_path / "dot", 1, 1))],
        "no record of its kind": [image_row("a", [(LEFT, {})], **draw(tmp_path / "a"))],
    }[case]
    record = {"runs": None, "recipe": 7, "weights": [], "fingerprints": None}
    text, page = page_of(make_dataset(str(tmp_path / "out"), rows, record=record if "record" in case else None))
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
        image_row(name, [(LEFT, {})], **draw(tmp_path / name))
        for name in ("broken", "changed", "gone", "large", "size")
    ]
    (tmp_path / "broken").write_bytes(b"nothing")
    rows[0]["content_sha256"] = None
    (tmp_path / "changed").write_bytes(b"other")
    (tmp_path / "gone").unlink()
    rows[3] |= {"width": 20_000, "height": 20_000}
    draw(tmp_path / "size", 7, 7)
    rows[4]["content_sha256"] = None
    _, page = page_of(make_dataset(str(tmp_path / "out"), rows))
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
    text, page = page_of(small, picture_seconds=0.3)
    assert time.monotonic() - started < 4
    assert not page.all("image") and "there was no time to read the picture" in text


def test_a_page_has_a_bound_whatever_the_pictures(tmp_path: Path) -> None:
    specks = np.random.default_rng(0).integers(0, 2, (200, 520), np.uint8)
    noise = [(specks, {"caption": "long " * 500})] * 44
    tags = [{"name": "t" * 5000, "score": 0.5}] * 50
    rows = [image_row("noise", noise, **draw(tmp_path / "noise", 520, 200), tags=tags)]
    text, page = page_of(make_dataset(str(tmp_path / "out"), rows))
    assert max(len(attributes["d"] or "") for attributes, _ in page.all("path")) <= MAX_PATH
    assert len(text) < 5e6 / 24 + 25_000  # and what each page has once
    for attributes, _ in page.all("image"):
        jpeg = base64.b64decode((attributes["href"] or "").partition(",")[2])
        assert len(jpeg) <= THUMBNAIL_BYTES
        with Image.open(io.BytesIO(jpeg)) as image:
            assert max(image.size) == SIDE
    assert "not drawn" in text


def test_a_damaged_part_is_named_and_left_out(small: str) -> None:
    path = Path(Round(Folder(small), 0).part_path(0))
    path.write_bytes(path.read_bytes()[:200] + b"PAR1")
    text, _ = page_of(small)
    assert "1 part cannot be read and is left out" in text and path.name in text
    result = CliRunner().invoke(app, ["report", small, "--json"])
    assert result.exit_code == 0 and json.loads(result.stdout)["bad_parts"] == [str(path)]
    assert json.loads(result.stdout)["failed"] == 2


def test_a_sample_of_parts_bounds_the_cost(tmp_path: Path) -> None:
    parts = [[image_row(f"{part}/{index}", [(LEFT, {})]) for index in range(4)] for part in range(10)]
    dataset = open_dataset(make_dataset(str(tmp_path / "out"), *parts))
    chosen = choose_parts(dataset, 10)
    assert len(chosen) == 3 and chosen == choose_parts(dataset, 10) and len(choose_parts(dataset, None)) == 10
    assert read_facts(dataset, chosen).num_images == 12
    text, _ = page_of(dataset.uri, max_images=10)
    assert "a random sample: 3 parts of 10" in text
    assert len(read_gallery(dataset, dataset.parts(), 24, 10)) == 24


def test_of_each_image_the_newest_round_counts(small: str) -> None:
    make_dataset(small, [image_row("b.png", [(LEFT, {}), (DOT, {})], round=1)], number=1)
    facts = read_facts(open_dataset(small), choose_parts(open_dataset(small), None))
    assert facts.masks_per_image == {2: 1, 3: 1} and facts.num_failed == 2
    assert facts.funnel() == [Step("predicted_iou", 2, 6), Step("duplicate", 1, 5)]
    assert facts.sources == {"auto": 4, "human": 1}
    assert "rounds 0, 1, of each image the newest" in page_of(small)[0]


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
    photo = draw(s3_server / "report-bucket" / "a.png") | {"uri": "s3://report-bucket/a.png"}
    uri = make_dataset(
        "s3://report-bucket/dataset", [image_row("a.png", [(LEFT, {}), (DOT, {"keep": False})], **photo)]
    )
    page, problem = report_on_run(uri, 0)
    assert (page, problem) == ("s3://report-bucket/dataset/report/index.html", None)
    found = Page((s3_server / "report-bucket" / "dataset" / "report" / "index.html").read_text())
    assert len(found.all("image")) == 1 and len(found.all("path")) == 1
