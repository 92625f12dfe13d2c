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

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.models.backends.server_bodies import (
    Body,
    about_image,
    data_urls,
    generation,
    server_seed,
    text_message,
)
from rlaifv_kedro.models.backends.server_chats import ChatServers
from rlaifv_kedro.models.backends.server_counts import OwnCounts
from rlaifv_kedro.models.backends.server_first_tokens import FirstTokens, checked_words
from rlaifv_kedro.models.backends.server_replies import (
    Account,
    NoAnswer,
    PassingTrouble,
    Reply,
    finish_of,
    or_error,
    refuse_filtered,
)
from rlaifv_kedro.models.backends.server_requests import OnOutcome, Result, RetryRefused
from rlaifv_kedro.models.interface import Answer, Decoding, FirstToken, OnAnswer, Question
from rlaifv_kedro.params import OpenAIParams

if TYPE_CHECKING:
    from PIL.Image import Image

Item = TypeVar("Item", bound=Hashable)


class OpenAIModel:
    """See :class:`rlaifv_kedro.models.VisionLanguageModel` and :class:`rlaifv_kedro.models.TextModel`.

    An item that the server doesn't answer is an ``Answer`` with an ``error``, or of a first token; the rest
    goes on. Identical items of a call are asked once. ``account`` counts requests, tokens and costs; it is
    logged once a minute and by ``close``.

    Args:
        params: Server and model. The key comes from the environment variable it names and goes nowhere but
            into the requests.
        first_pause: Seconds before the second try; see
            :class:`rlaifv_kedro.models.backends.server_requests.Requests`.

    Raises:
        UserError: No server or model is named, there is none, or it refuses the key; also during work, if the
            server refuses every item or is down.
    """

    def __init__(self, params: OpenAIParams, first_pause: float = 0.5):
        self.server = ChatServers(params, first_pause)
        self.first = FirstTokens(self.server, params.top_logprobs)
        self.server.check()
        self.counts = None if params.tokenizer is None else OwnCounts(params.tokenizer, self.server.where)

    def sample(
        self, questions: Sequence[Question], seeds: Sequence[Sequence[int]], decoding: Decoding
    ) -> list[list[Answer]]:
        """Answers to each question, one a seed.

        Each is a request of its own, so that it has its own seed (:func:`server_seed`); servers that
        cache prefixes compute the image once.

        Sampling is plain only if the server adds nothing; see the module's notes.
        """
        urls = data_urls([q.image for q in questions])
        items = [(url, q.text, server_seed(s)) for q, url, row in zip(questions, urls, seeds) for s in row]
        images = dict(zip(urls, [q.image for q in questions]))
        answers = iter(
            self._generate(
                items,
                lambda item: generation([about_image(*item[:2])], item[2], decoding),
                own_count=lambda item: self.counts.of_picture(images[item[0]], item[1]),
            )
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
            lambda item: generation([text_message(*said) for said in item[0]], item[1], decoding),
            on_answer,
            lambda item: self.counts.of_chat([{"role": role, "content": text} for role, text in item[0]]),
        )

    def first_tokens(
        self, images: "Sequence[Image]", questions: Sequence[Sequence[str]], words: Sequence[Sequence[str]]
    ) -> list[list[FirstToken]]:
        """See :meth:`rlaifv_kedro.models.VisionLanguageModel.first_tokens`.

        Servers return texts of tokens, not ids, and only the likeliest:

        - All returned tokens that read as a word, with or without a blank before it, count for it; case
          matters.
        - A word outside the likeliest ``top_logprobs`` has probability 0 and is counted in
          ``account.outside_top``; a server that refuses so many is asked for 20, then for 5.
        - A word of several tokens is never found, nor is it known that two words begin with the same one:
          words must be single tokens.

        Raises:
            UserError: The server returns no logprobs or refuses to; a word stands in two groups.
        """
        groups, first = checked_words(words), self.first
        urls = data_urls(images)
        items = [(url, text) for url, asked in zip(urls, questions) for text in asked]
        pictures, read = dict(zip(urls, images)), partial(first.read, groups)
        outcomes = iter(
            self._ask_once(
                items,
                first.body,
                read,
                first.lower_top,
                own_count=lambda item: self.counts.of_picture(pictures[item[0]], item[1]),
            )
        )
        replies = [[next(outcomes) for _ in asked] for asked in questions]
        return [
            [FirstToken.missing(len(groups), str(r)) if isinstance(r, NoAnswer) else r for r in row]
            for row in replies
        ]

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
        self,
        items: Sequence[Item],
        body: Callable[[Item], Body],
        on_answer: OnAnswer | None = None,
        own_count: Callable[[Item], int] | None = None,
    ) -> list[Answer]:
        def on_outcome(index: int, outcome: Answer | NoAnswer) -> None:
            if on_answer:
                on_answer(index, or_error(outcome))

        outcomes = self._ask_once(items, body, _answer, self._refuse_setting, on_outcome, own_count)
        return [or_error(outcome) for outcome in outcomes]

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
        own_count: Callable[[Item], int] | None = None,
    ) -> list[Result | NoAnswer]:
        """What is taken from the reply to each item; equal items are asked once.

        Items about an image begin with its data URL, and go to one server.

        Args:
            own_count: Tokens of an item's prompt by the checkpoint; of one item of every call it is compared
                with the server's, where a checkpoint is named.
        """
        where: defaultdict[Item, list[int]] = defaultdict(list)
        for index, item in enumerate(items):
            where[item].append(index)
        different = list(where)

        def on_any(k: int, outcome: Result | NoAnswer) -> None:
            for index in where[different[k]]:
                on_outcome(index, outcome)

        counted: dict[int, int] = {}
        outcomes = self.server.ask(
            [partial(body, item) for item in different],
            read,
            retry_refused,
            on_any if on_outcome else None,
            routes=[item[0] for item in different],
            on_count=counted.__setitem__,
        )
        for k, tokens in list(counted.items())[:1] if self.counts else []:
            self.counts.compare(own_count(different[k]), tokens)
        known = dict(zip(different, outcomes))
        return [known[item] for item in items]


def _answer(reply: Reply) -> Answer:
    choice, message = reply.choices[0], reply.choices[0].message
    refuse_filtered(choice)
    if "content" not in message.model_fields_set:
        raise PassingTrouble("the reply has no content")
    if message.content is None and (message.reasoning or message.reasoning_content):
        raise NoAnswer("the reply is thinking only: switch it off on the server")
    tokens = reply.usage.completion_tokens if reply.usage else 0
    finish = finish_of(choice)
    prompt_tokens = reply.usage.prompt_tokens if reply.usage else None
    return Answer(
        (message.content or "").strip(), tokens, finish, prompt_tokens=prompt_tokens, model=reply.model
    )
