"""How far a request to a judge is, by the replies that are stored."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rlaifv_kedro.benchmarks.judgement import UNREADABLE, JudgeRequest
from rlaifv_kedro.benchmarks.judging.store import Attempt, ReplyStore, StoredReply
from rlaifv_kedro.params import JudgeParams
from rlaifv_kedro.seeds import seed_for

Read = Callable[[str], Any]
"""The verdict in a reply; None if it holds none."""


@dataclass(frozen=True)
class Progress:
    """How far a request is, by the replies that are stored.

    Attributes:
        replies: How many there are to it.
        last: The newest of them.
        verdict: None if there is none yet.
        why: What is wrong with the last reply; None if nothing.
        next: What is to be asked; None if there is a verdict, or as many replies as ``judge.tries`` allows.
    """

    replies: int
    last: StoredReply | None
    verdict: Any = None
    why: str | None = None
    next: Attempt | None = None


def progress_of(request: JudgeRequest, read: Read, store: ReplyStore, params: JudgeParams) -> Progress:
    """How far a request is, by the stored replies in the order in which they were asked for.

    A reply that was cut off isn't read, even if something in it looks like a verdict: it is asked for once
    more with twice as many tokens. After one that is empty or holds no verdict another is drawn, with another
    seed and ``judge.retry_temperature``.
    """
    draw, limit, why, last = 0, params.max_new_tokens, None, None
    for replies in range(params.tries):
        seed = seed_for(request.seed, "judge", draw) if draw else request.seed
        attempt = Attempt(
            request.prompt, params.retry_temperature if draw else params.temperature, limit, seed
        )
        stored = store.get(attempt)
        if stored is None:
            return Progress(replies, last, why=why, next=attempt)
        last = stored
        if stored.finish_reason == "length":
            why = f"the reply is cut off at {limit} tokens"
            if limit == params.max_new_tokens:  # the same draw again, which goes on from where it was cut off
                limit *= 2
                continue
        elif not stored.reply.strip():
            why = "the reply is empty"
        else:
            verdict = read(stored.reply)
            if verdict is not None:
                return Progress(replies + 1, last, verdict)
            why = UNREADABLE
        draw += 1
    return Progress(params.tries, last, why=f"{why} (replies: {params.tries})")
