"""Servers for the tests of what asks one."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from chat_server import ChatServer


@pytest.fixture(autouse=True)
def no_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither keys nor proxies of this machine."""
    proxies = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
    for name in ("OPENAI_API_KEY", *proxies, *map(str.lower, proxies)):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def serve() -> Iterator[Callable[..., ChatServer]]:
    """Starts servers, with the arguments of ChatServer, that stop after the test."""
    running: list[ChatServer] = []

    def start(**options: Any) -> ChatServer:
        running.append(ChatServer(**options).__enter__())
        return running[-1]

    yield start
    for server in running:
        server.__exit__()
