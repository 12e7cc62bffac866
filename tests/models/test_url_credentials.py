import pytest

from models.url_credentials import redact


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cannot fetch http://bob:SECRET@127.0.0.1:1/x to /a", "cannot fetch http://***@127.0.0.1:1/x to /a"),
        ("s3://KEY:SEC/RET@b/x", "s3://***@b/x"),
        ("'https://:SECRET@host' and https://a:b@c", "'https://***@host' and https://***@c"),
        ("for url: https://cdn/x?a=1&X-Amz-Signature=SECRET&b=2", "for url: https://cdn/x?a=1&X-Amz-Signature=***&b=2"),
        ("(https://cdn/x?token=SECRET)", "(https://cdn/x?token=***)"),
        ("http://host:80/a@b, file:///a:b@c, 12:30 me@here", "http://host:80/a@b, file:///a:b@c, 12:30 me@here"),
    ],
)
def test_what_is_secret_in_an_address_is_not_shown(text: str, shown: str) -> None:
    assert redact(text) == shown
