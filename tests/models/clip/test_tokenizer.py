"""Against `transformers.CLIPTokenizer` on the same files, and by hand."""

import html
import json
import pickle
import unicodedata

import pytest
import torch
import transformers
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from models.clip.tokenizer import ClipTokenizer, byte_symbols, clean_text, parse_merges

# Ids of OpenAI's form: 256 bytes (printable ones first: "!" is 0), 256 that end a word, the merges, two specials.
RE, RED, BA, LL, BALL, TH, START, END = 512, 513, 514, 515, 516, 517, 518, 519


@pytest.fixture
def tokenizer(merges: str) -> ClipTokenizer:
    return ClipTokenizer.from_merges(merges)


def byte_id(character: str, ends_word: bool) -> int:
    return ord(character) - ord("!") + 256 * ends_word


def standard_files(tokenizer: ClipTokenizer, merges: str) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """What vocab.json and merges.txt hold for the same vocabulary, written by hand's rules and not by the module."""
    printable = [chr(code) for code in (*range(33, 127), *range(161, 173), *range(174, 256))]
    symbols = printable + [chr(256 + index) for index in range(256 - len(printable))]
    pairs = [(line.split()[0], line.split()[1]) for line in merges.split("\n")[1:-1]]
    tokens = [*symbols, *(symbol + "</w>" for symbol in symbols), *(a + b for a, b in pairs)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return {token: index for index, token in enumerate(tokens)}, pairs


@pytest.fixture(scope="module")
def both() -> tuple[ClipTokenizer, transformers.CLIPTokenizer]:
    text = "#version: 0.2\nr e\nre d</w>\nb a\nl l</w>\nba ll</w>\nt h\nÃ ©</w>\n! !</w>\n' s</w>\n"
    tokenizer = ClipTokenizer.from_merges(text)
    vocab, pairs = standard_files(tokenizer, text)
    return tokenizer, transformers.CLIPTokenizer(vocab=vocab, merges=pairs)


def test_ids_by_hand(tokenizer: ClipTokenizer) -> None:
    assert tokenizer.vocab_size == 520
    assert (tokenizer.start_of_text, tokenizer.end_of_text) == (START, END)
    assert tokenizer.encode(["Red ball", "RED!", "the", "reds", ""]) == [
        [RED, BALL],
        [RED, byte_id("!", True)],
        [TH, byte_id("e", True)],
        [RE, byte_id("d", False), byte_id("s", True)],
        [],
    ]
    rows = tokenizer(["red ball", ""])
    assert rows.shape == (2, 77)
    assert rows.dtype == torch.int64
    assert rows[0].tolist() == [START, RED, BALL, END] + [0] * 73
    assert rows[1].tolist() == [START, END] + [0] * 75
    assert tokenizer([]).shape == (0, 77)


def test_words_are_cut_as_published(tokenizer: ClipTokenizer) -> None:
    """Clitics, letters, single digits, and runs of the rest are words; words are never merged across."""
    words = ["it", "'s", "5", "0", "%", "re", "-", "red", "!?", "été"]
    joined = tokenizer.encode(["it's 50% re-red!? été"])[0]
    assert joined == [index for word in words for index in tokenizer.encode([word])[0]]


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("  A \t RED\n\nball ", "a red ball"),
        ("salt &amp; pepper", "salt & pepper"),
        ("salt &amp;amp; pepper", "salt & pepper"),
        ("e\u0301t\u00e9", "\u00e9t\u00e9"),
        ("\u3000\u3000", ""),
    ],
)
def test_cleaning(text: str, cleaned: str) -> None:
    assert clean_text(text) == cleaned


def test_a_long_text_keeps_its_beginning(merges: str) -> None:
    tokenizer = ClipTokenizer.from_merges(merges, context_length=5)
    assert tokenizer(["red red red"])[0].tolist() == [START, RED, RED, RED, END]
    assert tokenizer(["red red red ball ball"])[0].tolist() == [START, RED, RED, RED, END]
    assert len(tokenizer.encode(["red " * 100])[0]) == 100


@pytest.mark.parametrize(
    "text",
    [
        "a photo of the red ball.",
        "it's the dog's, they're; I'd we'll I'm they've 'sup",
        "3.14159, 50% of 1,000",
        "!!!??? -- (red) [ball] #1 <3",
        "Ünïcödé straße ÉTÉ",
        "красный мяч",
        "赤いボール 红色的球",
        "لون أحمر हिन्दी ไทย",
        "🔴⚽ ball👩‍👩‍👧",
        "tabs\tand\nnewlines\u00a0and\u2003spaces",
        "<|startoftext|> red <|endoftext|> ball",
        "</w> red</w>",
        "",
        "red " * 100,
    ],
)
def test_against_transformers(both: tuple[ClipTokenizer, transformers.CLIPTokenizer], text: str) -> None:
    tokenizer, reference = both
    expected = reference(text, truncation=True, max_length=77)["input_ids"]
    assert tokenizer([text])[0].tolist() == expected + [0] * (77 - len(expected))


