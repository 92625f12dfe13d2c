"""What all benchmarks share: their tables, the judge's interface, and how metrics are made of items' values."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pandas as pd


@dataclass(frozen=True)
class Scored:
    """A benchmark's result for one policy.

    Attributes:
        items: One row an item and metric: item_id, kind (the item's type, None without one), metric, value (NaN: not defined for this item, or its
            judgement failed), note (what was found, for people).
        metrics: metric, value, n, failed, standard_error, protocol; shares are fractions 0..1.
    """

    items: pd.DataFrame
    metrics: pd.DataFrame


@dataclass(frozen=True)
class JudgeRequest:
    """One question to a judge.

    Attributes:
        item_id: Whose item.
        step: Which of the benchmark's questions about it, e.g. ``rating``, or ``overall/run 2/swapped``.
        prompt: The whole prompt, text only.
        seed: Given to the server where it takes one; requests that differ in nothing else are different requests.
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
            read: The verdict in a reply, or None if it holds none; such replies are asked again, then reported, never guessed.
        """
        ...
