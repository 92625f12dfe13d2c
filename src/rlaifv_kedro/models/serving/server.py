"""One server of vLLM: its process, its port, its log, and whether it answers."""

import http.client
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from rlaifv_kedro.files import shown, writing
from rlaifv_kedro.leftovers import end_marked, keep_record, new_mark
from rlaifv_kedro.models.serving import guard, ports
from rlaifv_kedro.models.serving.command import Served
from rlaifv_kedro.models.serving.log import port_was_taken, why_it_ended
from rlaifv_kedro.params.serving import ServingParams

_ASKED = 10.0  # seconds for a reply about the server itself
_MOST_OF_A_REPLY = 1 << 20  # bytes
_MOST_OF_A_LOG = 256 << 10  # bytes that are read of it
_END = guard.GRACE + 10  # seconds


class Server:
    """A server that can be started, looked at, ended, and started again.

    Args:
        gpus: None of them for one on the CPU.
        folder: Where its log and its record lie.
        name: Of both, and in messages.
    """

    def __init__(self, served: Served, serving: ServingParams, gpus: list[str], folder: Path, name: str):
        self.name, self.gpus, self.log = name, gpus, folder / f"{name}.log"
        self._served, self._serving, self._record = served, serving, folder / f"{name}.running.json"
        self._process: subprocess.Popen[bytes] | None = None
        self._port: ports.Port | None = None
        self._log_began, self._mark = 0, ""

    @property
    def url(self) -> str | None:
        """Its address, without a path; None before it was started."""
        return f"http://{ports.LOOPBACK}:{self._port.number}" if self._port else None

    def start(self) -> None:
        """Starts its process on a free port; it answers later.

        Raises:
            UserError: There is no free port, or its log can't be written.
        """
        self.end()
        self._mark = new_mark()
        self._port = ports.take_port(*self._serving.ports)
        command = self._served.command(self._serving, self._port.number)
        keep_record(self._record, self._mark, self.name)
        with writing(self.log), self.log.open("ab") as log, ThreadPoolExecutor(1) as thread:
            self._log_began = log.tell()
            # Ctrl-C interrupts the main thread alone, so it can't come between a process and our knowing it.
            thread.submit(self._begin, command, log).result()

    def _begin(self, command: list[str], log: BinaryIO) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", guard.__file__, str(os.getpid()), *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=self._served.environment(self._serving, self.gpus, self._mark),
        )

    def has_ended(self) -> bool:
        """Whether its process has ended, or the guard that would end it."""
        return self._process is None or self._process.poll() is not None

    def answers(self) -> bool:
        """Whether it is ready for requests, and the one that was started, not another on its port."""
        if self._get("/health") is None:
            return False
        models = self._get("/v1/models")
        try:
            listed = json.loads(models or b"{}")["data"]
            return any(
                (one["id"], one["root"]) == (self._served.name, str(self._served.checkpoint))
                for one in listed
            )
        except (ValueError, KeyError, TypeError):
            return False

    def ask_to_end(self) -> None:
        """Asks its processes to end, and doesn't wait for it."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)

    def end(self) -> None:
        """Ends its processes, all of them, and lets its port go."""
        self.ask_to_end()
        process, self._process = self._process, None
        if process is not None:
            try:
                process.wait(_END)
            except subprocess.TimeoutExpired:
                process.kill()
            finally:
                end_marked(self._mark)
                process.wait()
        if self._port is not None:
            self._port.release()
            self._port = None
        self._record.unlink(missing_ok=True)

    def port_was_taken(self) -> bool:
        """Whether it ended since another server was faster on its port."""
        return self.has_ended() and port_was_taken(self._own_log())

    def why(self) -> str:
        """What its log says of its end, and where the log is."""
        return f"{why_it_ended(self._own_log())} Its log: {shown(self.log)}"

    def last_line(self) -> str:
        """The last line of its log: what it is doing."""
        lines = self._own_log().split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def _own_log(self) -> str:
        """The log since the last start; of a long one its end."""
        with self.log.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(self._log_began, end - _MOST_OF_A_LOG))
            return file.read().decode(errors="replace").replace("\r", "\n")

    def _get(self, path: str) -> bytes | None:
        """The reply to a request without a body; None where there is none, or another status than 200."""
        if self._port is None:
            return None
        # Not by the proxy that the environment may name.
        connection = http.client.HTTPConnection(ports.LOOPBACK, self._port.number, timeout=_ASKED)
        try:
            connection.request("GET", path, headers={"Authorization": f"Bearer {self._served.key}"})
            reply = connection.getresponse()
            content = reply.read(_MOST_OF_A_REPLY)
            return content if reply.status == 200 else None
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()


def ended_together(servers: list[Server]) -> None:
    """Ends several servers at one time: each may take seconds."""
    for server in servers:
        server.ask_to_end()
    for server in servers:
        server.end()
