"""Which addresses files are fetched from, by real requests to servers on this machine."""

import asyncio
import gzip
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from file_server import HOST, FileServer, open_for_downloads
from rlaifv_kedro.datasets import download as module
from rlaifv_kedro.datasets.addresses import AddressError, checked_address, proxy_of, redirected, resolver
from rlaifv_kedro.datasets.download import DownloadError, download

PRIVATE = [
    *("127.0.0.1", "127.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "017700000001"),
    *("0.0.0.0", "0", "10.0.0.1", "172.16.5.4", "192.168.1.1", "100.64.0.1", "100.100.100.200", "169.254.169.254"),
    *("168.63.129.16", "192.0.0.192", "224.0.0.1", "239.255.255.250", "255.255.255.255", "240.0.0.1"),
    *("[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[64:ff9b::7f00:1]"),
    *("[2002:7f00:1::]", "[fe80::1]", "[fe80::1%25eth0]", "[fc00::1]", "[fd00:ec2::254]", "[ff02::1]"),
    *("１２７.0.0.1", "①②⑦.⓪.⓪.①"),
]  # fmt: skip


@pytest.mark.parametrize("host", PRIVATE)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_private_hosts_in_any_form_are_refused(host: str, scheme: str) -> None:
    with pytest.raises(AddressError, match=r"of a private network; .* set fetching\.private_hosts="):
        checked_address(f"{scheme}://{host}/a.jpg", ())


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("ftp://example.org/a", "only http and https"),
        ("file:///etc/passwd", "only http and https"),
        ("gopher://example.org/", "only http and https"),
        ("data:image/png;base64,AAAA", "only http and https"),
        ("//example.org/a", "only http and https"),
        ("/etc/passwd", "only http and https"),
        ("http:///etc/passwd", "no host"),
        ("http://", "no address"),
        ("https://user:secret@example.org/a", "user or password"),
        ("https://key@example.org/a", "user or password"),
        ("https://example.org\\@127.0.0.1/", "no address"),
        ("https://example.org:99999/", "no address"),
        ("http://[::1/", "no address"),
    ],
)
def test_what_is_no_address_to_fetch_from(address: str, why: str) -> None:
    with pytest.raises(AddressError, match=why) as error:
        checked_address(address, ())
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("host", ["8.8.8.8", "[2606:4700::1111]", "[64:ff9b::808:808]", "example.org"])
def test_public_hosts(host: str) -> None:
    assert checked_address(f"https://{host}/a", ()).path == "/a"


@given(st.ip_addresses(), st.sampled_from(["http", "https"]))
def test_fuzz_only_public_numbers_pass(address: Any, scheme: str) -> None:
    host = f"[{address}]" if address.version == 6 else str(address)
    try:
        checked_address(f"{scheme}://{host}/", ())
    except AddressError:
        return
    assert address.is_global and not address.is_multicast


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer({"/a.bin": b"content"}) as server:
        yield server


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "a.bin"


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "[::ffff:127.0.0.1]"]
)
def test_nothing_is_asked_of_this_machine(
    server: FileServer, target: Path, host: str, no_proxy: None
) -> None:
    """A real server listens there, and gets no request."""
    with pytest.raises(DownloadError, match="private network"):
        download([server.url("/a.bin").replace(HOST, host)], target)
    assert server.requests == [] and not target.exists()


@pytest.fixture
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(module, "PAUSE", 0.001)


