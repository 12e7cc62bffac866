"""CLIP's byte-level BPE tokenizer (facts: CLIP's published `simple_tokenizer.py`; Sennrich et al. 2016,
arXiv:1508.07909). The `tokenizers` library does the merging.

A vocabulary comes in one of two published forms: OpenAI's list of merges alone (`bpe_simple_vocab_16e6.txt`), from
which the ids follow, or Hugging Face's vocab.json with merges.txt.
"""

import hashlib
import html
import json
import unicodedata
from collections.abc import Iterable, Sequence

import torch
from tokenizers import Regex, Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, PreTokenizer, Split
from tokenizers.pre_tokenizers import Sequence as Steps
from torch import Tensor

START_OF_TEXT = "<|startoftext|>"
END_OF_TEXT = "<|endoftext|>"
END_OF_WORD = "</w>"
CONTEXT_LENGTH = 77

_SPECIAL_TOKENS = (START_OF_TEXT, END_OF_TEXT)
_NUM_PUBLISHED_MERGES = 49_152 - 256 - len(_SPECIAL_TOKENS)  # the file goes on, but the published models stop here
# English clitics, runs of letters, single digits, runs of anything else but space.
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"


class ClipTokenizer:
    """Texts to token ids and back. Its id of the end of text is the vocabulary's highest, as the text tower expects."""

    def __init__(
        self, vocab: dict[str, int], merges: list[tuple[str, str]], context_length: int = CONTEXT_LENGTH
    ) -> None:
        """`vocab` are the ids of the tokens, in which bytes stand for themselves or as the characters of
        `byte_symbols`, and END_OF_WORD is a token's ending. Raises ValueError if they do not make a vocabulary."""
        _check_vocabulary(vocab)
        if context_length < 3:
            raise ValueError(f"context_length: {context_length} leaves no room for a token; use 3 or more")
        self.context_length = context_length
        self.vocab_size = len(vocab)
        self.start_of_text = vocab[START_OF_TEXT]
        self.end_of_text = vocab[END_OF_TEXT]
        self.sha256 = hashlib.sha256(json.dumps([vocab, merges], sort_keys=True).encode()).hexdigest()
        try:
            bpe = BPE(vocab=vocab, merges=merges, end_of_word_suffix=END_OF_WORD)
        except Exception as error:  # the library raises nothing more special
            raise ValueError(f"merges: {error}; they belong to another vocabulary") from error
        self._tokenizer = Tokenizer(bpe)
        self._tokenizer.pre_tokenizer = pre_tokenizer()
        self._tokenizer.add_special_tokens(list(_SPECIAL_TOKENS))
        self._tokens = {index: token for token, index in vocab.items()}

    @classmethod
    def from_merges(cls, text: str, context_length: int = CONTEXT_LENGTH) -> "ClipTokenizer":
        """A tokenizer from OpenAI's form: a header, then one merge a line. Raises ValueError if it is none.

        The ids are: bytes, bytes that end a word, what the merges make in their order, start and end of text.
        """
        merges = parse_merges(text)[:_NUM_PUBLISHED_MERGES]
        symbols = sorted(byte_symbols())  # as published: printable ones first
        tokens = symbols + [symbol + END_OF_WORD for symbol in symbols]
        tokens += [left + right for left, right in merges]
        tokens += _SPECIAL_TOKENS
        vocab = {token: index for index, token in enumerate(tokens)}
        if len(vocab) != len(tokens):
            raise ValueError("merges: two of them make the same token; this is not OpenAI's vocabulary file")
        return cls(vocab, merges, context_length)

    @classmethod
    def from_vocab(cls, vocab_json: str, merges_text: str, context_length: int = CONTEXT_LENGTH) -> "ClipTokenizer":
        """A tokenizer from the contents of vocab.json and merges.txt. Raises ValueError if they are none."""
        try:
            vocab = json.loads(vocab_json)
        except json.JSONDecodeError as error:
            raise ValueError(f"vocab.json: not JSON ({error})") from error
        if not isinstance(vocab, dict) or not all(type(index) is int for index in vocab.values()):
            raise ValueError("vocab.json: expected an object of tokens and their ids")
        return cls(vocab, parse_merges(merges_text), context_length)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Texts -> token ids (len(texts), context_length), int64: start of text, the tokens, end of text, zeros.

        A text of more than context_length - 2 tokens keeps its first ones; the end of text is always there.
        """
        room = self.context_length - 2
        ids = torch.zeros(len(texts), self.context_length, dtype=torch.int64)
        for row, tokens in zip(ids, self.encode(texts), strict=True):
            framed = [self.start_of_text, *tokens[:room], self.end_of_text]
            row[: len(framed)] = torch.tensor(framed)
        return ids

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of each text, as many as it has, without start and end."""
        cleaned = [clean_text(text) for text in texts]
        return [encoding.ids for encoding in self._tokenizer.encode_batch(cleaned, add_special_tokens=False)]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids up to the first end of text; bytes that are not UTF-8 become U+FFFD.

        Spaces stand where words ended, so that "it's" comes back as "it 's". Raises ValueError for an unknown id.
        """
        pieces = []
        for index in ids:
            if index == self.end_of_text:
                break
            if index not in self._tokens:
                raise ValueError(f"ids: {index} is not in the vocabulary of {self.vocab_size} tokens")
            if index != self.start_of_text:
                pieces.append(self._tokens[index])
        values = {symbol: value for value, symbol in enumerate(byte_symbols())}
        words = [bytes(values[symbol] for symbol in word) for word in "".join(pieces).split(END_OF_WORD)]
        return b" ".join(words).decode("utf-8", errors="replace").strip()


def clean_text(text: str) -> str:
    """HTML entities resolved (twice, as published), composed Unicode (NFC), single spaces, lower case.

    The published code also repairs mis-decoded text with the library ftfy; that is left out, as in `transformers`.
    """
    text = unicodedata.normalize("NFC", html.unescape(html.unescape(text)))
    return " ".join(text.split()).lower()


def byte_symbols() -> tuple[str, ...]:
    """The character that stands for each byte value, 0 to 255 (GPT-2's published `encoder.py`): printable Latin-1
    characters for themselves, the other 68 in order from U+0100 on."""
    others = iter(range(256, 512))
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    return tuple(chr(value if value in printable else next(others)) for value in range(256))


def parse_merges(text: str) -> list[tuple[str, str]]:
    """The pairs of a merges file, a header with "#version" left out. Raises ValueError for a line that is no pair."""
    lines = text.split("\n")
    merges = []
    for number, line in enumerate(lines, start=1):
        pair = line.split()
        if not pair or (number == 1 and "#version" in line):
            continue
        if len(pair) != 2:
            raise ValueError(f"merges: line {number} is {line[:40]!r}; expected two tokens with a space between")
        merges.append((pair[0], pair[1]))
    return merges


def pre_tokenizer() -> PreTokenizer:
    """Cuts text into words, whose bytes become `byte_symbols`."""
    words = Split(Regex(_WORDS), behavior="removed", invert=True)
    return Steps([words, ByteLevel(add_prefix_space=False, use_regex=False)])


def _check_vocabulary(vocab: dict[str, int]) -> None:
    symbols = sorted(byte_symbols())
    needed = (*symbols, *(symbol + END_OF_WORD for symbol in symbols), *_SPECIAL_TOKENS)
    if missing := [token for token in needed if token not in vocab]:
        raise ValueError(f"vocabulary: {missing[0]!r} is missing, and {len(missing) - 1} more; this is not a CLIP's")
    if sorted(vocab.values()) != list(range(len(vocab))):
        raise ValueError(f"vocabulary: the ids of {len(vocab)} tokens are not 0 to {len(vocab) - 1}")
    if vocab[END_OF_TEXT] != len(vocab) - 1:
        raise ValueError(f"vocabulary: {END_OF_TEXT} has id {vocab[END_OF_TEXT]}, not the highest ({len(vocab) - 1})")
