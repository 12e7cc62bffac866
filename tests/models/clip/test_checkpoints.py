import dataclasses
import gzip
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch
import transformers
from torch import Tensor

from models.clip.build import build_clip
from models.clip.checkpoints import infer_config
from models.clip.config import CLIP_SIZES, ClipConfig
from models.clip.model import Clip
from models.clip.tokenizer import ClipTokenizer
from models.weights import CheckpointError, load_clip, load_clip_tokenizer, save_clip
from tests.models.weight_server import use_as_hub, weight_server

MakeClip = Callable[[ClipConfig], Clip]
DEBUG = CLIP_SIZES["debug"]
START, END = DEBUG.vocab_size - 2, DEBUG.vocab_size - 1
TOKENS = torch.tensor([[START, 5, 9, END], [START, 3, END, 0]])

# Heads of the published width, so that shapes tell all sizes.
WIDE = dataclasses.replace(DEBUG, vision_width=64, vision_heads=1, text_width=128, text_heads=2, vision_layers=(1,))
WIDE_RESNET = dataclasses.replace(
    WIDE, image_size=64, patch_size=32, vision_layers=(1, 1, 1, 1), vision_width=2, vision_heads=1
)


def logits_of(clip: Clip) -> Tensor:
    size = clip.config.image_size
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    return clip(images, TOKENS)


def refused(checkpoint: Path) -> str:
    """The one line with which a checkpoint is refused."""
    with pytest.raises(CheckpointError) as raised:
        load_clip(str(checkpoint))
    message = str(raised.value)
    assert "\n" not in message
    return message


@pytest.fixture
def folder(randomized: Callable[[torch.nn.Module], None], tmp_path: Path) -> Path:
    """What `transformers` itself writes, GELU included; its heads are not of the published width."""
    towers = {
        "text_config": {
            "hidden_size": 32,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": DEBUG.context_length,
            "vocab_size": DEBUG.vocab_size,
            "hidden_act": "gelu",
            "bos_token_id": START,
            "eos_token_id": END,
            "pad_token_id": 0,
        },
        "vision_config": {
            "hidden_size": 32,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 64,
            "patch_size": 16,
            "hidden_act": "gelu",
        },
    }
    model = transformers.CLIPModel(transformers.CLIPConfig(projection_dim=24, **towers))
    randomized(model)
    model.save_pretrained(tmp_path / "folder")
    return tmp_path / "folder"


# ---- official layout


