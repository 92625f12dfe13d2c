"""Yes or no from a server: the likeliest first tokens of a reply, asked for and read."""

import logging
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.formats import shortened
from rlaifv_kedro.models.backends.server_bodies import Body, about_image
from rlaifv_kedro.models.backends.server_chats import ChatServers
from rlaifv_kedro.models.backends.server_replies import (
    NoAnswer,
    PassingTrouble,
    Reply,
    TokenLogProb,
    refuse_filtered,
)
from rlaifv_kedro.models.interface import LIKELIEST, FirstToken

log = logging.getLogger(__name__)

_LOWER_TOP = (20, 5)  # most top_logprobs: vLLM's default and OpenAI's now; OpenAI's before and some vendors'
_WORD_MARKS = (
    " \t\r\n\u2581\u0120\u010a"  # blanks, and what SentencePiece (▁) and byte-level BPE (Ġ, Ċ) write for them
)
_ROUNDING = 0.05  # by which a log-prob may lie above 0, or a sum of probabilities above 1
_REMEDY = (
    "Serve the model with vLLM, SGLang or llama.cpp (transformers serve and some vendors leave them out), "
    "or take backend=transformers under models.<role>."
)


class FirstTokens:
    """Asks one server for first tokens, and knows what it has learnt of that server.

    Attributes:
        top_logprobs: How many of the likeliest tokens are asked for; fewer once the server refuses so many.
    """

    def __init__(self, server: ChatServers, top_logprobs: int):
        self.server, self.top_logprobs = server, top_logprobs
        self._has_logprobs = self._warned = False

    def body(self, item: tuple[str, str]) -> Body:
        """The request about (data URL, question).

        It is greedy: then servers return the softmax over the whole vocabulary without temperature (vLLM with
        its default ``--logprobs-mode raw_logprobs``; others: github.com/standardcompletions/rfcs/issues/11).
        """
        return {
            "messages": [about_image(*item)],
            "temperature": 0,
            "max_tokens": 1,
            "logprobs": True,
            "top_logprobs": self.top_logprobs,
        }

    def read(self, groups: list[list[str]], reply: Reply) -> FirstToken:
        """For each group the summed probabilities of the returned tokens that read as one of its words.

        Raises:
            UserError: The server returns no log-probs.
            PassingTrouble: This reply has none.
            NoAnswer: A content filter gave the reply, or its numbers can't be log-probs.
        """
        choice = reply.choices[0]
        refuse_filtered(choice)
        logprobs = choice.logprobs
        likeliest = logprobs.content[0].top_logprobs if logprobs and logprobs.content else None
        if not likeliest:
            if not self._has_logprobs:
                raise UserError(
                    f"{self.server.where}: the server returns no logprobs, so yes and no can't be read. "
                    f"{_REMEDY}"
                )
            raise PassingTrouble("the reply has no logprobs")
        self._has_logprobs = True
        _probs(logprobs.content[:1])
        tokens = sorted(((t.token, p) for t, p in zip(likeliest, _probs(likeliest))), key=lambda t: -t[1])
        found: defaultdict[str, float] = defaultdict(float)
        for token, p in tokens:
            found[token.lstrip(_WORD_MARKS)] += p
        self._count_outside(groups, found, tokens[0][0])
        probs = (sum(found.get(word, 0.0) for word in group) for group in groups)
        return FirstToken(tuple(probs), tuple(tokens[:LIKELIEST]))

    def lower_top(self, sent: Body, refusal: NoAnswer) -> bool:
        """Whether to send again, because so many tokens were refused; then fewer are asked for from now on.

        Raises:
            UserError: The server refuses log-probs altogether.
        """
        if not str(refusal).startswith("HTTP ") or "logprobs" not in str(refusal):
            return False
        if sent["top_logprobs"] == self.top_logprobs:
            lower = next((top for top in _LOWER_TOP if top < self.top_logprobs), None)
            if lower is None:
                raise UserError(
                    f"{self.server.where}: the server refuses logprobs ({refusal}), so yes and no can't be "
                    f"read. {_REMEDY}"
                )
            log.warning(
                "%s: top_logprobs=%d is refused; asking for %d", self.server.where, self.top_logprobs, lower
            )
            self.top_logprobs = lower
        return True

    def _count_outside(self, groups: list[list[str]], found: dict[str, Any], first: str) -> None:
        outside = [word for group in groups for word in group if word not in found]
        self.server.account.outside_top += len(outside)
        if len(outside) == sum(map(len, groups)) and not self._warned:
            self._warned = True
            log.warning(
                "%s: a reply begins with none of %s but with %r: does the model think first?",
                self.server.where,
                outside,
                first,
            )


def checked_words(words: Sequence[Sequence[str]]) -> list[list[str]]:
    """The words of each group, each once and without blanks before it.

    Raises:
        UserError: A word is empty, or stands in two groups.
    """
    groups = [list(dict.fromkeys(word.lstrip(_WORD_MARKS) for word in group)) for group in words]
    flat = [word for group in groups for word in group]
    if "" in flat or len(set(flat)) < len(flat):
        raise UserError(
            f"{list(map(list, words))}: an empty word, or one in two groups: replies can't be told apart. "
            "Correct yes_words and no_words."
        )
    return groups


def _probs(likeliest: Sequence[TokenLogProb]) -> list[float]:
    """The tokens' probabilities.

    Raises:
        NoAnswer: The numbers can't be log-probs: NaN, infinite, probabilities themselves, or logits.
    """
    strange = next((t for t in likeliest if not -math.inf < t.logprob <= _ROUNDING), None)
    if strange is not None:
        raise NoAnswer(
            f"the server's logprobs are none: {strange.logprob} for {shortened(repr(strange.token), 40)}"
        )
    probs = [math.exp(min(t.logprob, 0.0)) for t in likeliest]
    if sum(probs) > 1 + _ROUNDING:
        raise NoAnswer(f"the server's logprobs are none: their probabilities add up to {sum(probs):.3g}")
    return probs
