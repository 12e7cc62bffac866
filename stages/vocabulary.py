"""The words that tags are chosen from: groups of words that exclude each other, such as things, colours, patterns."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from models.clip.zero_shot import TEMPLATES, check_templates

MAX_WORDS = 200_000  # in all; their embeddings are held in memory


@dataclass(frozen=True)
class Word:
    """`name` is the tag; `synonyms` are other texts for it. `parents` are tags that it implies."""

    name: str
    synonyms: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()


@dataclass(frozen=True)
class WordGroup:
    """Words of which a mask has at most one: they share out one probability. `nothing` are texts, put into the
    templates too, that take a part of it where none of the words fits; they are never a tag."""

    name: str
    words: tuple[Word, ...]
    templates: tuple[str, ...]
    nothing: tuple[str, ...] = ()

    def ancestors(self) -> dict[str, tuple[str, ...]]:
        """For each word, every tag that it implies, itself first; parents that are no words have their own entry."""
        parents = {word.name: word.parents for word in self.words}
        found: dict[str, tuple[str, ...]] = {}
        for name in [*parents, *(one for above in parents.values() for one in above)]:
            line, ahead = [name], list(parents.get(name, ()))
            while ahead:
                one = ahead.pop(0)
                if one not in line:
                    line.append(one)
                    ahead += parents.get(one, ())
            found[name] = tuple(line)
        return found


@dataclass(frozen=True)
class Vocabulary:
    groups: tuple[WordGroup, ...]

    def sha256(self) -> str:
        """Of the content; the same words, parents and templates in the same order have the same."""
        plain = [[group.name, group.templates, group.nothing, [[w.name, w.synonyms, w.parents] for w in group.words]]
                 for group in self.groups]  # fmt: skip
        return hashlib.sha256(json.dumps(plain).encode()).hexdigest()

    def group(self, name: str) -> WordGroup | None:
        return next((group for group in self.groups if group.name == name), None)


def parse_vocabulary(text: str, name: str) -> Vocabulary:
    """A vocabulary from a file's text; `name` is the file's, for messages and for its kind.

    A .yaml file holds `groups`, each a name with `words` and, optionally, `templates` and `nothing`; any other file is
    one group, `thing`, with one word a line, and # begins a comment. A word is written `lorry, truck < vehicle`: its
    name, synonyms, and after < its parents.
    Raises ValueError, naming the word and its group, for a file without words, a word that stands twice, parents in a
    circle, and templates without exactly one {}.
    """
    if name.endswith((".yaml", ".yml")):
        groups = _from_yaml(text, name)
    else:
        lines = [line.split("#", 1)[0].strip() for line in text.splitlines()]
        groups = [_group("thing", [line for line in lines if line], TEMPLATES, (), name)]
    if sum(len(group.words) for group in groups) > MAX_WORDS:
        raise ValueError(f"vocabulary {name}: more than {MAX_WORDS:,} words; leave some out")
    return Vocabulary(tuple(groups))


def _from_yaml(text: str, name: str) -> list[WordGroup]:
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"vocabulary {name}: not valid YAML: {' '.join(str(error).split())}") from None
    groups = content.get("groups") if isinstance(content, dict) else None
    if not isinstance(groups, dict) or not groups:
        raise ValueError(f"vocabulary {name}: has no groups; write `groups: {{thing: {{words: [dog, cat]}}}}`")
    return [_group(str(key), *_fields(str(key), value, name), name) for key, value in groups.items()]


def _fields(group: str, value: Any, name: str) -> tuple[list[Any], Sequence[str], Sequence[str]]:
    if not isinstance(value, dict) or not isinstance(value.get("words"), list):
        raise ValueError(f"vocabulary {name}: group {group!r} has no list of words; write `words: [dog, cat]`")
    if unknown := sorted(set(value) - {"words", "templates", "nothing"}):
        raise ValueError(
            f"vocabulary {name}: group {group!r}: {unknown[0]!r} is unknown; known are words, templates, nothing"
        )
    texts = {"templates": value.get("templates", TEMPLATES), "nothing": value.get("nothing", ())}
    for field, listed in texts.items():
        if not isinstance(listed, list | tuple) or not all(isinstance(one, str) and one.strip() for one in listed):
            raise ValueError(f"vocabulary {name}: group {group!r}: {field} must be a list of texts, none empty")
    return value["words"], texts["templates"], texts["nothing"]


def _group(group: str, lines: list[Any], templates: Sequence[str], nothing: Sequence[str], name: str) -> WordGroup:
    where = f"vocabulary {name}: group {group!r}"
    if not lines:
        raise ValueError(f"{where} is empty; give at least one word")
    try:
        check_templates(templates)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    words = [_word(line, where) for line in lines]
    seen: set[str] = set()
    for word in words:
        for text in (word.name, *word.synonyms):
            if text.casefold() in seen:
                raise ValueError(f"{where}: {text!r} stands there twice; remove one")
            seen.add(text.casefold())
    found = WordGroup(group, tuple(words), tuple(templates), tuple(nothing))
    _check_no_circle(found, where)
    return found


def _word(line: Any, where: str) -> Word:
    if not isinstance(line, str):
        raise ValueError(f"{where}: {line!r} is no text; put it in quotes")
    texts, mark, above = line.partition("<")
    names = [one.strip() for one in texts.split(",")]
    parents = [one.strip() for one in above.split(",")] if mark else []
    if not all([*names, *parents]) or "<" in above:
        raise ValueError(f"{where}: {line!r} is no word; write `name, synonym < parent`")
    return Word(names[0], tuple(names[1:]), tuple(parents))


def _check_no_circle(group: WordGroup, where: str) -> None:
    ancestors = group.ancestors()
    for name, line in ancestors.items():
        for above in line[1:]:
            if name in ancestors[above][1:]:
                raise ValueError(f"{where}: {name!r} and {above!r} are parents of each other; remove one")