@pytest.mark.parametrize("name", ["debug", "debug_resnet"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_saved_weights_come_back(
    make_clip: MakeClip, merges: str, tmp_path: Path, name: str, dtype: torch.dtype
) -> None:
    clip = make_clip(CLIP_SIZES[name])
    path = tmp_path / "clip.safetensors"
    save_clip(path, clip, clip.config, dtype, merges=merges, notes={"license": "Apache-2.0"})
    loaded, sha256 = load_clip(str(path))
    assert loaded.config == clip.config
    assert sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    for key, value in clip.state_dict().items():
        expected = value.to(dtype).float() if value.is_floating_point() else value
        assert torch.equal(loaded.state_dict()[key], expected), key
    tokenizer = load_clip_tokenizer(str(path), loaded.config)
    assert torch.equal(tokenizer(["red ball"]), ClipTokenizer.from_merges(merges, DEBUG.context_length)(["red ball"]))


@pytest.mark.parametrize("config", [WIDE, WIDE_RESNET], ids=["vit", "resnet"])
def test_openai_files_need_no_sizes(make_clip: MakeClip, tmp_path: Path, config: ClipConfig) -> None:
    """Their archives also list sizes among the weights; half precision becomes single."""
    clip = make_clip(config)
    sizes = {"input_resolution": 64, "context_length": 16, "vocab_size": 520}
    state = {key: value.half() if value.is_floating_point() else value for key, value in clip.state_dict().items()}
    torch.save({**state, **{key: torch.tensor(value) for key, value in sizes.items()}}, tmp_path / "clip.pt")
    loaded, _ = load_clip(str(tmp_path / "clip.pt"))
    assert loaded.config == config
    assert torch.allclose(logits_of(loaded), logits_of(clip), atol=0.1)


def test_heads_that_shapes_do_not_tell_are_asked_for(make_clip: MakeClip, tmp_path: Path) -> None:
    clip = make_clip(DEBUG)
    torch.save(clip.state_dict(), tmp_path / "clip.pt")
    assert "clip.pt: vision_heads: shapes do not tell it for a width of 32" in refused(tmp_path / "clip.pt")
    (tmp_path / "clip.json").write_text(DEBUG.to_json())
    assert torch.equal(logits_of(load_clip(str(tmp_path / "clip.pt"))[0]), logits_of(clip))


@pytest.mark.parametrize("config", [WIDE, WIDE_RESNET], ids=["vit", "resnet"])
def test_another_input_size(make_clip: MakeClip, tmp_path: Path, config: ClipConfig) -> None:
    clip = make_clip(config)
    torch.save(clip.state_dict(), tmp_path / "clip.pt")
    loaded, _ = load_clip(str(tmp_path / "clip.pt"), image_size=96)
    assert loaded.config == dataclasses.replace(config, image_size=96)
    images = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(loaded.encode_image(images), clip.encode_image(images), atol=1e-5)
    with pytest.raises(CheckpointError, match="image_size: 100 is not a positive multiple of patch_size"):
        load_clip(str(tmp_path / "clip.pt"), image_size=100)


def test_what_does_not_fit_is_named(make_clip: MakeClip, tmp_path: Path) -> None:
    state = make_clip(WIDE).state_dict()
    del state["transformer.resblocks.1.mlp.c_fc.weight"]
    state["surprise"] = torch.zeros(1)
    state["visual.proj"] = torch.zeros(64, 5)
    torch.save(state, tmp_path / "clip.pt")
    message = refused(tmp_path / "clip.pt")
    assert "1 missing (transformer.resblocks.1.mlp.c_fc.weight)" in message
    assert "1 unexpected (surprise)" in message
    assert "1 of another shape (visual.proj (64, 5) instead of (64, 24))" in message


@pytest.mark.parametrize(
    "key",
    [
        "visual.conv1.weight",
        "visual.positional_embedding",
        "positional_embedding",
        "token_embedding.weight",
        "text_projection",
    ],
)
def test_weights_that_do_not_even_tell_their_sizes(make_clip: MakeClip, tmp_path: Path, key: str) -> None:
    state = make_clip(WIDE).state_dict()
    for shape in [(), (3,), (1, 1, 1, 1, 1)]:
        state[key] = torch.zeros(shape)
        torch.save(state, tmp_path / "clip.pt")
        assert "weights" in refused(tmp_path / "clip.pt")
    del state[key]
    torch.save(state, tmp_path / "clip.pt")
    assert f"these weights are not a CLIP's with both of its towers: '{key}' is missing" in refused(
        tmp_path / "clip.pt"
    )


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_a_torchscript_archive_is_refused_and_can_be_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archived = torch.nn.Linear(3, 2)
    torch.jit.save(torch.jit.script(archived), tmp_path / "ViT-B-32.pt")
    message = refused(tmp_path / "ViT-B-32.pt")
    assert "ViT-B-32.pt: refused, as a TorchScript archive is a program and not only weights" in message
    monkeypatch.chdir(tmp_path)
    exec(message.split('python -c "')[1].removesuffix('"'))
    converted = torch.load(tmp_path / "ViT-B-32-weights.pt", weights_only=True)
    assert torch.equal(converted["weight"], archived.weight)


# ---- Hugging Face layout


def test_a_folder_of_transformers_opens(folder: Path) -> None:
    loaded, sha256 = load_clip(str(folder))
    assert loaded.config == dataclasses.replace(DEBUG, vision_heads=4, activation="gelu")
    assert sha256 == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    reference = transformers.CLIPModel.from_pretrained(folder).eval()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = reference(input_ids=TOKENS, pixel_values=images).logits_per_image
    assert (loaded(images, TOKENS) - expected).abs().max() <= 1e-4


def test_old_files_hold_indices_of_positions_too(folder: Path) -> None:
    state = safetensors.torch.load_file(folder / "model.safetensors")
    expected = logits_of(load_clip(str(folder))[0])
    for tower in ("text_model", "vision_model"):
        state[f"{tower}.embeddings.position_ids"] = torch.arange(17)[None]
    torch.save(state, folder / "pytorch_model.bin")
    assert torch.equal(logits_of(load_clip(str(folder / "pytorch_model.bin"))[0]), expected)


def test_without_a_config_heads_are_taken_to_be_as_published(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert "vision_heads: shapes do not tell it for a width of 32" in refused(folder)


@pytest.mark.parametrize("part", ["q", "k", "v"])
def test_a_missing_projection_is_named(folder: Path, part: str) -> None:
    state = safetensors.torch.load_file(folder / "model.safetensors")
    key = f"vision_model.encoder.layers.1.self_attn.{part}_proj.weight"
    del state[key]
    safetensors.torch.save_file(state, folder / "model.safetensors")
    assert f"model.safetensors: the weights do not fit a CLIP: {key} is missing" in refused(folder)


def test_a_key_that_no_layout_knows_is_named(folder: Path) -> None:
    state = safetensors.torch.load_file(folder / "model.safetensors")
    state["vision_model.encoder.layers.0.gate.weight"] = torch.zeros(1)
    safetensors.torch.save_file(state, folder / "model.safetensors")
    assert "1 unexpected (vision_model.encoder.layers.0.gate.weight)" in refused(folder)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "config.json: not that of a transformers.CLIPModel"),
        ("[]", "config.json: not that of a transformers.CLIPModel"),
        ('{"text_config": {"num_attention_heads": null}}', "config.json: not that of a transformers.CLIPModel"),
        ('{"text_config": {"hidden_act": "gelu"}}', "hidden_act is gelu and quick_gelu; both towers must have one"),
        ("{}", "feature_width: 32 is not a positive multiple of vision_heads (12)"),
        (
            '{"text_config": {"hidden_act": "relu"}, '
            '"vision_config": {"hidden_act": "relu", "num_attention_heads": 4}}',
            "activation: 'relu' is unknown",
        ),
    ],
)
def test_a_config_that_does_not_fit_is_refused(folder: Path, config: str, message: str) -> None:
    (folder / "config.json").write_text(config)
    assert message in refused(folder)


