import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from typer.testing import CliRunner

from models.clip.zero_shot import class_embeddings
from models.weights import load_clip, load_clip_tokenizer
from pipeline.cli import app
from pipeline.dataset import open_dataset
from pipeline.queries.find import find
from pipeline.recipes.load_recipe import validate_recipe
from pipeline.runs.run import run
from pipeline.store.verify import verify_dataset
from tests.stages.tag_cases import WORDS, save_tiny_clip


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> str:
    """Three pictures, one of them broken, with embeddings."""
    folder = tmp_path_factory.mktemp("find")
    (folder / "photos").mkdir()
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 255, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"photos/{number}.png")
    (folder / "photos/broken.png").write_bytes(b"no picture")
    (folder / "words.yaml").write_text(WORDS)
    content = {
        "input": str(folder / "photos"),
        "output": str(folder / "out"),
        "model": {"checkpoint": "sam_tiny"},
        "generate": {"points_per_side": 5, "store_floor": {"predicted_iou": 0.05, "stability_score": 0.2}},
        "filter": {"pred_iou_thresh": 0.1, "stability_score_thresh": 0.3},
        "tag": {
            "checkpoint": save_tiny_clip(folder / "clip.safetensors"),
            "vocabulary": str(folder / "words.yaml"),
            "store_embeddings": True,
        },
        "resources": {"sam_actors": 1},
    }
    run(validate_recipe(content), quiet=True)
    return str(folder / "out")


def scores_by_hand(dataset: str, text: str) -> dict[str, float]:
    checkpoint = str(Path(dataset).parent / "clip.safetensors")
    clip, _ = load_clip(checkpoint)
    direction = class_embeddings(clip, load_clip_tokenizer(checkpoint, clip.config), [text], ["{}"])[0].numpy()
    return {
        mask["mask_id"]: float(np.frombuffer(vector, np.float16).astype(np.float32) @ direction)
        for row in open_dataset(dataset, candidates=True).rows()
        for mask, vector in zip(row["masks"], row["mask_embeddings"] or [None] * len(row["masks"]), strict=True)
        if mask["keep"]
    }


def test_the_closest_masks_come_first(dataset: str) -> None:
    expected = scores_by_hand(dataset, "a red ball")
    assert len(expected) > 6
    found = find(open_dataset(dataset), "a red ball", 5, quiet=True)
    assert (found.num_searched, found.num_without) == (len(expected), 0)
    best = sorted(expected, key=lambda one: (-expected[one], one))[:5]
    assert found.masks["mask_id"].to_pylist() == best
    assert found.masks["score"].to_pylist() == pytest.approx([expected[one] for one in best], abs=1e-6)
    narrowed = find(open_dataset(dataset).filter(f"mask_id != '{best[0]}'"), "a red ball", 1, quiet=True)
    assert narrowed.masks["mask_id"].to_pylist() == best[1:2] and narrowed.num_searched == len(expected) - 1


def test_a_subset_keeps_each_mask_s_embedding(dataset: str, tmp_path: Path) -> None:
    expected = scores_by_hand(dataset, "a green car")
    output = str(tmp_path / "subset")
    done = CliRunner().invoke(app, ["find", dataset, "a green car", "-n", "3", "--subset", output, "--json"])
    assert done.exit_code == 0, done.output
    best = [json.loads(line)["mask_id"] for line in done.stdout.splitlines()]
    assert len(best) == 3 and verify_dataset(output).num_problems == 0
    again = find(open_dataset(output), "a green car", 9, quiet=True)
    assert again.masks["mask_id"].to_pylist() == best
    assert again.masks["score"].to_pylist() == pytest.approx([expected[one] for one in best], abs=1e-6)


@pytest.mark.parametrize(
    ("text", "message"), [(" ", "text: it is empty"), ("ball " * 80, r"text: 'ball .* tokens, the model reads")]
)
def test_texts_that_cannot_be_searched(dataset: str, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find(open_dataset(dataset), text, 1, quiet=True)


def test_a_dataset_without_embeddings_says_how_to_get_them(make_dataset, tmp_path: Path) -> None:
    plain = make_dataset(tmp_path, {"a.png": np.ones((1, 4, 4), np.uint8)})
    with pytest.raises(ValueError, match="holds no embeddings of masks; run its recipe again"):
        find(open_dataset(plain), "a ball", 1, quiet=True)


def test_nothing_to_find_is_no_error(dataset: str) -> None:
    found = find(open_dataset(dataset).filter("area < 0"), "a ball", 4, quiet=True)
    assert found.masks.num_rows == 0 and isinstance(found.masks, pa.Table)
