"""A judge over real HTTP: a small OpenAI-compatible server whose replies a test computes from the prompts."""

from collections.abc import Callable
from typing import Any

import chat_server
from chat_server import Body, ChatServer, Fault, completion, question_of

__all__ = ["Body", "ChatServer", "Fault", "chat_server", "completion", "judge_server", "question_of"]


def judge_server(reply: Callable[[str], str], model: str = "judge", **options: Any) -> ChatServer:
    """A server to be entered; its ``url`` and the model's name are what ``models.judge`` needs.

    Args:
        reply: What the judge says to a prompt.
        model: The name that it serves the judge by, and gives back.
        options: See :class:`chat_server.ChatServer`: faults, delays, a key.
    """
    return ChatServer(
        models=(model,), reply=lambda body: completion(reply(question_of(body)), model=model), **options
    )
