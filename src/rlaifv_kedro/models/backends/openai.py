"""The backend for any OpenAI-compatible server: vLLM, SGLang, llama.cpp, a vendor's own.

Where a server differs from the transformers backend (vLLM's ways are read from its code):

- **Seeds** are a wish. vLLM's own draws follow them, yet its sums depend on the batch, so now and then a
  token differs; other servers ignore them.
- **Decoding**: what a request leaves out, vLLM takes from the model's ``generation_config.json``. ``top_k``
  and ``repetition_penalty`` are named only where they are asked for, since other servers refuse them, which
  is an error then: start vLLM with ``--generation-config vllm``. Its penalty counts the prompt's tokens too.
- **Templates**: the server's chat template writes the prompt, and vLLM adds no beginning-of-sequence token to
  it. LLaVA-1.5's template has none: give ``--chat-template`` a copy that begins with ``{{ bos_token }}``.
- **Thinking** must be switched off on the server: the first token of a reply that thinks is no yes or no.
- ``max_tokens`` is sent, which such servers take; OpenAI's own reasoning models want another name and are
  refused there.
"""

import logging
import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.models.backends.server_bodies import Body, about_image, data_urls, generation, server_seed
from rlaifv_kedro.models.backends.server_replies import Account, NoAnswer, PassingTrouble, Reply
from rlaifv_kedro.models.backends.server_requests import OnOutcome, Result, RetryRefused, Server
from rlaifv_kedro.models.interface import Answer, Decoding, OnAnswer, Question
from rlaifv_kedro.params import OpenAIParams

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger(__name__)

Item = TypeVar("Item", bound=Hashable)

_LOWER_TOP = (20, 5)  # most top_logprobs: vLLM's default and OpenAI's now; OpenAI's before and some vendors'
_WORD_MARKS = (
    " \t\r\n\u2581\u0120\u010a"  # blanks, and what SentencePiece (▁) and byte-level BPE (Ġ, Ċ) write for them
)
_LOGPROBS_REMEDY = (
    "Serve the model with vLLM, SGLang or llama.cpp (transformers serve and some vendors leave them out), "
    "or take backend=transformers under models.<role>."
)


