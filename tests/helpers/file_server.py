"""A small web server on this machine that gives files, in parts if asked, and can be told to misbehave."""

import re
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from rlaifv_kedro.params import current as session
from rlaifv_kedro.params.current import Session
from rlaifv_kedro.params.run import FetchingParams, Parameters

PAUSE = 0.05  # seconds
HOST = "127.0.0.1"


def open_for_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the session's parameters allow this server, and no proxy stand between."""
    allowed = Session(Parameters(fetching=FetchingParams(private_hosts=[HOST])))
    monkeypatch.setattr(session, "_current", allowed)
    monkeypatch.setenv("no_proxy", HOST)


@dataclass
class FileServer:
    """Gives files by their paths.

    Attributes:
        files: Path ("/a.txt") -> content.
        ranges: Whether it gives parts of files.
        etags: Path -> ETag; none where it has none.
        headers: Path -> more headers of its answer.
        redirects: Path -> the address that it sends on to.
        endless: Path -> what is sent again and again until the client goes.
        cuts: For the next answers, in turn: after so many bytes the connection is closed. Used up one by one;
            None: not cut. Half of the bytes come a little earlier: a client loses what lies in its buffers
            when it learns of the cut.
        statuses: For the next answers, in turn: answered with this status in place of a file; 200: not.
        requests: (path, its headers) in the order they came.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    etags: dict[str, str] = field(default_factory=dict)
    headers: dict[str, Mapping[str, str]] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    endless: dict[str, bytes] = field(default_factory=dict)
    cuts: list[int | None] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    requests: list[tuple[str, Mapping[str, str]]] = field(default_factory=list)

    def __enter__(self) -> "FileServer":
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer._answer(self)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:
                pass  # the client has gone, as some tests want

        self._server = Server((HOST, 0), Handler)
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def url(self, path: str) -> str:
        """The address of a file."""
        return f"http://{HOST}:{self._server.server_port}{path}"

    def asked(self, header: str) -> list[str | None]:
        """A header of all requests."""
        return [headers.get(header) for _, headers in self.requests]

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        with self._lock:
            self.requests.append((request.path, request.headers))
            status = self.statuses.pop(0) if self.statuses else 200
            cut = self.cuts.pop(0) if self.cuts else None
        content, etag = self.files.get(request.path), self.etags.get(request.path)
        if request.path in self.redirects:
            return self._send(request, 302, b"", {"Location": self.redirects[request.path]})
        if request.path in self.endless:
            return self._send_on(request, self.endless[request.path])
        if status != 200 or content is None:
            return self._send(request, status if status != 200 else 404, b"", {})
        headers = {**({"ETag": etag} if etag else {}), **self.headers.get(request.path, {})}
        asked = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
        unchanged = request.headers.get("If-Range", etag) == etag
        if asked and self.ranges and unchanged:
            start = int(asked[1])
            if start >= len(content):
                return self._send(request, 416, b"", {"Content-Range": f"bytes */{len(content)}"})
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            return self._send(request, 206, content[start:], headers, cut)
        self._send(request, 200, content, headers, cut)

    def _send_on(self, request: BaseHTTPRequestHandler, content: bytes) -> None:
        request.send_response(200)
        request.end_headers()
        request.close_connection = True
        with suppress(OSError):
            while True:
                request.wfile.write(content)

    def _send(
        self,
        request: BaseHTTPRequestHandler,
        status: int,
        content: bytes,
        headers: Mapping[str, str],
        cut: int | None = None,
    ) -> None:
        request.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            request.send_header(name, value)
        request.end_headers()
        if cut is None:
            request.wfile.write(content)
            return
        for part in (content[: cut // 2], content[cut // 2 : cut]):
            request.wfile.write(part)
            request.wfile.flush()
            time.sleep(PAUSE)
        request.close_connection = True
