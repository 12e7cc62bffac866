"""Glob patterns as regular expressions that Arrow and Python both read."""

import re

MAGIC = re.compile(r"[*?\[]")


def glob_regex(pattern: str, borders: str = "/") -> str:
    """`*` and `?` stay within a step of a path, which ends at `borders`; `**` crosses steps, `[…]` is a class of
    characters."""
    parts, position = [], 0
    while position < len(pattern):
        rest = pattern[position:]
        if rest.startswith("**/"):
            parts.append("(?:.*/)?")
            position += 3
        elif rest.startswith("**"):
            parts.append(".*")
            position += 2
        elif rest[0] in "*?":
            parts.append(f"[^{borders}]*" if rest[0] == "*" else f"[^{borders}]")
            position += 1
        elif rest[0] == "[" and (close := rest.find("]", 2)) > 0:
            inside = re.sub(r"([\\\[\]^])", r"\\\1", rest[1:close].removeprefix("!"))
            parts.append(f"[^{inside}]" if rest[1] == "!" else f"[{inside}]")
            position += close + 1
        else:
            parts.append(re.escape(rest[0]))
            position += 1
    return f"(?s:{''.join(parts)})"


def filter_regex(pattern: str) -> str:
    """For `include` and `exclude`: a pattern without `/` speaks of a file's name, another of its whole id."""
    return f"^{glob_regex(pattern)}$" if "/" in pattern else f"(?:^|[/!]){glob_regex(pattern, '/!')}$"


def static_folder(pattern: str) -> str:
    """The folder above the first step that holds a pattern."""
    steps = pattern.split("/")
    first = next(index for index, step in enumerate(steps) if MAGIC.search(step))
    return "/".join(steps[:first])
