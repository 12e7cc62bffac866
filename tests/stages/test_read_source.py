import io
import tarfile
from pathlib import Path

import pytest

from stages.read_source import Member, read_source, source_etag, tar_members


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
    with open(path, "rb") as file:
        members = list(tar_members(file))
    assert [member.name for member in members] == [name.removeprefix("./") for name in contents]
    for member, data in zip(members, contents.values(), strict=True):
        assert read_source(f"{path}!{member.name}", member.offset, member.size) == data
        assert read_source(f"file://{path}!{member.name}", None, None) == data
        assert path.read_bytes()[member.offset : member.offset + member.size] == data


def test_links_and_folders_are_no_members(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        for name, kind in (("d", tarfile.DIRTYPE), ("l.png", tarfile.SYMTYPE), ("h.png", tarfile.LNKTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/hostname"
            file.addfile(info)
        info = tarfile.TarInfo("a.png")
        info.size = 1
        file.addfile(info, io.BytesIO(b"a"))
    with open(tmp_path / "a.tar", "rb") as file:
        assert list(tar_members(file)) == [Member("a.png", 2048, 1)]


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
    with pytest.raises(ValueError, match="cut short or damaged"):
        read_source(str(path), None, None)
    with pytest.raises(FileNotFoundError):
        read_source(f"{tmp_path}/none.png", None, None)


def test_names_that_other_tools_read_as_more(tmp_path: Path) -> None:
    for name in ("a::b.png", "per%20cent.png", "a!b.png", "what?.png", "# *[1].png", "new\nline.png"):
        (tmp_path / name).write_bytes(name.encode())
        assert read_source(f"file://{tmp_path}/{name}", None, None) == name.encode()


def test_the_tag_of_a_member_is_its_archives(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.tar", {"a.png": b"data"})
    info = path.stat()
    assert source_etag(f"{path}!a.png") == source_etag(str(path)) == f"{info.st_size}-{info.st_mtime}"
