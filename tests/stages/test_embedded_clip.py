import cv2
import numpy as np
import pytest

from models.masks.rle import bounding_boxes, encode_masks
from pipeline.recipes.vocabularies import read_vocabulary
from stages.embed_masks import Regions
from stages.tag_settings import TagSettings
from stages.tagger import Tagger
from stages.tagging import read_tagging


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> Tagger:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MASKFOUNDRY_CACHE", str(tmp_path_factory.mktemp("cache")))
        return Tagger(read_tagging(TagSettings(checkpoint="clip_small"), read_vocabulary("scenes")), "cpu", 8)


def names(tagger: Tagger, image: np.ndarray, mask: np.ndarray) -> set[str]:
    rles = encode_masks(mask[None])
    [features] = tagger.encoder.encode([Regions(image, rles, bounding_boxes(rles, image.shape[0]))])
    _, [tags] = tagger.tags(*features)
    return {name for name, _ in tags}


@pytest.mark.parametrize(
    ("colour", "rgb"),
    [("red", (200, 30, 30)), ("green", (40, 160, 50)), ("blue", (40, 70, 190)), ("yellow", (240, 220, 60))],
)
def test_a_clear_colour_is_named(tagger: Tagger, colour: str, rgb: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(0)
    mask = np.zeros((120, 160), np.uint8)
    cv2.circle(mask, (80, 60), 35, 1, -1)
    image = np.where(mask[..., None] > 0, np.array(rgb), 150) + rng.normal(0, 8, (120, 160, 3))
    assert names(tagger, np.clip(image, 0, 255).astype(np.uint8), mask) == {colour}


@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_blank_crop_is_no_thing(tagger: Tagger, value: int) -> None:
    image = np.full((64, 64, 3), value, np.uint8)
    found = names(tagger, image, np.ones((64, 64), np.uint8))
    assert found <= {"black", "grey", "white"}  # which it is


def test_noise_has_no_tag(tagger: Tagger) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    assert names(tagger, noise, np.ones((64, 64), np.uint8)) == set()