def test_sizes_that_a_published_config_gives_twice() -> None:
    """As in the published ViT-L/14; transformers goes by the second."""
    with torch.device("meta"):
        state = build_clip(CLIP_SIZES["vit_l14"]).state_dict()
    config = {
        "text_config": {"num_attention_heads": 8, "hidden_act": "quick_gelu"},
        "text_config_dict": {"num_attention_heads": 12},
        "vision_config": {"num_attention_heads": 16},
        "vision_config_dict": None,
    }
    assert infer_config(state, json.dumps(config)) == CLIP_SIZES["vit_l14"]


@pytest.fixture
def hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder whose files hf://owner/repo has."""
    with weight_server() as server:
        server.repository = ("/owner/repo/resolve/main/", folder)
        use_as_hub(server, tmp_path / "cache", monkeypatch)
        yield folder


def test_a_repository_of_the_hub(hub: Path, merges: str) -> None:
    (hub / "bpe_simple_vocab_16e6.txt.gz").write_bytes(gzip.compress(merges.encode()))
    loaded, sha256 = load_clip("hf://owner/repo")
    assert (loaded.config.vision_heads, loaded.config.activation) == (4, "gelu")
    assert load_clip_tokenizer("hf://owner/repo", loaded.config).encode(["red"]) == [[513]]
    assert sha256 == hashlib.sha256((hub / "model.safetensors").read_bytes()).hexdigest()


def test_an_older_repository_of_the_hub(hub: Path) -> None:
    expected = logits_of(load_clip(str(hub))[0])
    torch.save(safetensors.torch.load_file(hub / "model.safetensors"), hub / "pytorch_model.bin")
    (hub / "model.safetensors").unlink()
    assert torch.equal(logits_of(load_clip("hf://owner/repo")[0]), expected)


def test_a_repository_without_weights(hub: Path) -> None:
    (hub / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has neither model.safetensors nor pytorch_model.bin"):
        load_clip("hf://owner/repo")


# ---- vocabularies


@pytest.mark.parametrize("name", ["bpe.txt", "bpe.txt.gz", "clip/bpe_simple_vocab_16e6.txt.gz", "clip/vocab.json"])
def test_vocabularies_are_found(make_clip: MakeClip, merges: str, tmp_path: Path, name: str) -> None:
    expected = ClipTokenizer.from_merges(merges, DEBUG.context_length)
    (tmp_path / "clip").mkdir()
    save_clip(tmp_path / "clip" / "own.safetensors", make_clip(DEBUG), DEBUG, torch.float32)
    if name.endswith("vocab.json"):
        reference = transformers.CLIPTokenizer(
            vocab=expected._tokenizer.get_vocab(), merges=[tuple(line.split()) for line in merges.split("\n")[1:-1]]
        )
        reference.backend_tokenizer.model.save(str(tmp_path / "clip"))
    else:
        content = merges.encode()
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    beside = name.startswith("clip/")
    sources = [None, str(tmp_path / "clip")] if beside else [str(tmp_path / name)]
    for source in sources:
        found = load_clip_tokenizer(str(tmp_path / "clip" / "own.safetensors"), DEBUG, source)
        assert torch.equal(found(["the red ball!", "été"]), expected(["the red ball!", "été"]))


def test_vocabularies_that_do_not_fit_are_refused(make_clip: MakeClip, merges: str, tmp_path: Path) -> None:
    path = tmp_path / "clip.safetensors"
    save_clip(path, make_clip(DEBUG), DEBUG, torch.float32)

    def message(vocabulary: str | None = None) -> str:
        with pytest.raises(CheckpointError) as raised:
            load_clip_tokenizer(str(path), DEBUG, vocabulary)
        return str(raised.value)

    assert "clip.safetensors: no vocabulary is stored with it; give a bpe_simple_vocab_16e6.txt.gz" in message()
    (tmp_path / "long.txt").write_text(merges + "t o\n")
    assert "long.txt: its vocabulary has 521 tokens, the model's 520" in message(str(tmp_path / "long.txt"))
    (tmp_path / "bad.txt").write_text("one two three\n")
    assert "bad.txt: merges: line 1 is 'one two three'" in message(str(tmp_path / "bad.txt"))
    (tmp_path / "bad.txt.gz").write_text(merges)
    assert "bad.txt.gz: cannot be read as text" in message(str(tmp_path / "bad.txt.gz"))
    assert "none.txt: cannot be read as text" in message(str(tmp_path / "none.txt"))
    assert "there is no file or folder" in message(str(tmp_path / "nowhere"))
