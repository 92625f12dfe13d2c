"""One file from the web, whole or not at all: continued where it was cut, verified, and then put in place."""

import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

from rlaifv_kedro.datasets.addresses import AddressError, checked_address, proxy_of, redirected, resolver
from rlaifv_kedro.files import file_sha256, sync_folder, writing
from rlaifv_kedro.formats import first_line, shortened
from rlaifv_kedro.params.current import current
from rlaifv_kedro.redaction import redacted

logger = logging.getLogger(__name__)

CHUNK = 1 << 20  # bytes read at once
RETRIES = 4  # in a row without a new byte
PAUSE = 1.0  # seconds before the first of them; doubled each time
CONNECT, SILENCE = 30, 60  # seconds until a connection stands, and without a byte; no limit in total
MOST = 32 * 2**30
"""Bytes of a published file; the largest that is known, COCO's train2017.zip, has 19 GB."""
REDIRECTS = 10
REDIRECTING = {301, 302, 303, 307, 308}
BUSY = {408, 425, 429}
"""Answers that say "later", like all from 500 on."""


class DownloadError(Exception):
    """No address gave the file; the text says why, one reason an address."""


class _Cut(Exception):
    """The answer broke off or the server is busy: worth another try."""


def download(
    urls: Sequence[str],
    target: Path,
    sha256: str | None = None,
    lock: bool = True,
    check: Callable[[Path], str | None] = lambda _: None,
    most: int = MOST,
) -> None:
    """Fetch a file to ``target``; does nothing if it is there.

    What came before a cut stays beside it, in ``.<name>.part``, and is continued by HTTP's Range, in this
    call or a later one: if the server says that the file is still the same (If-Range with its ETag or date),
    or if ``sha256`` will tell.

    Args:
        urls: http or https; tried in this order. See :mod:`rlaifv_kedro.datasets.addresses`.
        target: Its folder is made.
        sha256: Of the whole file, hexadecimal.
        lock: Whether others that want the same file wait, by a ``.<name>.lock`` beside it. False: the caller
            sees to that.
        check: Says why what came is not what is wanted, such as a page that says "gone"; None if it is. It
            looks at it before it gets the target's name.
        most: Bytes that it may have.

    Raises:
        DownloadError: No address gives the file or may be asked, or what they give is too large, has another
            sha256 or fails the check.
        UserError: The disk can't be written.
    """
    from filelock import FileLock

    reasons = []
    part = target.with_name(f".{target.name}.part")
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{target.name}.lock")) if lock else nullcontext():
            for url in urls:
                if target.exists():
                    return
                try:
                    _fetch(url, part, sha256, check, most)
                except DownloadError as error:
                    reasons.append(f"{shortened(redacted(url), 200)}: {error}")
                    continue
                os.replace(part, target)
                _notes_of(part).unlink(missing_ok=True)
                sync_folder(target.parent)
                return
    raise DownloadError("; ".join(reasons))


def _fetch(url: str, part: Path, sha256: str | None, check: Callable[[Path], str | None], most: int) -> None:
    """Fill ``part`` from this address, with retries, compare its hash, and check it."""
    logger.info("Fetching %s", redacted(url))
    failures, again = 0, False
    while True:
        start = _size(part)
        try:
            _stream(url, part, sha256 is not None, most)
        except _Cut as cut:
            failures = 1 if _size(part) > start else failures + 1
            if failures > RETRIES:
                raise DownloadError(f"{cut}, {failures} times") from cut
            time.sleep(PAUSE * 2 ** (failures - 1))
            continue
        fault = _fault(part, sha256, check)
        if fault is None:
            return
        _forget(part)
        if again or not start:
            raise DownloadError(fault)
        again = True  # the beginning may have been of another file, or damaged: once more from the start


def _fault(part: Path, sha256: str | None, check: Callable[[Path], str | None]) -> str | None:
    """Why what came is not the file; None if it is."""
    found = file_sha256(part) if sha256 is not None else None
    if found != sha256:
        return f"what it gives has the sha256 {found}, not {sha256}: it is not the published file any more"
    why = check(part)
    return why and f"it gives {_read_notes(part).get('type') or 'something'}: {why}"


