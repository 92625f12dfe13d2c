"""A judge of the miniature's language behind a server of its own process, which misbehaves when it is told."""

import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import chat_server
import rule_judge
from chat_server import Body, Fault, key_of
from judge_server import judge_server

FAULTS: dict[str, Any] = {
    "too many": chat_server.status(429, headers={"Retry-After": "0"}),
    "server error": chat_server.status(500),
    "overloaded": chat_server.status(503),
    "garbage": chat_server.GARBAGE,
    "half a JSON": chat_server.CUT_JSON,
    "connection cut": chat_server.cut,
    "no choices": chat_server.NO_CHOICES,
    "silence": chat_server.hang,
}


@dataclass(frozen=True)
class Storm:
    """How a server misbehaves: one fault to all requests for ever, or to some of them, twice each at most."""

    seed: float
    share: float
    forever: bool

    def fault(self, body: Body, before: int) -> Fault | None:
        """What goes wrong with a request that came so often before."""
        if self.forever:
            return FAULTS[random.Random(self.seed).choice(sorted(FAULTS))]
        chance = random.Random(f"{self.seed}/{key_of(body)}/{before}")
        hit = before < 2 and chance.random() < self.share
        return FAULTS[chance.choice(sorted(FAULTS))] if hit else None


@contextmanager
def serve(storm: Storm | None = None) -> Iterator[str]:
    """The server's address, while the process that is the server lives."""
    reader, writer = os.pipe()
    parent, pid = os.getpid(), os.fork()
    if pid == 0:
        try:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the trials
            fault = storm.fault if storm else lambda body, before: None
            with judge_server(rule_judge.reply, fault=fault) as server:
                os.write(writer, server.url.encode())
                while os.getppid() == parent:
                    time.sleep(0.5)
        finally:
            os._exit(0)
    os.close(writer)
    try:
        with os.fdopen(reader) as pipe:
            yield os.read(pipe.fileno(), 200).decode()
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
