import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stages.near_duplicates import MAX_BITS, SeenImages


def text(value: int) -> str:
    return f"{value:016x}"


def flipped(value: int, bits: list[int]) -> int:
    for bit in bits:
        value ^= 1 << bit
    return value


hashes = st.integers(0, 2**64 - 1)


@given(hashes, st.lists(st.integers(0, 63), max_size=12, unique=True))
def test_near_is_a_number_of_bits(value: int, bits: list[int]) -> None:
    seen = SeenImages({"first": text(value)})
    found = seen.original("second", text(flipped(value, bits)))
    assert found == ("first" if len(bits) <= MAX_BITS else None)


@given(st.lists(hashes, max_size=30))
def test_the_nearest_of_many_is_found(values: list[int]) -> None:
    seen = SeenImages()
    originals: dict[int, str] = {}
    for number, value in enumerate(values):
        near = [(int(np.bitwise_count(np.uint64(one ^ value))), one) for one in originals]
        expected = min((pair for pair in near if pair[0] <= MAX_BITS), default=None)
        assert seen.original(f"{number}", text(value)) == (expected and originals[expected[1]])
        if expected is None:
            originals[value] = f"{number}"


def test_an_original_stays_one_and_repeats_are_no_originals() -> None:
    seen = SeenImages()
    assert seen.original("a", text(0)) is None
    assert seen.original("a", text(0)) is None  # its worker died and it comes again
    assert seen.original("b", text(0b1111)) == "a"
    assert seen.original("c", text(0b11111111)) is None  # near b only
    assert SeenImages({}).original("d", text(2**64 - 1)) is None
