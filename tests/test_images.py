"""The pictures of a table: from what a row names to pixels, or to a reject of a few words."""

import base64
import io
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.images import embed_image, open_image, png_bytes, portable_image, readable_images


@pytest.fixture
def png(pictures: list[Image.Image]) -> bytes:
    return png_bytes(pictures[0])


def test_bytes_file_and_data_url_are_the_same_picture(
    png: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a picture é.png").write_bytes(png)
    url = "data:image/png;base64," + base64.b64encode(png).decode()
    for image in (
        {"bytes": png, "path": "gone.png"},
        {"bytes": None, "path": "a picture é.png"},
        {"path": url},
    ):
        assert np.array_equal(np.asarray(open_image(image, "row 0")), np.asarray(Image.open(io.BytesIO(png))))
        assert embed_image(image, None, "row 0")["bytes"] == png
    assert embed_image({"path": url}, None, "row 0")["path"] is None  # a megabyte is no name


def test_a_relative_path_counts_from_the_source_s_folder_first(
    png: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "source/in").mkdir(parents=True)
    (tmp_path / "source/in/a.png").write_bytes(png)
    monkeypatch.chdir(tmp_path)
    assert embed_image({"path": "in/a.png"}, tmp_path / "source", "row 0") == {
        "bytes": png,
        "path": "in/a.png",
    }
    Path("b.png").write_bytes(png)
    assert embed_image({"path": "b.png"}, tmp_path / "source", "row 0")["bytes"] == png


@pytest.mark.parametrize(
    "path", ["{out}/a.png", "../a.png", "source/../../a.png", "../../../../../../etc/passwd"]
)
def test_a_table_from_elsewhere_names_no_other_files_of_this_machine(
    png: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """Else a stranger's table would have a private picture copied into what is trained on and published."""
    (tmp_path / "project/source").mkdir(parents=True)
    (tmp_path / "a.png").write_bytes(png)
    monkeypatch.chdir(tmp_path / "project")
    with pytest.raises(
        UserError, match="lies neither in source nor in the folder that the run is started in"
    ):
        embed_image({"path": path.format(out=tmp_path)}, Path("source"), "row 0")


def test_links_of_the_user_s_and_whole_paths_inside_are_followed(
    png: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "project/source").mkdir(parents=True)
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk/a.png").write_bytes(png)
    (tmp_path / "project/source/pictures").symlink_to(tmp_path / "disk")
    monkeypatch.chdir(tmp_path / "project")
    for path in ("pictures/a.png", str(tmp_path / "project/source/pictures/a.png")):
        assert embed_image({"path": path}, Path("source"), "row 0")["bytes"] == png
    assert (
        embed_image({"path": str(tmp_path / "disk/a.png")}, None, "row 0")["bytes"] == png
    )  # the user's own


@pytest.mark.parametrize(
    ("path", "why"),
    [
        (None, "it has neither bytes nor a path"),
        ("", "it has neither bytes nor a path"),
        ("gone.png", r"no such file: .*source/gone\.png or gone\.png"),
        ("folder", "no such file: "),
        ("pipe", "no such file: "),
        ("a\0b.png", r"no such file: .*a\\x00b\.png"),
        ("a" * 5000, r"no such file: .*\.\.\."),
        ("folder\\a.png", r"no such file: "),
        ("~/a.png", "no such file: "),
        ("https://example.org/a.png", "is an address, and only files are read: fetch it, and name the file"),
        ("file:///tmp/a.png", "is an address"),
        ("s3://bucket/a.png", "is an address"),
        ("data:image/png;base64,AAAA", r"not a picture: it begins with b'\\x00\\x00\\x00'"),
        ("data:image/png;base64," + "A" * 1_300_000, "not a picture"),
        ("data:image/png;base64," + "é" * 1_300_000, "isn't a character of base64"),
        ("data:image/png," + "A" * 1_300_000, "no data URL with base64 text"),
    ],
)  # fmt: skip
def test_a_name_that_leads_nowhere_is_a_reject_of_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str | None, why: str
) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")  # would wait for ever
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=rf"^row 7: the image can't be read \(.*{why}"):
        embedded = embed_image({"bytes": None, "path": path}, Path("source"), "row 7")
        open_image(embedded, "row 7")
    rows = [SimpleNamespace(prompt_id="p", image={"bytes": None, "path": path})]
    readable, ((stage, key, reason),) = readable_images(rows, "sampling")
    assert (readable, stage, key) == ([], "sampling", "p")
    assert len(reason) < 350 and reason.endswith("Replace it or remove the row.")


def saved(picture: Image.Image, form: str, **settings) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **settings)
    return buffer.getvalue()


def test_a_picture_that_all_programs_read_alike_keeps_its_bytes(pictures: list[Image.Image]) -> None:
    for form in ("PNG", "JPEG", "WEBP", "BMP"):
        image = {"bytes": saved(pictures[0], form), "path": "a"}
        assert portable_image(image, "pair idx 0") is image
    grey = {"bytes": saved(pictures[0].convert("L"), "JPEG"), "path": None}
    assert portable_image(grey, "pair idx 0") is grey


def test_another_becomes_a_png_of_what_is_seen(pictures: list[Image.Image]) -> None:
    """Any program gets the same pixels of it, by no more than ``convert("RGB")``."""
    exif = Image.Exif()
    exif[0x0112] = 6
    see_through = pictures[0].convert("RGBA")
    see_through.putalpha(pictures[1].convert("L"))
    deep = Image.fromarray(np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16)
    for content in (
        saved(pictures[0], "JPEG", exif=exif),
        saved(see_through, "PNG"),
        saved(deep, "PNG"),
        saved(pictures[0].convert("CMYK"), "JPEG"),
        saved(pictures[0], "GIF", save_all=True, append_images=[pictures[1]]),
        saved(pictures[0].convert("P"), "PNG", transparency=3),
    ):
        image = portable_image({"bytes": content, "path": "a.jpg"}, "pair idx 0")
        elsewhere = Image.open(io.BytesIO(image["bytes"]))
        assert (elsewhere.format, image["path"]) == ("PNG", "a.jpg.png")
        assert elsewhere.getexif().get(0x0112) is None
        ours = open_image({"bytes": content}, "pair idx 0")
        assert np.array_equal(np.asarray(elsewhere.convert("RGB")), np.asarray(ours))
    with pytest.raises(UserError, match=r"pair idx 0: the image can't be read \(a.jpg: not a picture"):
        portable_image({"bytes": b"no picture", "path": "a.jpg"}, "pair idx 0")
