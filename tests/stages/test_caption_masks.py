from pathlib import Path

import numpy as np
import pytest
import torch

from models.captioner.model import Captioner, CaptionerConfig, caption_loss
from models.captioner.sample import sample_captions
from models.clip.tokenizer import ClipTokenizer
from models.weights import CheckpointError, load_captioner, load_clip, load_clip_tokenizer, save_captioner
from stages.caption_masks import CaptionMasks
from stages.caption_rules import Contradictions, check_caption_templates, fill_templates, tags_by_group
from stages.caption_settings import CaptionSettings
from stages.captioning import read_captioning
from stages.record import conform
from stages.tag_masks import TagMasks
from stages.tag_settings import TagSettings
from stages.tagging import read_tagging
from tests.stages.tag_cases import filtered_rows, pictures, save_tiny_clip, vocabulary

SIZES = CaptionerConfig(embed_dim=24, vocab_size=540, context_length=16, width=16, num_heads=2, num_layers=1)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKFOUNDRY_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def clip(tmp_path: Path) -> str:
    return save_tiny_clip(tmp_path / "clip.safetensors")


def tokenizer_of(clip: str) -> ClipTokenizer:
    return load_clip_tokenizer(clip, load_clip(clip)[0].config)


def trained(clip: str, texts: list[str], features: torch.Tensor) -> Captioner:
    """A captioner that knows one text for each feature by heart."""
    torch.manual_seed(0)
    tokenizer = tokenizer_of(clip)
    captioner = Captioner(CaptionerConfig(**{**vars(SIZES), "vocab_size": tokenizer.vocab_size}))
    optimizer, tokens = torch.optim.Adam(captioner.parameters(), 0.01), tokenizer(texts)
    for _ in range(120):
        loss = caption_loss(captioner, features, tokens, tokenizer.end_of_text)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05
    return captioner.eval()


def test_it_says_what_it_learned_whatever_the_batch(clip: str) -> None:
    features = torch.nn.functional.normalize(torch.randn(3, 24, generator=torch.Generator().manual_seed(1)), dim=1)
    texts = ["a red ball", "a green car", "a blue bus beside a tree"]
    captioner, tokenizer = trained(clip, texts, features), tokenizer_of(clip)
    draws = torch.rand(3, 14, generator=torch.Generator().manual_seed(2))
    start, end = tokenizer.start_of_text, tokenizer.end_of_text
    for top_p, temperature in ((0.9, 1.0), (1.0, 0.0)):
        ids = sample_captions(captioner, features, draws, start, end, top_p, temperature)
        assert [tokenizer.decode(one) for one in ids] == texts
        alone = [sample_captions(captioner, features[i : i + 1], draws[i : i + 1], start, end, top_p, temperature)[0]
                 for i in range(3)]  # fmt: skip
        assert alone == ids


def test_the_nucleus_leaves_out_what_is_unlikely() -> None:
    torch.manual_seed(0)
    captioner = Captioner(SIZES).eval()
    features, draws = torch.zeros(400, 24), torch.rand(400, 1)
    with torch.inference_mode():
        shares = captioner(features[:1], torch.tensor([[538]]))[0, -1].index_fill(0, torch.tensor([538]), -torch.inf)
        shares = shares.softmax(dim=0)
    order = shares.argsort(descending=True)
    size = int((shares[order].cumsum(0) < 0.02).sum()) + 1
    found = {ids[0] if ids else 539 for ids in sample_captions(captioner, features, draws, 538, 539, 0.02, 1.0)}
    assert found <= set(order[:size].tolist()) and len(found) > 1


def test_no_position_sees_a_later_token() -> None:
    torch.manual_seed(0)
    captioner, features = Captioner(SIZES).eval(), torch.randn(1, 24)
    one, other = torch.tensor([[538, 5, 6, 7]]), torch.tensor([[538, 5, 6, 9]])
    torch.testing.assert_close(captioner(features, one)[:, :3], captioner(features, other)[:, :3])


def test_a_file_holds_sizes_and_weights(tmp_path: Path) -> None:
    captioner = Captioner(SIZES)
    save_captioner(tmp_path / "c.safetensors", captioner, torch.float32, {"clip_sha256": "x"})
    loaded, _ = load_captioner(str(tmp_path / "c.safetensors"))
    assert loaded.config == SIZES
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in captioner.state_dict().items())
    with pytest.raises(CheckpointError, match="is no captioner"):
        load_captioner("sam_tiny")


