"""Models from weight files, and back: loading, saving, converting and verifying.

`models.weight_files` finds, fetches, reads and writes the files. A checkpoint is named by one string: an embedded or a
published name (`available_models` lists both), `hf://owner/repo[@revision]`, or a path to a .pth, .pt or .safetensors
file or to a folder with a model.safetensors.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from models.blank import blank
from models.captioner.model import Captioner, CaptionerConfig
from models.clip.build import build_clip
from models.clip.checkpoints import infer_config as infer_clip_config
from models.clip.checkpoints import is_hugging_face as is_hugging_face_clip
from models.clip.checkpoints import official_layout
from models.clip.checkpoints import resize_positions as resize_clip_positions
from models.clip.config import ClipConfig
from models.clip.model import Clip
from models.clip.tokenizer import ClipTokenizer
from models.sam.build import build_sam
from models.sam.checkpoints import (
    from_hugging_face,
    hugging_face_config,
    infer_config,
    is_hugging_face,
    resize_positions,
    to_hugging_face,
)
from models.sam.clip_prompt import ClipPrompt
from models.sam.config import SamConfig
from models.sam.model import Sam
from models.sam2.checkpoints import is_sam2
from models.weight_files import (
    HUB_FILENAME,
    SIZES_PREFIX,
    CheckpointError,
    ModelRecord,
    StoredWeights,
    available_models,
    first_few,
    read_checkpoint,
    read_companion,
    read_metadata,
    read_text,
    stored_sizes,
    write_pickle,
    write_safetensors,
    write_text,
)

__all__ = [
    "CheckpointError",
    "ModelRecord",
    "VerifiedCheckpoint",
    "available_models",
    "convert",
    "load_captioner",
    "load_clip",
    "load_clip_prompt",
    "load_clip_tokenizer",
    "load_sam",
    "load_strictly",
    "read_clip_config",
    "sam_of",
    "save_captioner",
    "save_clip",
    "save_clip_prompt",
    "save_sam",
    "verify_checkpoint",
]


# The metadata key of a checkpoint's own vocabulary, in OpenAI's form.
MERGES_NOTE = "bpe_merges"
# Of a CLIP's checkpoint: the views of masks that it was trained on, as JSON.
VIEWS_NOTE = "maskfoundry_views"
# The calibrated thresholds of tags, as JSON.
TAGS_NOTE = "maskfoundry_tags"
# Of a captioner: the least cosine of a caption with what it is about.
CAPTION_NOTE = "maskfoundry_caption_score"
OPENAI_VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"


@dataclass(frozen=True)
class VerifiedCheckpoint:
    """What `verify_checkpoint` found out about a file that is in order."""

    path: Path
    sha256: str
    layout: Literal["official", "hugging_face"]
    config: SamConfig
    num_parameters: int


def load_sam(checkpoint: str, image_size: int | None = None) -> tuple[Sam, str]:
    """A SAM ready for inference (eval mode, fp32, no gradients, on the CPU) and the sha256 of its file.

    `image_size` in pixels, a multiple of the patch size, interpolates the position tables to another input size.
    Raises CheckpointError.
    """
    return sam_of(read_checkpoint(checkpoint), image_size)


def save_sam(
    path: Path,
    weights: Sam | Mapping[str, Tensor],
    config: SamConfig,
    dtype: torch.dtype,
    notes: Mapping[str, str] | None = None,
) -> None:
    """Writes official-layout weights as safetensors with their sizes, floating-point values as `dtype`.

    `notes` is further metadata, such as a licence.
    """
    state = weights.state_dict() if isinstance(weights, Sam) else weights
    state = {key: value.to(dtype) if value.is_floating_point() else value for key, value in state.items()}
    write_safetensors(path, state, {**(notes or {}), f"{SIZES_PREFIX}sam": config.to_json()})


def load_clip(checkpoint: str, image_size: int | None = None) -> tuple[Clip, str]:
    """A CLIP ready for inference (eval mode, fp32, no gradients, on the CPU) and the sha256 of its file.

    `image_size` in pixels, a multiple of the patch size, interpolates the position table to another input size.
    Raises CheckpointError.
    """
    stored = read_checkpoint(checkpoint)
    state, config = _clip_state(checkpoint, stored)
    with _blaming(stored.path):
        resized = config if image_size is None else dataclasses.replace(config, image_size=image_size)
    model = _clip_from(state, config, stored.path)
    if resized != config:
        model = _clip_from(resize_clip_positions(state, resized), resized, stored.path)
    return model, stored.sha256


def read_clip_config(checkpoint: str) -> ClipConfig:
    """The sizes of a CLIP, without building it. Raises CheckpointError."""
    return _clip_state(checkpoint, read_checkpoint(checkpoint))[1]


def _clip_state(checkpoint: str, stored: StoredWeights) -> tuple[dict[str, Tensor], ClipConfig]:
    """The weights in the official layout, and their sizes."""
    sizes = stored_sizes(stored, "clip")
    with _blaming(stored.path):
        state = official_layout(stored.state)
        if sizes is not None:
            return state, ClipConfig.from_json(sizes)
        is_theirs = is_hugging_face_clip(stored.state)
        return state, infer_clip_config(state, read_companion(checkpoint, "config.json") if is_theirs else None)


def load_clip_tokenizer(checkpoint: str, config: ClipConfig, vocabulary: str | None = None) -> ClipTokenizer:
    """The tokenizer for a checkpoint with these sizes.

    `vocabulary` is a file in OpenAI's form (.txt or .txt.gz) or a folder with vocab.json and merges.txt. Without it,
    the checkpoint's own is taken: what `save_clip` stored with it, else such files beside it.
    Raises CheckpointError, also if the vocabulary is not as large as the model's.
    """
    source = vocabulary or checkpoint
    with _blaming(source):
        tokenizer = _tokenizer_of(source, config.context_length)
    if tokenizer is None:
        raise CheckpointError(
            f"{source}: no vocabulary is stored with it; give a {OPENAI_VOCABULARY}, or a folder with vocab.json and "
            "merges.txt, or put these files beside it"
        )
    if tokenizer.vocab_size != config.vocab_size:
        raise CheckpointError(
            f"{source}: its vocabulary has {tokenizer.vocab_size} tokens, the model's {config.vocab_size}; "
            "use the one that the model was trained with"
        )
    return tokenizer


def save_clip(
    path: Path,
    weights: Clip | Mapping[str, Tensor],
    config: ClipConfig,
    dtype: torch.dtype,
    merges: str | None = None,
    notes: Mapping[str, str] | None = None,
) -> None:
    """Writes official-layout weights as safetensors with their sizes, floating-point values as `dtype`.

    `merges` is the vocabulary in OpenAI's form, if it is the checkpoint's own; `notes` is further metadata.
    """
    state = weights.state_dict() if isinstance(weights, Clip) else weights
    state = {key: value.to(dtype) if value.is_floating_point() else value for key, value in state.items()}
    own = {} if merges is None else {MERGES_NOTE: merges}
    write_safetensors(path, state, {**(notes or {}), **own, f"{SIZES_PREFIX}clip": config.to_json()})


def load_captioner(checkpoint: str) -> tuple[Captioner, str]:
    """A captioner ready for inference, as `load_clip`, and the sha256 of its file. Raises CheckpointError."""
    stored = read_checkpoint(checkpoint)
    sizes = stored_sizes(stored, "captioner")
    if sizes is None:
        raise CheckpointError(f"{stored.path}: is no captioner, or its sizes are not stored with it")
    with _blaming(stored.path):
        config = CaptionerConfig.from_json(sizes)
    with blank():
        model = Captioner(config)
    load_strictly(model, stored.state, stored.path)
    return model.eval().requires_grad_(False), stored.sha256


def save_captioner(
    path: Path, captioner: Captioner, dtype: torch.dtype, notes: Mapping[str, str] | None = None
) -> None:
    """Writes a captioner as safetensors with its sizes; `notes` is further metadata."""
    state = {key: value.to(dtype) for key, value in captioner.state_dict().items()}
    write_safetensors(path, state, {**(notes or {}), f"{SIZES_PREFIX}captioner": captioner.config.to_json()})


def load_clip_prompt(checkpoint: str) -> tuple[ClipPrompt, str]:
    """The projection that prompts a SAM with CLIP embeddings, ready for inference, and the sha256 of its file.

    Raises CheckpointError.
    """
    stored = read_checkpoint(checkpoint)
    weight = stored.state.get("projection.weight")
    if weight is None or weight.ndim != 2:
        raise CheckpointError(f"{stored.path}: holds no projection of CLIP embeddings; train one with `text_prompt`")
    with blank():
        model = ClipPrompt(weight.shape[1], weight.shape[0])
    load_strictly(model, stored.state, stored.path)
    return model.eval().requires_grad_(False), stored.sha256


def save_clip_prompt(
    path: Path, weights: Mapping[str, Tensor], dtype: torch.dtype, notes: Mapping[str, str] | None = None
) -> None:
    """Writes the projection as safetensors; `notes` is further metadata, such as which CLIP it was trained with."""
    write_safetensors(path, {key: value.to(dtype) for key, value in weights.items()}, dict(notes or {}))


def convert(source: str, destination: Path) -> None:
    """Writes the SAM weights of the checkpoint `source` in the layout that the ending of `destination` asks for.

    .safetensors: official names, sizes in the metadata. .pth or .pt: segment-anything's own format, the sizes in a
    .json beside it. No ending: a folder that `transformers.SamModel.from_pretrained` reads. Values are not changed.
    Raises CheckpointError.
    """
    stored, state, config = _read_sam(read_checkpoint(source))
    _sam_from(state, config, stored.path)
    metadata = {**stored.metadata, f"{SIZES_PREFIX}sam": config.to_json()}
    if destination.suffix == ".safetensors":
        write_safetensors(destination, state, metadata)
    elif destination.suffix in (".pth", ".pt"):
        write_pickle(destination, state)
        write_text(destination.with_suffix(".json"), config.to_json())
    elif destination.suffix == "":
        write_safetensors(destination / HUB_FILENAME, to_hugging_face(state), metadata)
        write_text(destination / "config.json", json.dumps(hugging_face_config(config), indent=2))
    else:
        raise CheckpointError(
            f"{destination}: unknown ending; use .safetensors, .pth, .pt, or none for a Hugging Face folder"
        )


def verify_checkpoint(checkpoint: str) -> VerifiedCheckpoint:
    """Checks that SAM weights are readable, complete, of the right shapes and finite. Raises CheckpointError if not."""
    stored, state, config = _read_sam(read_checkpoint(checkpoint))
    model = _sam_from(state, config, stored.path)
    if broken := [key for key, value in model.state_dict().items() if not value.isfinite().all()]:
        raise CheckpointError(f"{stored.path}: {len(broken)} tensors hold NaN or infinity ({first_few(broken)})")
    return VerifiedCheckpoint(
        path=stored.path,
        sha256=stored.sha256,
        layout="hugging_face" if is_hugging_face(stored.state) else "official",
        config=config,
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
    )


def sam_of(stored: StoredWeights, image_size: int | None) -> tuple[Sam, str]:
    """What `load_sam` gives, of a file that is already read."""
    stored, state, config = _read_sam(stored)
    if image_size is not None and image_size != config.image_size:
        with _blaming(stored.path):
            config = dataclasses.replace(config, image_size=image_size)
        state = resize_positions(state, config)
    return _sam_from(state, config, stored.path), stored.sha256


def _read_sam(stored: StoredWeights) -> tuple[StoredWeights, dict[str, Tensor], SamConfig]:
    """The stored file, its weights in the official layout, and their sizes."""
    if is_sam2(stored.state):
        raise CheckpointError(f"{stored.path}: holds a SAM 2, which can generate masks and track, but not do this yet")
    sizes = stored_sizes(stored, "sam")
    with _blaming(stored.path):
        state = from_hugging_face(stored.state) if is_hugging_face(stored.state) else stored.state
        config = infer_config(state) if sizes is None else SamConfig.from_json(sizes)
    return stored, state, config


@contextmanager
def _blaming(source: object) -> Iterator[None]:
    """Turns a ValueError of the pure functions into a CheckpointError that names the file."""
    try:
        yield
    except ValueError as error:
        raise CheckpointError(f"{source}: {error}") from error


def _sam_from(state: Mapping[str, Tensor], config: SamConfig, source: Path) -> Sam:
    with blank():
        model = build_sam(config)
    load_strictly(model, state, source)
    return model.eval().requires_grad_(False)


def _clip_from(state: Mapping[str, Tensor], config: ClipConfig, source: Path) -> Clip:
    with blank():
        model = build_clip(config)
    load_strictly(model, state, source)
    return model.eval().requires_grad_(False)


def _tokenizer_of(source: str, context_length: int) -> ClipTokenizer | None:
    """The tokenizer of a vocabulary file, a folder or a checkpoint; None if there is no vocabulary."""
    path = Path(source).expanduser()
    if path.suffix in (".txt", ".gz"):
        return ClipTokenizer.from_merges(read_text(path), context_length)
    if not path.is_dir() and not source.startswith("hf://"):
        merges = read_metadata(source).get(MERGES_NOTE)
        if merges is not None:
            return ClipTokenizer.from_merges(merges, context_length)
    vocab, merges = read_companion(source, "vocab.json"), read_companion(source, "merges.txt")
    if vocab is not None and merges is not None:
        return ClipTokenizer.from_vocab(vocab, merges, context_length)
    merges = read_companion(source, OPENAI_VOCABULARY)
    return None if merges is None else ClipTokenizer.from_merges(merges, context_length)


def load_strictly(model: nn.Module, state: Mapping[str, Tensor], source: object) -> None:
    """Makes `state`, in fp32, the model's weights; the model may be on the meta device.

    Raises CheckpointError, naming `source` and the keys, if any is missing, left over or of another shape.
    """
    expected = model.state_dict()
    problems = {
        "missing": [key for key in expected if key not in state],
        "unexpected": [key for key in state if key not in expected],
        "of another shape": [
            f"{key} {tuple(state[key].shape)} instead of {tuple(value.shape)}"
            for key, value in expected.items()
            if key in state and state[key].shape != value.shape
        ],
    }
    if any(problems.values()):
        listed = [f"{len(keys)} {kind} ({first_few(keys)})" for kind, keys in problems.items() if keys]
        raise CheckpointError(f"{source}: the weights do not fit the model's sizes: {'; '.join(listed)}")
    state = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    model.load_state_dict(state, strict=True, assign=True)