@settings(max_examples=200, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x1c\x1d\x1e\x1f"), max_size=40))
def test_any_text_against_transformers(both: tuple[ClipTokenizer, transformers.CLIPTokenizer], text: str) -> None:
    tokenizer, reference = both
    # transformers resolves no entities, and has one lower case for each character where Python looks at its place.
    assume(html.unescape(html.unescape(text)) == text)
    assume(unicodedata.normalize("NFC", text).lower() == "".join(c.lower() for c in unicodedata.normalize("NFC", text)))
    assert tokenizer.encode([text])[0] == reference(text, add_special_tokens=False)["input_ids"]


@settings(max_examples=100, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_decoding_gives_the_words_back(both: tuple[ClipTokenizer, transformers.CLIPTokenizer], text: str) -> None:
    tokenizer = both[0]
    decoded = tokenizer.decode(tokenizer([text])[0].tolist())
    if len(tokenizer.encode([text])[0]) <= 75:
        assert "".join(decoded.split()) == "".join(clean_text(text).split())


def test_decoding_by_hand(tokenizer: ClipTokenizer) -> None:
    assert tokenizer.decode([START, RED, BALL, END, RED]) == "red ball"
    assert tokenizer.decode([TH, RE]) == "thre"
    assert tokenizer.decode([]) == ""
    broken = tokenizer.encode(["é"])[0]
    assert tokenizer.decode(broken[:1]) == "\ufffd"
    with pytest.raises(ValueError, match="ids: 520 is not in the vocabulary of 520 tokens"):
        tokenizer.decode([520])


def test_both_forms_of_a_vocabulary_agree(tokenizer: ClipTokenizer, merges: str) -> None:
    vocab, _ = standard_files(tokenizer, merges)
    same = ClipTokenizer.from_vocab(json.dumps(vocab), "#version: 0.2\n" + merges.split("\n", 1)[1])
    texts = ["a red ball", "été 12", "🔴"]
    assert torch.equal(same(texts), tokenizer(texts))


def test_openai_uses_the_beginning_of_its_file_only() -> None:
    symbols = byte_symbols()
    pairs = [f"{a} {b}" for a in symbols for b in symbols]
    tokenizer = ClipTokenizer.from_merges("\n".join(['"bpe#version: 0.2', *pairs, ""]))
    assert len(pairs) == 65_536
    assert tokenizer.vocab_size == 49_408
    assert (tokenizer.start_of_text, tokenizer.end_of_text) == (49_406, 49_407)


def test_workers_can_be_sent_a_tokenizer(tokenizer: ClipTokenizer) -> None:
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert torch.equal(copy(["a red ball"]), tokenizer(["a red ball"]))


def test_merges_are_read_with_and_without_a_header() -> None:
    assert parse_merges("#version: 0.2\na b\n# #\n\n") == [("a", "b"), ("#", "#")]
    assert parse_merges("a b") == [("a", "b")]
    with pytest.raises(ValueError, match="merges: line 2 is 'c'; expected two tokens"):
        parse_merges("a b\nc\n")


def test_vocabularies_that_are_none_are_refused(tokenizer: ClipTokenizer, merges: str) -> None:
    vocab, pairs = standard_files(tokenizer, merges)
    with pytest.raises(ValueError, match="two of them make the same token"):
        ClipTokenizer.from_merges("a b\na b\n")
    with pytest.raises(ValueError, match="they belong to another vocabulary"):
        ClipTokenizer(vocab, [("x", "y")])
    with pytest.raises(ValueError, match=r"vocab.json: not JSON"):
        ClipTokenizer.from_vocab("{", merges)
    with pytest.raises(ValueError, match=r"vocab.json: expected an object of tokens and their ids"):
        ClipTokenizer.from_vocab('{"a": "b"}', merges)
    with pytest.raises(ValueError, match=r"vocabulary: '!' is missing, and 513 more; this is not a CLIP's"):
        ClipTokenizer({}, [])
    with pytest.raises(ValueError, match="the ids of 520 tokens are not 0 to 519"):
        ClipTokenizer({**vocab, "re": 3}, pairs)
    swapped = {**vocab, "<|endoftext|>": START, "<|startoftext|>": END}
    with pytest.raises(ValueError, match=r"<\|endoftext\|> has id 518, not the highest \(519\)"):
        ClipTokenizer(swapped, pairs)
    with pytest.raises(ValueError, match="context_length: 2 leaves no room"):
        ClipTokenizer(vocab, pairs, context_length=2)