class OpenAIModel:
    """See :class:`rlaifv_kedro.models.VisionLanguageModel` and :class:`rlaifv_kedro.models.TextModel`.

    An item that the server doesn't answer is an ``Answer`` with an ``error``, or NaN probabilities; the rest
    goes on. Identical items of a call are asked once. ``account`` counts requests, tokens and costs; it is
    logged once a minute and by ``close``.

    Args:
        params: Server and model. The key comes from the environment variable it names and goes nowhere but
            into the requests.
        first_pause: Seconds before the second try; see
            :class:`rlaifv_kedro.models.backends.server_requests.Server`.

    Raises:
        UserError: No server or model is named, there is none, or it refuses the key; also during work, if the
            server refuses every item or is down.
    """

    def __init__(self, params: OpenAIParams, first_pause: float = 0.5):
        self.server, self.top_logprobs = Server(params, first_pause), params.top_logprobs
        self._has_logprobs = self._warned_of_strange_replies = False
        self.server.check()

    def sample(
        self, questions: Sequence[Question], seeds: Sequence[Sequence[int]], decoding: Decoding
    ) -> list[list[Answer]]:
        """Answers to each question, one a seed.

        Each is a request of its own, so that it has its own seed (:func:`server_seed`); servers that
        cache prefixes compute the image once.

        Sampling is plain only if the server adds nothing; see the module's notes.
        """
        items = [
            (url, q.text, server_seed(s))
            for q, url, row in zip(questions, data_urls([q.image for q in questions]), seeds)
            for s in row
        ]
        answers = iter(
            self._generate(items, lambda item: generation([about_image(*item[:2])], item[2], decoding))
        )
        return [[next(answers) for _ in row] for row in seeds]

    def complete(
        self,
        chats: Sequence[Sequence[Mapping[str, str]]],
        seeds: Sequence[int],
        decoding: Decoding,
        on_answer: OnAnswer | None = None,
    ) -> list[Answer]:
        """The reply to each chat, one request each; see :class:`rlaifv_kedro.models.TextModel`."""
        items = [
            (tuple((m["role"], m["content"]) for m in chat), server_seed(seed))
            for chat, seed in zip(chats, seeds)
        ]
        return self._generate(
            items,
            lambda item: generation([{"role": r, "content": c} for r, c in item[0]], item[1], decoding),
            on_answer,
        )

    def first_token_probs(
        self, images: "Sequence[Image]", questions: Sequence[Sequence[str]], words: Sequence[Sequence[str]]
    ) -> list[np.ndarray]:
        """See :meth:`rlaifv_kedro.models.VisionLanguageModel.first_token_probs`.

        Servers return texts of tokens, not ids, and only the likeliest:

        - All returned tokens that read as a word, with or without a blank before it, count for it; case
          matters.
        - A word outside the likeliest ``top_logprobs`` has probability 0 and is counted in
          ``account.outside_top``; a server that refuses so many is asked for 20, then for 5.
        - A word of several tokens is never found, nor is it known that two words begin with the same one:
          words must be single tokens.
        - Requests are greedy: then servers return the softmax over the whole vocabulary without temperature
          (vLLM with its default ``--logprobs-mode raw_logprobs``; for others
          github.com/standardcompletions/rfcs/issues/11).

        Raises:
            UserError: The server returns no logprobs or refuses to; a word stands in two groups.
        """
        groups = _checked(words)
        items = [(url, text) for url, asked in zip(data_urls(images), questions) for text in asked]
        rows = iter(self._ask_once(items, self._first_token, partial(self._probs, groups), self._lower_top))
        nothing = [math.nan] * len(groups)
        replies = [
            [nothing if isinstance(row := next(rows), NoAnswer) else row for _ in asked]
            for asked in questions
        ]
        return [np.array(r, dtype=np.float64).reshape(len(r), len(groups)) for r in replies]

    def branch_log_probs(
        self, questions: Sequence[Question], answers: Sequence[Sequence[str]]
    ) -> list[list[tuple[float, int]]]:
        """A server can't score given answers: always a UserError."""
        raise UserError(
            f"{self.server.where}: a server can't score given answers. Take backend=transformers under "
            "models.<role>, or don't ask for it (feedback.scoring=claims)."
        )

    @property
    def account(self) -> Account:
        """Requests, tokens and costs so far."""
        return self.server.account

    def close(self) -> None:
        """Log the account; connections are closed at the end of each call."""
        self.server.report()

    def _generate(
        self, items: Sequence[Item], body: Callable[[Item], Body], on_answer: OnAnswer | None = None
    ) -> list[Answer]:
        def on_outcome(index: int, outcome: Answer | NoAnswer) -> None:
            if on_answer:
                on_answer(index, _or_error(outcome))

        outcomes = self._ask_once(items, body, _answer, self._refuse_setting, on_outcome)
        return [_or_error(outcome) for outcome in outcomes]

    def _refuse_setting(self, sent: Body, refusal: NoAnswer) -> bool:
        """Stop if it is a setting that was refused: it would be for every item."""
        named = [name for name in sent.get("extra_body", {}) if name in str(refusal)]
        if named:
            raise UserError(
                f"{self.server.where}: the server doesn't know {' and '.join(named)} ({refusal}). Serve the "
                "model with vLLM or SGLang, or sample without: data_generation.top_k=null and "
                "data_generation.repetition_penalty=1, for best-of-N those of evaluation.best_of_."
            )
        return False

    def _ask_once(
        self,
        items: Sequence[Item],
        body: Callable[[Item], Body],
        read: Callable[[Reply], Result],
        retry_refused: RetryRefused | None = None,
        on_outcome: OnOutcome[Result] | None = None,
    ) -> list[Result | NoAnswer]:
        where: defaultdict[Item, list[int]] = defaultdict(list)
        for index, item in enumerate(items):
            where[item].append(index)
        different = list(where)

        def on_any(k: int, outcome: Result | NoAnswer) -> None:
            for index in where[different[k]]:
                on_outcome(index, outcome)

        outcomes = self.server.ask(
            [partial(body, item) for item in different], read, retry_refused, on_any if on_outcome else None
        )
        known = dict(zip(different, outcomes))
        return [known[item] for item in items]

    def _first_token(self, item: tuple[str, str]) -> Body:
        return {
            "messages": [about_image(*item)],
            "temperature": 0,
            "max_tokens": 1,
            "logprobs": True,
            "top_logprobs": self.top_logprobs,
        }

    def _probs(self, groups: list[list[str]], reply: Reply) -> list[float]:
        """For each group the summed probabilities of its words."""
        logprobs = reply.choices[0].logprobs
        likeliest = logprobs.content[0].top_logprobs if logprobs and logprobs.content else None
        if not likeliest:
            if not self._has_logprobs:
                raise UserError(
                    f"{self.server.where}: the server returns no logprobs, so yes and no can't be read. "
                    f"{_LOGPROBS_REMEDY}"
                )
            raise PassingTrouble("the reply has no logprobs")
        self._has_logprobs = True
        found: defaultdict[str, float] = defaultdict(float)
        for token in likeliest:
            found[token.token.lstrip(_WORD_MARKS)] += math.exp(min(token.logprob, 0.0))
        outside = [word for group in groups for word in group if word not in found]
        self.account.outside_top += len(outside)
        if len(outside) == sum(map(len, groups)) and not self._warned_of_strange_replies:
            self._warned_of_strange_replies = True
            log.warning(
                "%s: a reply begins with none of %s but with %r: does the model think first?",
                self.server.where,
                outside,
                likeliest[0].token,
            )
        return [sum(found.get(word, 0.0) for word in group) for group in groups]

    def _lower_top(self, sent: Body, refusal: NoAnswer) -> bool:
        """Ask for fewer of the likeliest tokens, if that is what was refused."""
        if "logprobs" not in str(refusal):
            return False
        if sent["top_logprobs"] == self.top_logprobs:
            lower = next((top for top in _LOWER_TOP if top < self.top_logprobs), None)
            if lower is None:
                raise UserError(
                    f"{self.server.where}: the server refuses logprobs ({refusal}), so yes and no can't be "
                    f"read. {_LOGPROBS_REMEDY}"
                )
            log.warning(
                "%s: top_logprobs=%d is refused; asking for %d", self.server.where, self.top_logprobs, lower
            )
            self.top_logprobs = lower
        return True


