"""Serves a folder of pages on this machine alone."""

from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class _Quiet(SimpleHTTPRequestHandler):
    """Files of the folder; nothing is logged, and nothing is kept by the browser from an earlier writing."""

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()


def server_of(folder: Path) -> ThreadingHTTPServer:
    """A server of the folder's files on a free port of the loopback address; ``serve_forever`` starts it."""
    return ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
