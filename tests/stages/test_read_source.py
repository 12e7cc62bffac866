import io
import subprocess
import tarfile
import tracemalloc
from pathlib import Path

import pytest

from stages.read_source import index_archive, read_source, source_etag
from stages.tar_index import Member


def archive(path: Path, members: dict[str, bytes], kind: int = tarfile.GNU_FORMAT) -> Path:
    with tarfile.open(path, "w", format=kind) as file:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_read_by_their_place(tmp_path: Path, kind: int) -> None:
    contents = {"a.jpg": b"first", "./b/ü.png": b"x" * 1500, "empty.png": b"", "c.txt": b"last"}
    if kind != tarfile.USTAR_FORMAT:
        contents["long/" + "n" * 220 + ".jpg"] = b"a name of its own block"
    path = archive(tmp_path / "a.tar", contents, kind)
    members = list(index_archive(str(path)).members.values())
    assert [member.name for member in members] == [name.removeprefix("./") for name in contents]
    for member, data in zip(members, contents.values(), strict=True):
        assert read_source(f"{path}!{member.name}", member.offset, member.size) == data
        assert read_source(f"file://{path}!{member.name}", None, None) == data
        assert path.read_bytes()[member.offset : member.offset + member.size] == data


def test_links_and_folders_are_no_members_and_links_are_counted(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        kinds = {"d": tarfile.DIRTYPE, "l.png": tarfile.SYMTYPE, "h.png": tarfile.LNKTYPE, "p.png": tarfile.FIFOTYPE}
        for name, kind in kinds.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/hostname"
            file.addfile(info)
        info = tarfile.TarInfo("a.png")
        info.size = 1
        file.addfile(info, io.BytesIO(b"a"))
    index = index_archive(str(tmp_path / "a.tar"))
    assert index.members == {"a.png": Member("a.png", 2560, 1)} and index.damage is None
    assert index.not_taken == {"links in archives": 2, "sparse and special members of archives": 1}


def append(path: Path, name: str, data: bytes, link: str = "") -> None:
    with tarfile.open(path, "a") as file:
        info = tarfile.TarInfo(name)
        info.size, info.type, info.linkname = len(data), tarfile.SYMTYPE if link else tarfile.REGTYPE, link
        file.addfile(info, io.BytesIO(data))


def test_of_a_repeated_member_the_last_copy_counts_as_for_tar(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.tar", {"a.png": b"first", "b.png": b"b", "c.png": b"c"})
    append(path, "./a.png", b"second copy")
    append(path, "c.png", b"", link="b.png")
    index = index_archive(str(path))
    assert set(index.members) == {"a.png", "b.png"} and index.not_taken.total() == 3
    place = index.members["a.png"]
    assert read_source(f"{path}!a.png", place.offset, place.size) == read_source(f"{path}!a.png", None, None)
    (tmp_path / "x").mkdir()
    subprocess.run(["tar", "-xf", path, "-C", tmp_path / "x"], check=True)
    assert read_source(f"{path}!a.png", None, None) == (tmp_path / "x" / "a.png").read_bytes() == b"second copy"
    append(path, "b.png", b"new")
    assert read_source(f"{path}!b.png", None, None) == b"new", "an archive that has changed is read anew"


@pytest.mark.parametrize("compression", ["gz", "bz2", "xz"])
def test_a_compressed_archive_says_that_it_is(tmp_path: Path, compression: str) -> None:
    with tarfile.open(tmp_path / "a.tar", f"w:{compression}") as file:  # type: ignore[call-overload]
        file.addfile(tarfile.TarInfo("a.png"), io.BytesIO())
    for uri in (f"{tmp_path}/a.tar", f"{tmp_path}/a.tar!a.png"):
        with pytest.raises(ValueError, match=r"^the archive is compressed \((gzip|bzip2|xz)\), .*; unpack it$"):
            read_source(uri, None, None)


def test_a_header_that_claims_gigabytes_is_not_read(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.tar", {"a.png": b"data"})
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 3 << 30
    with open(path, "r+b") as file:
        file.seek(1024)
        file.write(info.tobuf())
        file.truncate((3 << 30) + 4096)
    tracemalloc.start()
    index = index_archive(str(path))
    assert tracemalloc.get_traced_memory()[1] < 10 << 20
    tracemalloc.stop()
    assert set(index.members) == {"a.png"} and index.damage is not None and "cut short or damaged" in index.damage


def test_more_bytes_than_allowed_are_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "sparse.png", "wb") as file:
        file.truncate(3 << 30)
    with pytest.raises(ValueError, match=r"^3,221,225,472 bytes are above decode\.max_bytes=1073741824$"):
        read_source(f"{tmp_path}/sparse.png", None, None)
    path = archive(tmp_path / "a.tar", {"a.png": b"data"})
    assert read_source(f"{path}!a.png", None, None, max_bytes=4) == b"data"
    for place in ((None, None), (512, 4)):
        with pytest.raises(ValueError, match=r"^4 bytes are above decode\.max_bytes=3$"):
            read_source(f"{path}!a.png", *place, max_bytes=3)


@pytest.mark.parametrize("member", ["../a.png", "/etc/a.png", "b/../../a.png"])
def test_a_member_stays_in_its_archive(tmp_path: Path, member: str) -> None:
    archive(tmp_path / "a.tar", {member: b"x"})
    with pytest.raises(ValueError, match="leaves its archive"):
        read_source(f"{tmp_path}/a.tar!{member}", 512, 1)


def test_what_is_not_there(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.tar", {"a.png": b"data"})
    with pytest.raises(FileNotFoundError, match=r"no member 'b\.png'"):
        read_source(f"{path}!b.png", None, None)
    with pytest.raises(ValueError, match="ends 90 bytes before"):
        read_source(f"{path}!a.png", path.stat().st_size - 10, 100)
    with pytest.raises(ValueError, match=r"an archive is no image; name ARCHIVE\.tar!MEMBER"):
        read_source(str(path), None, None)
    with pytest.raises(FileNotFoundError):
        read_source(f"{tmp_path}/none.png", None, None)


def test_names_that_other_tools_read_as_more(tmp_path: Path) -> None:
    names = ("a::b.png", "per%20cent.png", "a!b.png", "what?.png", "# *[1].png", "new\nline.png", "x.tar!y.png")
    for name in (*names, "q.TAR!d/x.tar!z.png", "v?versionId=1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
        assert read_source(f"file://{tmp_path}/{name}", None, None) == name.encode()


def test_the_tag_of_a_member_is_its_archives(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.tar", {"a.png": b"data"})
    info = path.stat()
    assert source_etag(f"{path}!a.png") == source_etag(str(path)) == f"{info.st_size}-{info.st_mtime}"


def test_a_file_named_like_a_member_stands_beside_its_archive(tmp_path: Path) -> None:
    archive(tmp_path / "x.tar", {"y.png": b"member", "deep.tar!z.png": b"of a name with the mark"})
    (tmp_path / "x.tar!other.png").write_bytes(b"file")
    assert read_source(f"{tmp_path}/x.tar!y.png", None, None) == b"member"
    assert read_source(f"{tmp_path}/x.tar!deep.tar!z.png", None, None) == b"of a name with the mark"
    assert read_source(f"{tmp_path}/x.tar!other.png", None, None) == b"file"
    with pytest.raises(FileNotFoundError, match=r"no member 'none\.png'"):
        read_source(f"{tmp_path}/x.tar!none.png", None, None)


def test_keys_of_a_bucket_are_taken_as_they_are(s3_server: Path) -> None:
    (s3_server / "keys").mkdir()
    names = ["v?versionId=abc.png", "v", "x.tar!y.png", "what?.png", "100%.png", "a b.png", "empty.png", "hash#.png"]
    for name in names:
        (s3_server / "keys" / name).write_bytes(b"" if name == "empty.png" else name.encode())
    archive(s3_server / "keys" / "a.tar", {"m?versionId=1.png": b"member"})
    for name in names:
        expected = b"" if name == "empty.png" else name.encode()
        assert read_source(f"s3://keys/{name}", None, None) == expected
        assert source_etag(f"s3://keys/{name}")
    assert read_source("s3://keys/a.tar!m?versionId=1.png", None, None) == b"member"
