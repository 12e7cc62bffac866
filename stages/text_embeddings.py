"""CLIP's directions for the words of a vocabulary, computed once and kept by the hash of what they follow from."""

import hashlib
import os
import uuid
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from models.clip.model import Clip
from models.clip.tokenizer import ClipTokenizer
from models.clip.zero_shot import class_embeddings
from stages.vocabulary import Vocabulary, WordGroup


def text_embeddings(clip: Clip, tokenizer: ClipTokenizer, vocabulary: Vocabulary, clip_sha256: str) -> list[np.ndarray]:
    """For each group one direction of unit length for each of its words and then its texts for nothing, (W + N, D).

    A word's direction is the mean over its name and synonyms in all templates. Kept in the cache folder
    (`MASKFOUNDRY_CACHE`); one that cannot be written is done without.
    Raises ValueError for a word that is too long for the model, in any of the templates.
    """
    key = hashlib.sha256(f"{clip_sha256} {tokenizer.sha256} {vocabulary.sha256()}".encode()).hexdigest()[:32]
    folder = Path(os.environ.get("MASKFOUNDRY_CACHE") or "~/.cache/maskfoundry").expanduser() / "texts"
    path = folder / f"{key}.npz"
    names = [str(index) for index in range(len(vocabulary.groups))]
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return [stored[name] for name in names]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass  # not there yet, or cut short
    for group in vocabulary.groups:
        check_lengths(tokenizer, group)
    made = [_of_group(clip, tokenizer, group) for group in vocabulary.groups]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{key}.{uuid.uuid4().hex}.npz")
        arrays: dict[str, Any] = dict(zip(names, made, strict=True))
        np.savez(temporary, **arrays)
        temporary.replace(path)
    except OSError:
        pass
    return made


def text_direction(clip: Clip, tokenizer: ClipTokenizer, text: str, field: str = "text") -> np.ndarray:
    """(D,), of unit length. Raises ValueError, naming `field`, for a text that is empty or too long for the model."""
    (tokens,) = tokenizer.encode([text])
    if not tokens:
        raise ValueError(f"{field}: it is empty; say what the masks should show, such as 'a red ball'")
    room = tokenizer.context_length - 2
    if len(tokens) > room:
        raise ValueError(f"{field}: {text[:40]!r}… has {len(tokens)} tokens, the model reads {room}; shorten it")
    direction: np.ndarray = class_embeddings(clip, tokenizer, [text], ["{}"])[0].cpu().numpy()
    return direction


def check_lengths(tokenizer: ClipTokenizer, group: WordGroup) -> None:
    """Raises ValueError for a word that would be cut off in the longest of the group's templates."""
    texts = [text for word in group.words for text in (word.name, *word.synonyms)]
    longest = max(len(one) for one in tokenizer.encode([template.replace("{}", "") for template in group.templates]))
    room = max(0, tokenizer.context_length - 2 - longest)
    for text, tokens in zip(texts, tokenizer.encode(texts), strict=True):
        if len(tokens) > room:
            raise ValueError(
                f"vocabulary: group {group.name!r}: {text[:40]!r} has {len(tokens)} tokens, the model reads {room} of "
                "them beside the template; shorten it"
            )


def _of_group(clip: Clip, tokenizer: ClipTokenizer, group: WordGroup) -> np.ndarray:
    texts = [text for word in group.words for text in (word.name, *word.synonyms)]
    directions = class_embeddings(clip, tokenizer, [*texts, *group.nothing], group.templates).cpu().numpy()
    lengths = [1 + len(word.synonyms) for word in group.words] + [1] * len(group.nothing)
    starts = np.cumsum([0, *lengths[:-1]])
    means = np.add.reduceat(directions, starts, axis=0) / np.array(lengths)[:, None]
    return (means / np.linalg.norm(means, axis=1, keepdims=True)).astype(np.float32)
