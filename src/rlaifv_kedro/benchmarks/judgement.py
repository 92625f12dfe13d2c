"""What a benchmark asks a judge, and what comes back."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pandas as pd

UNREADABLE = "the reply holds no verdict"


@dataclass(frozen=True)
class JudgeRequest:
    """One question to a judge.

    Attributes:
        item_id: Whose item.
        step: Which of the benchmark's questions about it, e.g. ``rating``, or ``overall/run 2/swapped``.
        prompt: The whole prompt, text only.
        seed: Given to the server where it takes one; requests that differ in nothing else are different
            requests.
    """

    item_id: str
    step: str
    prompt: str
    seed: int = 0


@dataclass(frozen=True)
class Judgement:
    """A judge's reply.

    Attributes:
        reply: None if none came.
        verdict: What the benchmark read out of the reply; None if it couldn't.
        error: Why there is no verdict, None if there is one.
    """

    request: JudgeRequest
    reply: str | None
    verdict: Any
    error: str | None


class Judge(Protocol):
    """A text LLM that judges. Nothing is asked twice: replies are stored."""

    def ask(self, requests: Sequence[JudgeRequest], read: Callable[[str], Any]) -> list[Judgement]:
        """Judgements in the order of the requests.

        Args:
            read: The verdict in a reply, or None if it holds none; such replies are asked again, then
                reported, never guessed.
        """
        ...


def verdicts(judgements: Iterable[Judgement]) -> dict[tuple[str, str], Any]:
    """(item_id, step) -> verdict of the judgements that have one."""
    return {(j.request.item_id, j.request.step): j.verdict for j in judgements if j.verdict is not None}


def judgements_of(table: pd.DataFrame, read: Callable[[str], Any]) -> list[Judgement]:
    """Judgements of a table with item_id, step, reply (None: none came), and maybe error.

    Args:
        read: The verdict in a reply, or None. A reply with an error isn't read.
    """
    rows = []
    errors = table["error"] if "error" in table.columns else [None] * len(table)
    for item_id, step, reply, error in zip(table["item_id"], table["step"], table["reply"], errors):
        reply = reply if isinstance(reply, str) else None
        if not isinstance(error, str):
            error = "no reply came" if reply is None else None
        verdict = read(reply) if error is None else None
        if verdict is None and error is None:
            error = UNREADABLE
        rows.append(Judgement(JudgeRequest(str(item_id), step, ""), reply, verdict, error))
    return rows
