"""Fetching a file over real HTTP: cut, resumed, changed meanwhile, damaged, and not to be had at all."""

import hashlib
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from file_server import FileServer, open_for_downloads
from rlaifv_kedro.datasets import download as module
from rlaifv_kedro.datasets.download import DownloadError, download

CONTENT = random.Random(0).randbytes(4_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE", 0.001)
    open_for_downloads(monkeypatch)


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer({"/file.bin": CONTENT}, etags={"/file.bin": '"one"'}) as server:
        yield server


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "file.bin"


def test_a_file_is_fetched_once(server: FileServer, target: Path) -> None:
    for _ in range(2):
        download([server.url("/file.bin")], target, SHA256)
    assert target.read_bytes() == CONTENT
    assert len(server.requests) == 1
    assert server.asked("Accept-Encoding") == ["identity"]  # a compressed answer could not be continued
    assert [path.name for path in target.parent.iterdir() if not path.name.endswith(".lock")] == ["file.bin"]


@pytest.mark.parametrize("sha256", [SHA256, None])
def test_a_cut_download_goes_on_where_it_was(server: FileServer, target: Path, sha256: str | None) -> None:
    server.cuts = [1_000_000, 1_500_000]
    download([server.url("/file.bin")], target, sha256)
    assert target.read_bytes() == CONTENT
    assert len(server.requests) == 3
    first, second = (
        int(asked.removeprefix("bytes=").removesuffix("-")) for asked in server.asked("Range")[1:]
    )
    assert 500_000 <= first <= 1_000_000
    assert first + 750_000 <= second <= first + 1_500_000
    assert server.asked("If-Range") == [None, '"one"', '"one"']


def test_a_later_call_goes_on_where_an_earlier_one_gave_up(server: FileServer, target: Path) -> None:
    server.cuts = [1_000_000]
    server.statuses = [200] + [503] * module.RETRIES
    with pytest.raises(DownloadError, match="503"):
        download([server.url("/file.bin")], target, SHA256)
    assert not target.exists()
    server.requests.clear()
    download([server.url("/file.bin")], target, SHA256)
    (asked,) = server.asked("Range")
    assert 500_000 <= int(asked.removeprefix("bytes=").removesuffix("-")) <= 1_000_000
    assert target.read_bytes() == CONTENT


def test_a_key_in_an_address_is_left_nowhere(target: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As object stores have them; neither in the log, nor in the reason, nor beside what is left of the file."""
    caplog.set_level("INFO")
    path = "/file.bin?X-Amz-Signature=planted"
    with FileServer({path: CONTENT}, etags={path: '"one"'}) as server:
        server.cuts, server.statuses = [1_000_000], [200] + [503] * (module.RETRIES + 1)
        with pytest.raises(DownloadError, match="503") as failed:
            download([server.url(path)], target)
    left = [path.read_bytes() for path in target.parent.iterdir()]
    assert len(left) >= 2 and not any(b"planted" in content for content in left)
    assert "planted" not in f"{failed.value} {caplog.text}" and "Fetching" in caplog.text


def test_progress_between_cuts_makes_up_for_them(server: FileServer, target: Path) -> None:
    server.cuts = [600_000] * (module.RETRIES + 2)
    download([server.url("/file.bin")], target, SHA256)
    assert target.read_bytes() == CONTENT
    assert len(server.requests) == module.RETRIES + 3


def test_a_file_that_changed_meanwhile_is_fetched_from_the_start(server: FileServer, target: Path) -> None:
    server.cuts = [1_000_000]
    server.statuses = [200] + [503] * module.RETRIES
    with pytest.raises(DownloadError):
        download([server.url("/file.bin")], target)
    server.files["/file.bin"], server.etags["/file.bin"] = CONTENT[::-1], '"two"'
    download([server.url("/file.bin")], target)
    assert target.read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("etag", [None, 'W/"one"'])
def test_without_hash_and_without_a_strong_etag_nothing_is_continued(
    server: FileServer, target: Path, etag: str | None
) -> None:
    server.etags = {"/file.bin": etag} if etag else {}
    server.cuts = [1_000_000]
    download([server.url("/file.bin")], target)
    assert target.read_bytes() == CONTENT
    assert server.asked("Range") == [None, None]


def test_a_server_without_ranges_sends_it_all_again(server: FileServer, target: Path) -> None:
    server.ranges, server.cuts = False, [1_000_000]
    download([server.url("/file.bin")], target, SHA256)
    assert target.read_bytes() == CONTENT


def test_a_damaged_beginning_is_seen_by_the_hash_and_fetched_anew(server: FileServer, target: Path) -> None:
    target.parent.mkdir()
    target.with_name(".file.bin.part").write_bytes(b"x" * 1000)
    download([server.url("/file.bin")], target, SHA256)
    assert target.read_bytes() == CONTENT
    assert server.asked("Range") == ["bytes=1000-", None]


@pytest.mark.parametrize("extra", [0, 10])
def test_nothing_after_the_part(server: FileServer, target: Path, extra: int) -> None:
    """416: the part is the whole file (killed before it was put in place), or too long."""
    target.parent.mkdir()
    target.with_name(".file.bin.part").write_bytes(CONTENT + b"x" * extra)
    download([server.url("/file.bin")], target, SHA256)
    assert target.read_bytes() == CONTENT
    assert len(server.requests) == (2 if extra else 1)


@pytest.mark.parametrize("extra", [0, 10])
def test_nothing_after_the_part_without_a_hash(server: FileServer, target: Path, extra: int) -> None:
    target.parent.mkdir()
    part = target.with_name(".file.bin.part")
    part.write_bytes(CONTENT + b"x" * extra)
    module._write_notes(part, server.url("/file.bin"), {"ETag": '"one"'})
    download([server.url("/file.bin")], target)
    assert target.read_bytes() == CONTENT


def test_a_wrong_hash_leaves_nothing(server: FileServer, target: Path) -> None:
    with pytest.raises(DownloadError, match=f"has the sha256 {SHA256}, not 00"):
        download([server.url("/file.bin")], target, "00" * 32)
    assert not target.exists()
    assert not target.with_name(".file.bin.part").exists()
    assert len(server.requests) == 1


def test_the_next_address_is_tried(server: FileServer, target: Path) -> None:
    server.files["/wrong.bin"] = b"another file"
    download([server.url(path) for path in ("/missing.bin", "/wrong.bin", "/file.bin")], target, SHA256)
    assert target.read_bytes() == CONTENT


def test_what_is_not_there_is_not_asked_for_again(server: FileServer, target: Path) -> None:
    with pytest.raises(DownloadError, match=r"/missing.bin: 404.*; .*/forbidden.bin: 403"):
        server.statuses = [200, 403]
        download([server.url("/missing.bin"), server.url("/forbidden.bin")], target)
    assert len(server.requests) == 2


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(server: FileServer, target: Path, status: int) -> None:
    server.statuses = [status] * module.RETRIES
    download([server.url("/file.bin")], target, SHA256)
    assert target.read_bytes() == CONTENT


def test_no_server_and_no_network(tmp_path: Path) -> None:
    with FileServer() as server:
        gone = server.url("/file.bin")
    with pytest.raises(DownloadError) as error:
        download([gone, "http://no-such-host.invalid/file.bin"], tmp_path / "file.bin")
    assert f"{gone}: " in str(error.value)
    assert "no-such-host.invalid/file.bin: its host is not known here; is there a network?" in str(
        error.value
    )


def test_two_at_once_fetch_it_once(server: FileServer, target: Path) -> None:
    threads = [
        threading.Thread(target=download, args=([server.url("/file.bin")], target, SHA256)) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert target.read_bytes() == CONTENT
    assert len(server.requests) == 1
