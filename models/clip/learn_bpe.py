"""A vocabulary of our own for a CLIP that is trained here, in OpenAI's form (a list of merges)."""

import json
from collections.abc import Iterable

from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from models.clip.tokenizer import END_OF_WORD, byte_symbols, clean_text, pre_tokenizer

NUM_OTHER_TOKENS = 2 * 256 + 2  # bytes, bytes that end a word, start and end of text


def learn_merges(texts: Iterable[str], max_tokens: int) -> str:
    """The merges of a byte-pair encoding of at most `max_tokens` tokens in all, for `ClipTokenizer.from_merges`.

    Sennrich et al. 2016 (arXiv:1508.07909): the most frequent pair is merged until the vocabulary is full or no pair
    occurs twice; of pairs as frequent the one of the first tokens, so that the same texts, in any order, always give
    the same merges. Raises ValueError if `max_tokens` leaves no room for a merge.
    """
    if max_tokens <= NUM_OTHER_TOKENS:
        raise ValueError(
            f"max_tokens: {max_tokens} leaves no room; {NUM_OTHER_TOKENS} stand for single bytes, use more"
        )
    symbols = sorted(byte_symbols())
    alphabet = symbols + [symbol + END_OF_WORD for symbol in symbols]
    learner = Tokenizer(BPE(end_of_word_suffix=END_OF_WORD))
    learner.pre_tokenizer = pre_tokenizer()
    trainer = BpeTrainer(
        vocab_size=max_tokens - 2,
        min_frequency=2,
        show_progress=False,
        special_tokens=alphabet,  # else they are numbered in the order of a hash, and ties fall by their numbers
        end_of_word_suffix=END_OF_WORD,
    )
    learner.train_from_iterator((clean_text(text) for text in texts), trainer)
    pairs = json.loads(learner.to_str())["model"]["merges"]
    made = set(alphabet)
    kept: list[str] = []
    for left, right in pairs:
        if left + right not in made and len(kept) < max_tokens - NUM_OTHER_TOKENS:
            made.add(left + right)
            kept.append(f"{left} {right}")
    return "\n".join(["#version: 0.2", *kept])
