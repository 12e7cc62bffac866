"""Keep credentials out of identifiers, records and messages: a URI that holds some is refused."""

import pyarrow as pa
import pyarrow.compute as pc

_PATTERN = (
    r"^[A-Za-z][A-Za-z0-9+.-]*://[^/]*:[^/]*@"  # user:password@host
    r"|^[A-Za-z][A-Za-z0-9+.-]*://[^/@:]*:[^/@]*[^/@0-9][^@]*@"  # a password may hold `/`, and a port is none
    r"|(?i)[?&](x-amz-signature|x-amz-credential|x-goog-signature|signature|sig|token|access_token|password)="
)
_REMEDY = "holds credentials, which would end up in every record; give them in the environment (AWS_ACCESS_KEY_ID, …)"


def refuse_credentials(field: str, uris: pa.Array | pa.ChunkedArray | str) -> None:
    """Raises ValueError, without repeating the URI, if one of `uris` holds a password or is a signed link."""
    values = pa.array([uris]) if isinstance(uris, str) else uris
    found = pc.match_substring_regex(values, _PATTERN)
    if pc.any(found).as_py():
        first = pc.index(found, True).as_py()
        where = field if isinstance(uris, str) else f"{field} row {first + 1}"
        raise ValueError(f"{where}: the URI {_REMEDY}")