def test_templates_take_the_groups_that_have_a_tag() -> None:
    templates = ("a {colour} {thing}", "something {colour}", "a {thing}")
    assert fill_templates(templates, {"thing": "ball"}) == ["a ball"]
    tags = {"thing": "umbrella", "colour": "orange"}
    assert fill_templates(templates, tags) == ["an orange umbrella", "something orange", "an umbrella"]
    assert tags_by_group(["vehicle", "car", "red", "blue"], vocabulary()) == {"thing": "car", "colour": "red"}
    for template, message in (
        ("a {size} {thing}", "the field 'size', which is no group"),
        ("a thing", "has no field such as {thing}"),
        ("a {thing", "is broken"),
        ("a {}", "the field ''"),
    ):
        with pytest.raises(ValueError, match=message):
            check_caption_templates([template], vocabulary())


def test_what_contradicts_a_tag() -> None:
    contradicts = Contradictions(vocabulary())
    tags = {"thing": "car", "colour": "red"}
    assert contradicts("a red bus", tags) and contradicts("a green car", tags)
    assert not contradicts("a red automobile", tags) and not contradicts("a vehicle", {"thing": "bus"})
    assert not contradicts("a scarf, infrared", tags) and not contradicts("a green bus", {})
    assert not contradicts("a red car beside a green tree", tags)


def stages_of(clip: str, keep_features: bool, **settings: object) -> tuple[TagMasks, CaptionMasks]:
    tag = TagSettings(checkpoint=clip, threshold=0.0)
    caption = CaptionSettings(**{"templates": ("a {colour} {thing}", "a {thing}"), **settings})
    tagging = read_tagging(tag, vocabulary())
    return (
        TagMasks(tagging, 16, "cpu", 1, keep_features=True),
        CaptionMasks(read_captioning(caption, tagging), tagging, "cpu", 1, keep_features),
    )


def test_images_and_their_largest_masks_get_captions_that_agree_with_their_tags(clip: str) -> None:
    images, masks = pictures(np.random.default_rng(0))
    tag, caption = stages_of(clip, keep_features=False, max_masks=2)
    tagged = tag(filtered_rows(images, masks))
    first, empty, third = conform(caption(tagged)).to_pylist()
    assert [mask["caption"] is not None for mask in first["masks"]] == [True, False, True]  # the pixel is third
    assert all(mask["caption"] for mask in third["masks"]) and empty["masks"] == []
    for mask in (*first["masks"], *third["masks"]):
        if mask["caption"]:
            names = tags_by_group([tag["name"] for tag in mask["tags"]], vocabulary())
            assert names["thing"] in mask["caption"] and -1 <= mask["caption_score"] <= 1
    thing = tags_by_group([tag["name"] for tag in first["tags"]], vocabulary())["thing"]
    assert first["caption"] == f"a {thing}" and first["embedding"] is None
    _, strict = stages_of(clip, keep_features=True, min_score=1.0)
    rows = conform(strict(tagged)).to_pylist()
    assert all(mask["caption"] is None for row in rows for mask in row["masks"]) and rows[0]["embedding"]


def test_a_captioner_of_another_clip_is_refused(clip: str, tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    save_captioner(path, Captioner(SIZES), torch.float32, {"clip_sha256": "another"})
    with pytest.raises(CheckpointError, match="was trained on the features of another CLIP"):
        stages_of(clip, True, captioner=str(path))


def test_sampled_captions_are_candidates_and_the_same_again(clip: str, tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    features = torch.nn.functional.normalize(torch.randn(2, 24), dim=1)
    save_captioner(path, trained(clip, ["a kite", "a kite flies"], features), torch.float32)
    images, masks = pictures(np.random.default_rng(0))
    tag, caption = stages_of(clip, True, captioner=str(path), templates=(), num_samples=3)
    tagged = tag(filtered_rows(images, masks))
    one, again = caption(tagged), caption(tagged)
    texts = [row["caption"] for row in one.to_pylist()]
    assert all(text and text.startswith("a kite") for text in texts)
    assert one.drop_columns(["caption_seconds"]).equals(again.drop_columns(["caption_seconds"]))
