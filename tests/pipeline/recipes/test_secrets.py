"""Passwords and signatures in a recipe's or a command's addresses: refused at every door, and in no line or record."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from models.weight_files import FetchError, available_models, read_checkpoint
from pipeline.dataset import open_dataset
from pipeline.export.write import export
from pipeline.recipes.load_recipe import load_recipe, load_train_recipe, validate_recipe, validate_video_recipe
from pipeline.recipes.recipe import Recipe
from pipeline.recipes.vocabularies import read_vocabulary
from pipeline.report.write import write_report
from pipeline.runs.run import run
from pipeline.sources.places import RECORDED
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder
from stages.decode_image import describe

MakeDataset = Callable[..., str]
SIGNED = "https://host/x?X-Amz-Signature=SECRET"
WITH_PASSWORD = "s3://KEY:SECRET@bucket/x"


@pytest.mark.parametrize("uri", [SIGNED, WITH_PASSWORD])
@pytest.mark.parametrize("field", ["input", "output", "tag.vocabulary", "tag.checkpoint", "model.checkpoint", "allow"])
def test_no_field_of_a_recipe_holds_credentials(field: str, uri: str) -> None:
    value = f"[{uri}]" if field == "allow" else uri
    with pytest.raises(ValueError, match=rf"^{field}: the URI holds credentials") as caught:
        load_recipe("quickstart", [f"{field}={value}"])
    assert "SECRET" not in str(caught.value)


def test_nor_do_other_recipes() -> None:
    for load in (
        lambda: load_train_recipe("train_sam", [f"data=[{SIGNED}]"]),
        lambda: validate_video_recipe({"kind": "video", "input": "clips", "output": WITH_PASSWORD}),
        lambda: read_vocabulary(SIGNED),
    ):
        with pytest.raises(ValueError, match="the URI holds credentials"):
            load()


def test_a_recipe_that_was_built_by_hand_is_held_to_the_same(tmp_path: Path) -> None:
    recipe = validate_recipe({"input": str(tmp_path), "output": str(tmp_path / "out")})
    by_hand = Recipe.model_construct(**{**dict(recipe), "output": f"{tmp_path}/out?X-Amz-Signature=SECRET"})
    with pytest.raises(ValueError, match="dataset or output: the URI holds credentials"):
        run(by_hand, quiet=True)
    assert os.listdir(tmp_path) == []


def test_no_dataset_and_no_export_is_named_with_credentials(tmp_path: Path, make_dataset: MakeDataset) -> None:
    uri = make_dataset(tmp_path, {"a.png": np.ones((1, 8, 8), np.uint8)})
    for refused in (
        lambda: open_dataset(WITH_PASSWORD),
        lambda: export(open_dataset(uri), SIGNED, "coco", False, True),
    ):
        with pytest.raises(ValueError, match="the URI holds credentials") as caught:
            refused()
        assert "SECRET" not in str(caught.value)


def test_a_mirror_with_a_password_is_in_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKFOUNDRY_WEIGHTS_URL", "http://bob:SECRET@127.0.0.1:1")
    monkeypatch.setenv("MASKFOUNDRY_CACHE", str(tmp_path))
    with pytest.raises(FetchError, match=r"sam_vit_b: cannot fetch http://\*\*\*@127\.0\.0\.1:1/") as caught:
        read_checkpoint("sam_vit_b")
    assert "SECRET" not in str(caught.value)
    assert not any("SECRET" in record.location for record in available_models())


def test_a_row_and_a_page_show_no_signature(tmp_path: Path, make_dataset: MakeDataset) -> None:
    assert describe(ValueError(f"403, for url: {SIGNED}&a=1")) == (
        "ValueError: 403, for url: https://host/x?X-Amz-Signature=***&a=1"
    )
    uri = make_dataset(tmp_path, {"a.png": np.ones((1, 8, 8), np.uint8)})
    target = Round(Folder(uri), 0)
    record = target.read_record() or {}
    target.write_record(record | {"recipe": {"input": WITH_PASSWORD, "more": [SIGNED]}, RECORDED: []})
    page = Path(write_report(open_dataset(uri)).output).read_text()
    assert "SECRET" not in page and "s3://***@bucket/x" in page
