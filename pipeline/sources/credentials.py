"""Keep credentials out of identifiers, records and messages: a URI that holds some is refused."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from models.url_credentials import PATTERN

_REMEDY = "holds credentials, which would end up in every record; give them in the environment (AWS_ACCESS_KEY_ID, …)"


def refuse_credentials(field: str, uris: pa.Array | pa.ChunkedArray | str) -> None:
    """Raises ValueError, without repeating the URI, if one of `uris` holds a password or is a signed link."""
    values = pa.array([uris]) if isinstance(uris, str) else uris
    found = pc.match_substring_regex(values, PATTERN)
    if pc.any(found).as_py():
        first = pc.index(found, True).as_py()
        where = field if isinstance(uris, str) else f"{field} row {first + 1}"
        raise ValueError(f"{where}: the URI {_REMEDY}")


def refuse_credentials_in(content: Any, field: str = "") -> None:
    """`refuse_credentials` for every text in a recipe's plain values, each by the name of its field."""
    if isinstance(content, dict):
        for name, value in content.items():
            refuse_credentials_in(value, f"{field}.{name}" if field else str(name))
    elif isinstance(content, list | tuple):
        for value in content:
            refuse_credentials_in(value, field)
    elif isinstance(content, str):
        refuse_credentials(field, content)