def _answer(reply: Reply) -> Answer:
    choice, message = reply.choices[0], reply.choices[0].message
    if choice.finish_reason == "content_filter" or message.refusal:
        raise NoAnswer(f"refused: {message.refusal or 'content filter'}")
    if message.content is None and (message.reasoning or message.reasoning_content):
        raise NoAnswer("the reply is thinking only: switch it off on the server")
    tokens = reply.usage.completion_tokens if reply.usage else 0
    finish = "length" if choice.finish_reason == "length" else "stop"
    prompt_tokens = reply.usage.prompt_tokens if reply.usage else None
    return Answer(
        (message.content or "").strip(), tokens, finish, prompt_tokens=prompt_tokens, model=reply.model
    )


def _or_error(outcome: Answer | NoAnswer) -> Answer:
    return Answer("", 0, "error", str(outcome)) if isinstance(outcome, NoAnswer) else outcome


def _checked(words: Sequence[Sequence[str]]) -> list[list[str]]:
    """The words of each group, each once and without blanks before it."""
    groups = [list(dict.fromkeys(word.lstrip(_WORD_MARKS) for word in group)) for group in words]
    flat = [word for group in groups for word in group]
    if "" in flat or len(set(flat)) < len(flat):
        raise UserError(
            f"{list(map(list, words))}: an empty word, or one in two groups: replies can't be told apart. "
            "Correct yes_words and no_words."
        )
    return groups
