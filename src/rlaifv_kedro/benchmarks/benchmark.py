"""What all benchmarks share: their tables, the judge's interface, and how metrics are made of items'
values.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pandas as pd

UNREADABLE = "the reply holds no verdict"

ITEM_COLUMNS = ("item_id", "kind", "metric", "value", "weight", "note")
METRIC_COLUMNS = ("metric", "value", "n", "failed", "standard_error", "protocol")


@dataclass(frozen=True)
class Scored:
    """A benchmark's result for one policy.

    Attributes:
        items: One row an item and metric: item_id, kind (the item's type, None without one), metric, value
            (NaN: not defined for this item, or its judgement failed), weight (the metric is sum(value *
            weight) / sum(weight): mentions for a rate of mentions, 1 for a mean over items, 0 where there is
            no value), note (what was found, for people).
        metrics: metric, value, n, failed, standard_error, protocol; shares are fractions 0..1. Those of one
            type of items are called METRIC_TYPE.
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


def judgements_of(table: pd.DataFrame, read: Callable[[str, str], Any]) -> list[Judgement]:
    """Judgements of a table with item_id, step, reply (None: none came), and maybe error: what has one isn't
    read.

    Args:
        read: The verdict in a step's reply: (step, reply) -> verdict or None.
    """
    rows = []
    errors = table["error"] if "error" in table.columns else [None] * len(table)
    for item_id, step, reply, error in zip(table["item_id"], table["step"], table["reply"], errors):
        reply = reply if isinstance(reply, str) else None
        error = error if isinstance(error, str) else "no reply came" if reply is None else None
        verdict = read(step, reply) if error is None else None
        rows.append(
            Judgement(
                JudgeRequest(str(item_id), step, ""),
                reply,
                verdict,
                UNREADABLE if verdict is None and error is None else error,
            )
        )
    return rows
