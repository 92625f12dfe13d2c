"""What comes in by a path or a name: regular files alone, of a bounded size; names that stay in their folder."""

import os
import socket
import string
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaifv_kedro.benchmarks.coco.vocabulary import Vocabulary
from rlaifv_kedro.benchmarks.judging.prices import PriceTable
from rlaifv_kedro.benchmarks.record_files import read_records
from rlaifv_kedro.datasets.coco_annotations import CocoAnnotations
from rlaifv_kedro.datasets.pair_sources import ParquetPairs
from rlaifv_kedro.datasets.tables import read_table
from rlaifv_kedro.doors import OutsideError, open_regular, path_inside, refuse_odd_name, regular_bytes
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import read_bytes, read_json
from rlaifv_kedro.models.chat_images import read_image
from rlaifv_kedro.models.folder import CheckpointFolder
from rlaifv_kedro.models.processors import named_template
from rlaifv_kedro.prompts import PromptFile

DOORS: dict[str, Callable[[Path], object]] = {
    "a file of bytes": lambda path: read_bytes(path, "Give another."),
    "JSON": lambda path: read_json(path, "Give another."),
    "a prompt": lambda path: PromptFile.read(path, []),
    "prices": PriceTable.read,
    "a vocabulary": Vocabulary.from_file,
    "a chat template": named_template,
    "answers to score": read_records,
    "a table": lambda path: read_table(path, "prompts", "Give another."),
    "pairs": lambda path: ParquetPairs([path]),
    "COCO's annotations": CocoAnnotations,
    "a picture to chat about": lambda path: read_image(path),
    "a picture to chat about, by its name": lambda path: read_image(str(path)),
}


def odd_file(kind: str, folder: Path) -> Path:
    """Something with a name that is no regular file."""
    path = folder / "thing.json"
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a socket":
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(os.path.relpath(path))  # the whole path may be too long
    elif kind == "a folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    return path


@pytest.mark.parametrize("kind", ["a pipe", "a socket", "a folder", "a device"])
@pytest.mark.parametrize("door", DOORS)
def test_what_is_no_regular_file_is_refused_at_once(door: str, kind: str, tmp_path: Path) -> None:
    """A pipe would wait for ever, /dev/zero fill the memory."""
    path = odd_file(kind, tmp_path)
    if door == "COCO's annotations" and kind == "a folder":
        pytest.skip("annotations may lie in a folder")
    with pytest.raises(UserError, match=r"thing\.json") as error:
        DOORS[door](path)
    assert kind in error.value.message or "No such device" in error.value.message  # open() of a socket


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "merges.txt", "tokenizer.json"])
@pytest.mark.parametrize("kind", ["a pipe", "a device"])
def test_a_checkpoint_with_a_pipe_or_device_is_refused(
    tiny: Path, tmp_path: Path, name: str, kind: str
) -> None:
    folder = tmp_path / "policy"
    folder.mkdir()
    for file in tiny.iterdir():
        (folder / file.name).symlink_to(file)
    (folder / name).unlink(missing_ok=True)
    odd_file(kind, tmp_path).rename(folder / name)
    found = CheckpointFolder(folder).problems()
    assert any(name in problem.what or problem.where.name == name for problem in found), found


def test_a_file_of_a_terabyte_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(UserError, match=r"config\.json: it has 1,099,511,627,776 bytes, more than"):
        read_json(path, "Give another.")
    (problem,) = CheckpointFolder(tmp_path).problems()[:1]
    assert "1,099,511,627,776 bytes" in problem.what


def test_a_link_to_a_regular_file_is_one(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    (tmp_path / "b").symlink_to("a")
    assert regular_bytes(tmp_path / "b", most=7) == b"content"
    with pytest.raises(OSError, match="it has 7 bytes, more than 6"):
        open_regular(tmp_path / "b", most=6)


LEADING_OUT = [
    *("..", "../a", "a/../../b", "a/..", "/etc/passwd", "//host/a", "C:\\a", "C:a", "..\\a", "a\\..\\..\\b"),
    *("%2e%2e/a", "%2e%2e%2fa", "..%2fa", "a%2f..%2f..%2fb", "%252e%252e%252fa", "%25252e%25252e%25252fa"),
    *("..%5ca", "%5c%5chost%5ca", "%2fetc%2fpasswd", "a%00.jpg", "\0", "a\n", "a\x7f", "~/a:b"),
    *("", ".", "./a", "a//b", "a/", ".ssh/a", ".hidden", "a.", "a ", "CON", "nul.jpg", "a/Lpt1.png", "COM1 .x"),
    *("a" * 300, "é" * 150, "a?b", "a*b", "a|b", "a<b>", '"a"', "a\ud83d", "%ff%fe\\"),
]  # fmt: skip


@pytest.mark.parametrize("name", LEADING_OUT)
def test_names_that_are_no_paths_below_a_folder(name: str, tmp_path: Path) -> None:
    for own in (True, False):
        with pytest.raises(OutsideError):
            path_inside(tmp_path, name, own=own)


@pytest.mark.parametrize(
    "name", ["a.jpg", "x/y/a b.jpg", "100%.jpg", "50%25 off.jpg", "Hügel/ä.png", "a..b", "~a"]
)
def test_names_of_files(name: str, tmp_path: Path) -> None:
    assert path_inside(tmp_path, name) == tmp_path.resolve() / name


def test_links_that_lead_out_are_the_user_s_own_or_refused(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/far").symlink_to("../disk")
    (tmp_path / "folder/near").symlink_to(".")
    assert path_inside(tmp_path / "folder", "near/a.jpg") == (tmp_path / "folder/a.jpg").resolve()
    assert path_inside(tmp_path / "folder", "far/a.jpg", own=True) == tmp_path / "folder/far/a.jpg"
    with pytest.raises(OutsideError, match="a link leads it out"):
        path_inside(tmp_path / "folder", "far/a.jpg")


def test_a_folder_that_is_a_link_itself(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "folder").symlink_to("disk")
    assert path_inside(tmp_path / "folder", "a.jpg") == (tmp_path / "disk/a.jpg").resolve()


ODD = st.text(
    st.sampled_from(string.ascii_letters + string.digits + "./\\%25fFeEcC:*?\0\n é#&~ "), max_size=80
)
PIECES = st.lists(
    st.sampled_from(
        ["..", ".", "/", "\\", "%2f", "%2F", "%5c", "%2e", "%252f", "%00", "a", "é", "CON", " ", "~"]
    ),
    max_size=12,
).map("".join)


@given(ODD | PIECES | st.text(max_size=30), st.integers(0, 2))
def test_fuzz_a_name_stays_inside_or_is_refused(name: str, times: int) -> None:
    """Also where a program decodes it again."""
    try:
        refuse_odd_name(name)
    except OutsideError:
        return
    for _ in range(times):
        name = quote(name, safe="") if "/" not in name else name
    folder = Path("/folder")
    assert Path(os.path.normpath(folder / name)).is_relative_to(folder)
    assert (folder / name).as_posix() == f"/folder/{name}"  # nothing of it is folded away


@given(PIECES)
def test_fuzz_no_decoding_leads_out(name: str) -> None:
    from urllib.parse import unquote

    try:
        refuse_odd_name(name)
    except OutsideError:
        return
    for _ in range(6):
        name = unquote(name)
        assert Path(os.path.normpath(f"/folder/{name}")).is_relative_to("/folder")
        assert "\\" not in name and "\0" not in name
