"""Which URIs lead out of the places that may be read, however they are written."""

from pathlib import Path

import pytest

from stages.allowed_places import AllowedPlaces, ForbiddenPlaceError

BUCKET = AllowedPlaces(named=("s3://photos/mine", "http://host/pictures", "/data/photos", "/data/a.tar"))


@pytest.mark.parametrize(
    "uri",
    [
        "s3://photos/mine/a.png",
        "s3a://photos/mine/a.tar!more/b.png",
        "http://host/pictures/a.png?size=large",
        "/data/photos/a.png",
        "file:///data/photos/./more//a.png",
        "file:///data/photos/more/../a.png",
        "/data/a.tar!b.png",
    ],
)
def test_what_lies_below_a_place_may_be_read(uri: str) -> None:
    BUCKET.check(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "s3://photos/mineral/a.png",
        "s3://photos/mine/../secret.png",
        "s3://photos/a.png",
        "gs://photos/mine/a.png",
        "http://host/a.png",
        "http://host/pictures/../a.png",
        "http://host/pictures/%2e%2e/a.png",
        "http://host@evil/pictures/a.png",
        "https://host/pictures/a.png",
        "http://169.254.169.254/latest/meta-data/iam/security-credentials/role?x=.png",
        "file:///etc/passwd",
        "/data/photos/../secret.png",
        "/data/photosynthesis/a.png",
        "/data/a.tar.png",
        "file://host/data/../etc/passwd",
        "nothing://data/photos/a.png",
        "relative.png",
        "",
        None,
    ],
)
def test_what_lies_elsewhere_may_not(uri: str | None) -> None:
    with pytest.raises(ForbiddenPlaceError, match=r"is outside the dataset and its input|names a store that cannot"):
        BUCKET.check(uri)


def test_links_lead_out_of_named_places_and_not_out_of_closed_ones(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"mine")
    for name in ("photos", "dataset"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "link.png").symlink_to(tmp_path / "secret.png")
        (tmp_path / name / "plain.png").write_bytes(b"")
    photos, dataset = str(tmp_path / "photos"), str(tmp_path / "dataset")
    places = AllowedPlaces(named=(photos,), closed=(dataset,))
    for allowed in (f"{photos}/link.png", f"{photos}/plain.png", f"{dataset}/plain.png"):
        places.check(allowed)
    for forbidden in (f"{dataset}/link.png", f"{dataset}/../photos/../secret.png"):
        with pytest.raises(ForbiddenPlaceError):
            places.check(forbidden)
    AllowedPlaces(named=(str(tmp_path),), closed=(dataset,)).check(f"{dataset}/link.png")


def test_a_place_that_cannot_be_read_allows_nothing() -> None:
    with pytest.raises(ForbiddenPlaceError):
        AllowedPlaces(named=("nothing://x",)).check("/x")
