import re

import pytest

from pipeline.sources.credentials import refuse_credentials
from pipeline.sources.globs import filter_regex, glob_regex, static_folder


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("a/*.jpg", ["a/x.jpg", "a/.jpg", "a/new\nline.jpg"], ["a/b/x.jpg", "x.jpg", "a/x.jpgx"]),
        ("a/**/x.jpg", ["a/x.jpg", "a/b/c/x.jpg"], ["b/x.jpg", "a/bx.jpg"]),
        ("a/**", ["a/x", "a/b/c"], ["b/x"]),
        ("[01]?.p(g)", ["0a.p(g)"], ["2a.p(g)", "0/.p(g)", "0a.pg"]),
        ("[!a-c].png", ["d.png", "é.png"], ["a.png", "b.png"]),
        ("[]].png", ["].png"], ["[.png"]),
        ("[odd.png", ["[odd.png"], ["o.png"]),
    ],
)
def test_globs(pattern: str, matching: list[str], other: list[str]) -> None:
    found = re.compile(glob_regex(pattern) + r"\Z")
    assert all(found.match(name) for name in matching)
    assert not any(found.match(name) for name in other)


def test_filters_without_a_slash_speak_of_names() -> None:
    assert re.search(filter_regex("*.jpg"), "a/b/c.jpg") and re.search(filter_regex("1*"), "t.tar!12.png")
    assert not re.search(filter_regex("*.jpg"), "a/b.jpg/c.png")
    assert re.search(filter_regex("a/*"), "a/x.png") and not re.search(filter_regex("a/*"), "b/a/x.png")


def test_static_folder() -> None:
    assert static_folder("/a/b*/c.jpg") == "/a" and static_folder("bucket/a/*.jpg") == "bucket/a"
    assert static_folder("*.jpg") == ""


def test_credentials_are_refused_and_not_repeated() -> None:
    for uri in ("https://me:pass@host/x", "s3://KEY:SEC/RET@bucket/x", "https://h/x.jpg?a=1&Signature=SECRET"):
        with pytest.raises(ValueError, match=r"^output: the URI holds credentials") as caught:
            refuse_credentials("output", uri)
        assert "pass" not in str(caught.value).replace("password", "") and "SECRET" not in str(caught.value)
    for uri in (
        "s3://bucket/a@b:c.jpg",
        "/data/me:you@home/x.jpg",
        "https://host:80/a@b?id=7",
        "hf://datasets/a/b@main/x",
    ):
        refuse_credentials("input", uri)
