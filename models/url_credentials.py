"""Passwords and signatures in addresses: how to tell them, and how to keep them out of messages."""

import re

_SCHEME = "[A-Za-z][A-Za-z0-9+.-]*://"
_SIGNATURES = (
    "x-amz-signature|x-amz-credential|x-amz-security-token|x-goog-signature|signature|sig|token|access_token|password"
)
# Of a whole address, as Arrow reads it too: user:password@host, whose password may hold `/`, while a port is none.
PATTERN = (
    rf"^{_SCHEME}[^/]*:[^/]*@"
    rf"|^{_SCHEME}[^/@:]*:[^/@]*[^/@0-9][^@]*@"
    rf"|(?i)[?&]({_SIGNATURES})="
)
_END = r"\s'\""  # what no address in a message goes beyond
_IN_TEXT = re.compile(
    rf"({_SCHEME})(?:[^/@{_END}]*:[^/@{_END}]*@|[^/@:{_END}]*:[^/@{_END}]*[^/@0-9{_END}][^@{_END}]*@)"
    rf"|([?&](?:{_SIGNATURES})=)[^&{_END})]+",
    re.IGNORECASE,
)


def redact(text: str) -> str:
    """`text` with `***` for user names, passwords and signatures of the addresses in it."""
    return _IN_TEXT.sub(lambda match: f"{match[1]}***@" if match[1] else f"{match[2]}***", text)
