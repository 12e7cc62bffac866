import pytest

from stages.vocabulary import parse_vocabulary


def test_lines_hold_names_synonyms_and_parents() -> None:
    text = "dog, puppy < pet, animal # a comment\n\n# another\n車\npet < animal\n"
    [group] = parse_vocabulary(text, "own.txt").groups
    assert [word.name for word in group.words] == ["dog", "車", "pet"]
    assert group.words[0].synonyms == ("puppy",)
    assert group.ancestors()["dog"] == ("dog", "pet", "animal")
    assert group.ancestors()["animal"] == ("animal",)


def test_the_hash_is_that_of_the_content() -> None:
    one, same, other = (parse_vocabulary(text, "a.txt").sha256() for text in ("a\nb", "a \n b #c", "b\na"))
    assert one == same != other


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("", "a.txt", "group 'thing' is empty; give at least one word"),
        ("dog\ncat\nDog\n", "a.txt", "'Dog' stands there twice"),
        ("dog, dog\n", "a.txt", "'dog' stands there twice"),
        ("dog <\n", "a.txt", "is no word"),
        ("dog,,cat\n", "a.txt", "is no word"),
        ("a < b\nb < c\nc < a\n", "a.txt", "parents of each other"),
        ("groups: {}", "a.yaml", "has no groups"),
        ("groups: [", "a.yaml", "not valid YAML"),
        ("groups: {x: {words: []}}", "a.yaml", "is empty"),
        ("groups: {x: {words: [1]}}", "a.yaml", "1 is no text; put it in quotes"),
        ("groups: {x: {words: [a], template: [b]}}", "a.yaml", "'template' is unknown"),
        ("groups: {x: {words: [a], templates: ['a photo']}}", "a.yaml", "must have exactly one {}"),
        ("groups: {x: {words: [a], templates: ['a {colour} {}']}}", "a.yaml", "must have exactly one {}"),
        ("groups: {x: {words: [a], nothing: ['']}}", "a.yaml", "nothing must be a list of texts, none empty"),
    ],
)
def test_a_mistake_is_one_line(text: str, name: str, message: str) -> None:
    with pytest.raises(ValueError, match="vocabulary a") as caught:
        parse_vocabulary(text, name)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_ten_thousand_words_are_fine_and_too_many_are_not() -> None:
    assert len(parse_vocabulary("\n".join(f"word {i}" for i in range(10_000)), "a.txt").groups[0].words) == 10_000
    with pytest.raises(ValueError, match="more than 200,000 words"):
        parse_vocabulary("\n".join(f"word {i}" for i in range(200_001)), "a.txt")
