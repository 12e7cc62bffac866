"""Vocabulary files: shipped ones by name, one's own by path or URI."""

import difflib
from pathlib import Path

from pipeline.errors import store_failure
from pipeline.sources.credentials import refuse_credentials
from stages.read_source import read_source
from stages.vocabulary import Vocabulary, parse_vocabulary

VOCABULARIES = Path(__file__).resolve().parents[2] / "stages" / "vocabularies"


def shipped_vocabularies() -> list[str]:
    return sorted(path.stem for path in VOCABULARIES.glob("*.yaml"))


def read_vocabulary(name: str) -> Vocabulary:
    """The vocabulary of a shipped name, or of a file, on disk or in a bucket.

    Raises ValueError for a name that is neither, a file that cannot be read and, as `parse_vocabulary`, its content.
    """
    refuse_credentials("vocabulary", name)
    shipped = VOCABULARIES / f"{name}.yaml"
    if shipped.is_file() and not Path(name).is_file():
        return parse_vocabulary(shipped.read_text(encoding="utf-8"), shipped.name)
    try:
        text = read_source(str(Path(name).expanduser()) if "://" not in name else name, None, None).decode("utf-8-sig")
    except FileNotFoundError:
        names = shipped_vocabularies()
        near = difflib.get_close_matches(name, names, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(
            f"vocabulary {name!r}: neither a file nor a shipped one; {hint}shipped are {', '.join(names)}"
        ) from None
    except Exception as error:  # each store has errors of its own kinds
        raise store_failure(f"vocabulary {name!r}: cannot be read", error, "give a UTF-8 text or YAML file") from None
    return parse_vocabulary(text, name.rsplit("/", 1)[-1])
