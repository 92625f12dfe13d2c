"""Zip archives from elsewhere, as the datasets of pictures and annotations read them."""

import stat
import struct
import zipfile
from pathlib import Path

import pytest

from pair_files import picture
from rlaifv_kedro.datasets import ImagesDataset, archives, images
from rlaifv_kedro.datasets.coco_annotations import CocoAnnotations
from rlaifv_kedro.errors import UserError


def member(name: str, mode: int = 0) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


def found(path: Path, name: str) -> bytes:
    return ImagesDataset(str(path)).load().find([name])[name]["bytes"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "all.zip"


def encrypt(path: Path) -> None:
    """Sets the flag in the local header and in the directory."""
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = content.index(signature) + offset
        struct.pack_into("<H", content, place, struct.unpack_from("<H", content, place)[0] | 1)
    path.write_bytes(content)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK, stat.S_IFDIR])
def test_members_that_are_no_files(path: Path, kind: int) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member("a.jpg", kind | 0o777), "/etc/passwd")
    with pytest.raises(
        UserError, match=r"all\.zip: its member a\.jpg is a link or a device.*unpack it yourself"
    ):
        found(path, "a.jpg")


def test_an_encrypted_member(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.jpg", picture(1))
    encrypt(path)
    with pytest.raises(UserError, match=r"all\.zip: its member a\.jpg is encrypted"):
        found(path, "a.jpg")


def test_a_member_that_grows_when_it_is_unpacked(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.jpg", bytes(50_000_000))
    assert path.stat().st_size < 100_000
    monkeypatch.setattr(images, "MOST_OF_A_PICTURE", 1_000_000)
    with pytest.raises(
        UserError, match="its member a.jpg has 50,000,000 bytes unpacked, more than 1,000,000"
    ):
        found(path, "a.jpg")


def test_a_member_that_claims_to_be_small(path: Path) -> None:
    """No more than it claims is unpacked, whatever lies behind."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.jpg", picture(1) + bytes(50_000_000))
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<I", content, content.index(signature) + offset, 1000)
    path.write_bytes(content)
    with archives.open_archive(path) as archive, pytest.raises(zipfile.BadZipFile, match="CRC"):
        archives.open_member(archive, "a.jpg", 1000).read()
    with pytest.raises(UserError, match="is damaged"):
        found(path, "a.jpg")


@pytest.mark.parametrize("name", ["../../a.jpg", "/a.jpg", "C:\\a.jpg", "x/../../a.jpg", "%2e%2e%2fa.jpg"])
def test_members_whose_names_lead_out_write_nothing(path: Path, name: str) -> None:
    """Nothing is unpacked to the disk: a member's name finds its content, and no more."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, picture(1))
    before = sorted(path.parent.parent.rglob("*"))
    assert found(path, name) == picture(1)
    assert sorted(path.parent.parent.rglob("*")) == before


def test_the_same_member_twice(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("a.jpg", b"no picture")
        archive.writestr("a.jpg", picture(2))
    assert found(path, "a.jpg") == picture(2)  # as every program that unpacks them one over the other


def test_annotations_in_an_odd_archive(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member("annotations/instances_x.json", stat.S_IFLNK | 0o777), "/dev/zero")
        archive.writestr("annotations/captions_x.json", b" " * 5_000_000)
    coco = CocoAnnotations(path)
    with pytest.raises(UserError, match=r"all\.zip: its member annotations/instances_x\.json is a link"):
        list(coco.entries("instances", "x"))
    monkeypatch.setattr("rlaifv_kedro.datasets.coco_annotations.MOST_OF_A_DOCUMENT", 1_000_000)
    with pytest.raises(UserError, match="captions_x.json has 5,000,000 bytes unpacked"):
        list(coco.entries("captions", "x"))
