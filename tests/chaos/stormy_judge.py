"""A judge of the miniature's language behind a server of its own process, which misbehaves when it is told."""

import json
import os
import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
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


def fault_in(storm: Path, body: Body, before: int) -> Fault | None:
    """What goes wrong with a request: nothing without a storm.

    A passing storm hits a request twice at most, one without end hits all.
    """
    try:
        how = json.loads(storm.read_text())
    except (OSError, ValueError):
        return None
    chance = random.Random(f"{how['seed']}/{key_of(body)}/{before}")
    if how["forever"]:
        return FAULTS[random.Random(how["seed"]).choice(sorted(FAULTS))]
    return FAULTS[chance.choice(sorted(FAULTS))] if before < 2 and chance.random() < how["share"] else None


@contextmanager
def serve(storm: Path) -> Iterator[str]:
    """The server's address, while the process that is the server lives."""
    storm.parent.mkdir(parents=True, exist_ok=True)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the trials
            with judge_server(rule_judge.reply, fault=lambda b, n: fault_in(storm, b, n)) as server:
                os.write(writer, server.url.encode())
                signal.pause()
        finally:
            os._exit(0)
    os.close(writer)
    try:
        with os.fdopen(reader) as pipe:
            yield os.read(pipe.fileno(), 200).decode()
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