def _stream(url: str, part: Path, trusted: bool, most: int) -> None:
    """One request: append to ``part`` what is missing, or write it anew where the server can't continue or
    has another file now.
    """
    import aiohttp

    start, headers = _request(url, part, trusted)
    try:
        with _answer(url, headers) as answer:
            status, says = answer.r.status, answer.r.headers
            if status == 206 and not says.get("Content-Range", "").startswith(f"bytes {start}-"):
                _forget(part)
                raise _Cut("the server continued at another place than asked")
            if status != 206:
                start = 0
                _write_notes(part, url, says)
            if says.get("Content-Encoding", "identity") != "identity":
                raise DownloadError(f"it gives the file packed ({says['Content-Encoding']}), unasked")
            announced = says.get("Content-Length", "")
            size = start + (int(announced) if announced.isdecimal() else 0)
            with open(part, "ab" if start else "wb") as file:
                while size <= most and (chunk := answer.read(CHUNK)):
                    size = max(size, file.tell() + len(chunk))
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            if size > most:
                _forget(part)
                raise DownloadError(f"it gives more than {most:,} bytes")
    except AddressError as error:
        raise DownloadError(str(error)) from error
    except FileNotFoundError as error:
        raise DownloadError("404, there is no such file") from error
    except aiohttp.ClientResponseError as error:
        if error.status == 416:
            return _beyond_the_end(part, (error.headers or {}).get("Content-Range", ""), trusted)
        if error.status in BUSY or error.status >= 500:
            raise _Cut(f"{error.status} {error.message}") from error
        raise DownloadError(f"{error.status} {error.message}") from error
    except ValueError as error:  # of aiohttp's and of the libraries under it, InvalidURL among them
        raise DownloadError(f"that is no address ({shortened(first_line(error), 80)})") from error
    except aiohttp.ClientConnectorDNSError as error:
        raise DownloadError("its host is not known here; is there a network?") from error
    except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
        raise _Cut(first_line(error)) from error


@contextmanager
def _answer(url: str, headers: Mapping[str, str]) -> Iterator[Any]:
    """The answer to a request, behind all places to which servers send on; each is checked.

    Another host is said in the log, and not refused: published files lie on networks of their own.

    Raises:
        AddressError: One of the addresses is none to fetch from.
    """
    hosts = frozenset(host.lower().strip("[]") for host in current().parameters.fetching.private_hosts)
    place = checked_address(url, hosts)
    for _ in range(REDIRECTS):
        proxy = proxy_of(place, hosts)
        options = {"headers": headers, "allow_redirects": False, "proxy": proxy}
        http = _http(None if proxy else hosts)
        with http.open(str(place), "rb", block_size=0, size=1, **options) as answer:
            if answer.r.status not in REDIRECTING:
                yield answer
                return
            onward = redirected(place, answer.r.headers.get("Location", ""), hosts)
        if onward.origin() != place.origin():
            logger.info("%s sends on to %s", shortened(str(place), 200), onward.origin())
        place = onward
    raise DownloadError(f"it sends on more than {REDIRECTS} times")


@cache
def _http(private_hosts: frozenset[str] | None) -> Any:
    """A client that connects to public hosts and these; None: to any, for a proxy of the user's.

    It sends no passwords (of ``.netrc``), keeps no cookies, follows no redirect and unpacks nothing.
    """
    import aiohttp
    import fsspec

    async def client(**_: Any) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                resolver=None if private_hosts is None else resolver(private_hosts)
            ),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT, sock_read=SILENCE),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )

    return fsspec.filesystem("http", get_client=client, skip_instance_cache=True)


def _request(url: str, part: Path, trusted: bool) -> tuple[int, dict[str, str]]:
    """From which byte to ask, and the request's headers. Compressed answers can't be continued, so none is
    asked for.
    """
    headers, start, notes = {"Accept-Encoding": "identity"}, _size(part), _read_notes(part)
    same = notes.get("validator") if notes.get("url_sha256") == _sha256(url) else None
    if not start or not (trusted or same):
        return 0, headers
    headers["Range"] = f"bytes={start}-"
    if same:
        headers["If-Range"] = same
    return start, headers


def _beyond_the_end(part: Path, content_range: str, trusted: bool) -> None:
    """The server has nothing after the part: it is whole, or not of this file. With a hash to compare that
    is seen later.
    """
    total = re.fullmatch(r"bytes \*/(\d+)", content_range.strip())
    if trusted or (total and int(total[1]) == _size(part)):
        return
    _forget(part)
    raise _Cut("what was fetched before is not the beginning of this file")


def _write_notes(part: Path, url: str, headers: Mapping[str, str]) -> None:
    """Keep what tells two versions of a file apart, and what kind of file the server says it is.

    A weak ETag tells nothing (RFC 9110, 13.1.5).
    """
    etag = headers.get("ETag", "")
    validator = etag if etag and not etag.startswith("W/") else headers.get("Last-Modified")
    notes = {"url_sha256": _sha256(url), "validator": validator, "type": headers.get("Content-Type")}
    _notes_of(part).write_text(json.dumps(notes))


def _sha256(url: str) -> str:
    """Stands for an address, whose query may hold a key."""
    return hashlib.sha256(url.encode(errors="surrogatepass")).hexdigest()


def _read_notes(part: Path) -> dict[str, Any]:
    try:
        return json.loads(_notes_of(part).read_bytes())
    except (OSError, ValueError):
        return {}


def _notes_of(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _notes_of(part).unlink(missing_ok=True)


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0
