"""Candidates from tags, and candidates that contradict tags."""

import re
import string
from collections.abc import Mapping, Sequence

from stages.vocabulary import Vocabulary, WordGroup

_WORD = re.compile(r"[^\W_]+")


def check_caption_templates(templates: Sequence[str], vocabulary: Vocabulary) -> None:
    """Raises ValueError for a template with a field that is no group of the vocabulary, or without any."""
    known = [group.name for group in vocabulary.groups]
    for template in templates:
        try:
            fields = _fields(template)
        except ValueError as error:
            raise ValueError(
                f"caption.templates: {template!r} is broken ({error}); write it as 'a {{thing}}'"
            ) from None
        if unknown := [field for field in fields if field not in known]:
            raise ValueError(
                f"caption.templates: {template!r} has the field {unknown[0]!r}, which is no group of the vocabulary; "
                f"known are {', '.join(known)}"
            )
        if not fields:
            raise ValueError(f"caption.templates: {template!r} has no field such as {{{known[0]}}}")


def tags_by_group(names: Sequence[str], vocabulary: Vocabulary) -> dict[str, str]:
    """The first of a mask's tags that is a word of each group, group → name; a name counts for one group only."""
    found: dict[str, str] = {}
    left = list(names)
    for group in vocabulary.groups:
        words = {word.name for word in group.words}
        name = next((one for one in left if one in words), None)
        if name is not None:
            found[group.name] = name
            left.remove(name)
    return found


def fill_templates(templates: Sequence[str], tags: Mapping[str, str]) -> list[str]:
    """The texts of the templates whose fields all have a tag, "a" put right before a vowel."""
    texts = [template.format_map(tags) for template in templates if all(one in tags for one in _fields(template))]
    return [re.sub(r"\ba (?=[aeiou])", "an ", text) for text in texts]


class Contradictions:
    """Tells texts that name another word of a group than the tag that a mask has in it."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._groups = {group.name: (_texts_of_words(group), group.ancestors()) for group in vocabulary.groups}

    def __call__(self, text: str, tags: Mapping[str, str]) -> bool:
        """Whether `text` has words of the group of a tag, but neither the tag nor what it implies."""
        padded = _padded(text)
        for group, tag in tags.items():
            words, ancestors = self._groups[group]
            named = {name for phrase, name in words.items() if phrase in padded}
            if named and not named & set(ancestors[tag]):
                return True
        return False


def _texts_of_words(group: WordGroup) -> dict[str, str]:
    return {_padded(text): word.name for word in group.words for text in (word.name, *word.synonyms)}


def _padded(text: str) -> str:
    """Words in lower case between single spaces, also at both ends, so that whole words can be looked for."""
    return f" {' '.join(_WORD.findall(text.casefold()))} "


def _fields(template: str) -> list[str]:
    return [field for _, field, _, _ in string.Formatter().parse(template) if field is not None]