def test_the_parameter_opens_hosts_as_they_are_spelled(
    server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_for_downloads(monkeypatch)
    download([server.url("/a.bin")], target)
    assert target.read_bytes() == b"content"
    with pytest.raises(DownloadError, match=r"localhost \(127\.0\.0\.1\) is of this machine"):
        download([server.url("/a.bin").replace(HOST, "localhost")], target.with_name("b"))


def test_a_name_is_refused_by_what_it_stands_for_when_it_is_connected_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rebinding: at first the name stands for a public address, and then for this machine."""
    answers = iter(["93.184.215.14", "127.0.0.1"])

    def getaddrinfo(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), port))]

    async def twice() -> list[Any]:
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", _as_coroutine(getaddrinfo))
        return [await resolver(()).resolve("rebound.example", 80) for _ in range(2)]

    with pytest.raises(AddressError, match=r"rebound\.example \(127\.0\.0\.1\)"):
        asyncio.run(twice())
    assert next(answers, None) is None


def _as_coroutine(function: Any) -> Any:
    async def call(*arguments: Any, **options: Any) -> Any:
        return function(*arguments, **options)

    return call


@pytest.mark.parametrize(
    ("location", "why"),
    [
        ("http://localhost:{port}/a.bin", r"localhost \(127"),
        ("http://169.254.169.254/latest/meta-data", "169.254.169.254 is of this machine"),
        ("http://[::1]/a", "of a private network"),
        ("file:///etc/passwd", "only http and https"),
        ("http://user:pw@127.0.0.1/a", "user or password"),
        ("http://127.0.0.1:99999/", "no address"),
        ("/round", "more than 10 times"),
        ("", "more than 10 times"),
    ],
)
def test_redirects_are_checked_at_each_hop(
    server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch, location: str, why: str
) -> None:
    open_for_downloads(monkeypatch)
    monkeypatch.setenv("no_proxy", "*")
    port = server.url("/").rsplit(":", 1)[1].strip("/")
    server.redirects = {"/round": location.format(port=port)}
    with pytest.raises(DownloadError, match=why):
        download([server.url("/round")], target)
    assert not target.exists()
    assert all(path == "/round" for path, _ in server.requests)


def test_a_redirect_to_another_host_is_followed_and_said(
    server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    open_for_downloads(monkeypatch)
    with FileServer({"/b.bin": b"from there"}) as other, caplog.at_level("INFO"):
        server.redirects = {"/a.bin": other.url("/b.bin")}
        download([server.url("/a.bin")], target)
    assert target.read_bytes() == b"from there"
    assert f"sends on to {other.url('')}" in caplog.text


def test_a_redirect_gives_up_no_encryption() -> None:
    place = checked_address("https://example.org/a", ())
    assert str(redirected(place, "/b", ())) == "https://example.org/b"
    assert str(redirected(place, "https://cdn.example.net/b", ())) == "https://cdn.example.net/b"
    with pytest.raises(AddressError, match="without encryption"):
        redirected(place, "http://example.org/b", ())


def test_a_proxy_is_the_user_s_own_and_private_names_are_not_asked_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://10.0.0.9:3128")
    monkeypatch.setenv("no_proxy", "direct.example")
    monkeypatch.setenv("NO_PROXY", "direct.example")
    assert proxy_of(checked_address("https://8.8.8.8/a", ()), ()) == "http://10.0.0.9:3128"
    assert proxy_of(checked_address("https://direct.example/a", ()), ()) is None
    with pytest.raises(AddressError, match=r"localhost \(127\.0\.0\.1|::1\) is of this machine"):
        proxy_of(checked_address("http://localhost/a", ()), ())
    assert proxy_of(checked_address("http://localhost/a", ()), ("localhost",)) == "http://10.0.0.9:3128"


def test_what_is_too_large_is_cut_off(
    server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether a server says how much it sends, or sends for ever."""
    open_for_downloads(monkeypatch)
    server.endless = {"/endless": b"x" * 65_536}
    server.files["/large"] = bytes(3_000_000)
    for path in ("/endless", "/large"):
        with pytest.raises(DownloadError, match="it gives more than 2,000,000 bytes"):
            download([server.url(path)], target, most=2_000_000)
        assert sorted(file.name for file in target.parent.iterdir()) == [".a.bin.lock"]
    download([server.url("/large")], target, most=3_000_000)
    assert target.stat().st_size == 3_000_000


def test_what_is_cut_and_continued_counts_whole(
    server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_for_downloads(monkeypatch)
    monkeypatch.setattr(module, "PAUSE", 0.001)
    server.files["/large"], server.etags["/large"] = bytes(3_000_000), '"one"'
    server.headers["/large"] = {"Content-Length": ""}
    server.cuts = [1_500_000]
    with pytest.raises(DownloadError, match="it gives more than 2,000,000 bytes"):
        download([server.url("/large")], target, most=2_000_000)


@pytest.mark.parametrize("packed", ["gzip", "deflate", "br", "zstd"])
def test_a_packed_answer_is_refused(
    server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch, packed: str
) -> None:
    """A few kilobytes of it could be gigabytes unpacked."""
    open_for_downloads(monkeypatch)
    server.files["/bomb"] = gzip.compress(bytes(10_000_000))
    server.headers["/bomb"] = {"Content-Encoding": packed}
    with pytest.raises(DownloadError, match=rf"packed \({packed}\), unasked"):
        download([server.url("/bomb")], target)
    assert not target.exists()


def test_no_password_is_sent(
    server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    open_for_downloads(monkeypatch)
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine {HOST} login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    download([server.url("/a.bin")], target)
    assert server.asked("Authorization") == [None]
