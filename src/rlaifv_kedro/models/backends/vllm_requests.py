"""Requests to servers of vLLM in token ids: what is sent, and what comes back.

vLLM 0.32 and later have ``POST /inference/v1/generate`` with ``--enable-scale-out`` (read and tried there:
``vllm/entrypoints/scale_out/token_in_token_out``). A prompt is sent as ids, with one picture's placeholder as
the chat template writes it, which vLLM replaces by as many tokens as the model takes.
"""

import math
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx2
from openai import AsyncOpenAI
from pydantic import BaseModel, Field

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import json_value
from rlaifv_kedro.models.backends.server_bodies import Body
from rlaifv_kedro.models.backends.server_connection import Connection
from rlaifv_kedro.models.backends.server_places import Places
from rlaifv_kedro.models.backends.server_replies import Account, NoAnswer, PassingTrouble, Usage
from rlaifv_kedro.models.backends.server_requests import OnOutcome, Requests
from rlaifv_kedro.models.interface import Decoding
from rlaifv_kedro.params import VLLMParams

Result = TypeVar("Result")

_NO_LOGPROB = -9999.0  # what vLLM writes for NaN and minus infinity
_NEVER = -100.0  # added to a logit: the least that vLLM takes
_ROUNDING = 0.05  # by which a log-prob may lie above 0


class TokenLogProb(BaseModel):
    """A token's id and its log-prob."""

    token_id: int
    logprob: float


class LogProbsOfToken(BaseModel):
    """The log-probs of tokens that were asked for at one place of a reply."""

    top_logprobs: list[TokenLogProb] = []


class LogProbs(BaseModel):
    """The log-probs at each place of a reply."""

    content: list[LogProbsOfToken] | None = None


class TokenChoice(BaseModel):
    """One reply."""

    token_ids: list[int] = Field(min_length=1)
    finish_reason: str | None = None
    logprobs: LogProbs | None = None


class TokenReply(BaseModel):
    """What is read of a reply in token ids; ``prompt_token_ids`` are the prompt's after expansion."""

    choices: list[TokenChoice] = Field(min_length=1)
    usage: Usage
    prompt_token_ids: list[int] | None = None


@dataclass(frozen=True)
class TokenPrompt:
    """A prompt as it is sent.

    Attributes:
        ids: Up to where the reply begins, with one picture's placeholder as the chat template writes it.
        tokens: How many there are with the picture's own.
        room: Most tokens that the model has positions for after them; None for no limit.
        picture: Its data URL; None for a prompt without.
        name: The picture's, by which vLLM finds what it has made of it.
    """

    ids: list[int]
    tokens: int
    room: int | None
    picture: str | None = None
    name: str | None = None


class TokenServers(Requests[TokenReply]):
    """One model on servers of vLLM that this run has started.

    Args:
        name: The model's role.
        places: The servers.
        key: The API key that they want.
    """

    kind = "answer in token ids"
    not_there = "This vLLM has no /inference/v1/generate: take one that docs/serving.md names."

    def __init__(self, params: VLLMParams, name: str, places: Places, key: str, first_pause: float = 0.5):
        connection = Connection(f"{name} on vLLM", key, "VLLM_API_KEY", proxies=False)
        super().__init__(params, connection, places, first_pause, Account())

    def send(self, client: AsyncOpenAI, body: Body) -> Awaitable[Any]:
        """Send a prompt in token ids."""
        return client.post("/inference/v1/generate", body=body, cast_to=httpx2.Response)

    def read(self, content: bytes) -> TokenReply:
        """Read a reply in token ids.

        Raises:
            ValueError: It is no JSON of use, or no such reply.
        """
        return TokenReply.model_validate(json_value(content.decode(), names_once=True))

    def generate(
        self,
        prompts: Sequence[TokenPrompt],
        settings: Sequence[Body],
        take: Callable[[TokenChoice], Result],
        on_outcome: OnOutcome[Result] | None = None,
        named: bool = False,
    ) -> list[Result | NoAnswer]:
        """What is taken from the reply to each prompt.

        Args:
            settings: Of each prompt; see :func:`sampling` and :func:`first_place`.
            take: May raise PassingTrouble or NoAnswer.
            on_outcome: See :meth:`rlaifv_kedro.models.backends.server_requests.Requests.ask`.
            named: Pictures are named first, and sent only where the server doesn't hold them.

        Raises:
            UserError: vLLM has made another number of tokens of a prompt than this project: it has asked
                another one.
        """
        names = [prompt.name for prompt in prompts]

        def on_count(index: int, tokens: int) -> None:
            if tokens != prompts[index].tokens:
                raise UserError(
                    f"{self.where}: a prompt has {prompts[index].tokens} tokens, and vLLM has made {tokens} "
                    "of it. Take backend: transformers for this model."
                )

        return self.ask(
            [_Bodies(prompt, own, named) for prompt, own in zip(prompts, settings, strict=True)],
            lambda reply: take(_whole(reply)),
            retry_refused=lambda sent, refusal: _names_only(sent),
            on_outcome=on_outcome,
            routes=None if None in names else names,
            on_count=on_count,
        )

    def generate_once_a_picture(
        self, prompts: Sequence[TokenPrompt], settings: Body, take: Callable[[TokenChoice], Result]
    ) -> list[Result | NoAnswer]:
        """As :meth:`generate`, with one request about each picture first, and then the others.

        They only name the picture, which spares the server most of its work for a short question: to read and
        prepare the same picture dozens of times (of a PNG of 333 KiB 5.5 ms a request instead of 2.2).
        """
        self.assigned([prompt.name for prompt in prompts])  # by how much is asked about each
        leaders = list({p.name: k for k, p in reversed(list(enumerate(prompts)))}.values())
        others = sorted(set(range(len(prompts))) - set(leaders))
        found: dict[int, Result | NoAnswer] = {}
        for part, named in ((leaders, False), (others, True)):
            own = [prompts[k] for k in part]
            found |= zip(part, self.generate(own, [settings] * len(own), take, named=named))
        return [found[k] for k in range(len(prompts))]

    def expanded(
        self, prompt: TokenPrompt, settings: Body, take: Callable[[TokenChoice], Result]
    ) -> tuple[list[int], Result]:
        """The ids of one prompt after expansion, and what is taken from its reply.

        Raises:
            UserError: There is no answer.
        """
        [found] = self.ask(
            [lambda: {**prompt_body(prompt, settings), "return_token_ids": True}],
            lambda reply: (reply.prompt_token_ids or [], take(_whole(reply))),
        )
        if isinstance(found, NoAnswer):
            raise UserError(f"{self.where}: there is no answer to a trial question: {found}.")
        return found


def _whole(reply: TokenReply) -> TokenChoice:
    choice = reply.choices[0]
    if choice.finish_reason not in ("stop", "length"):
        raise PassingTrouble(f"vLLM broke the reply off: {choice.finish_reason}")
    return choice


def prompt_body(prompt: TokenPrompt, settings: Body, named: bool = False) -> Body:
    """A request.

    Args:
        settings: vLLM's sampling parameters.
        named: Without the picture itself.
    """
    body: Body = {"token_ids": prompt.ids, "sampling_params": {**settings, "detokenize": False}}
    if prompt.picture is not None:
        url = None if named else prompt.picture
        body["content_parts"] = [{"type": "image_url", "url": url, "uuid": prompt.name}]
    return body


class _Bodies:
    """What is sent at each try: the first may only name the picture, every other one holds it."""

    def __init__(self, prompt: TokenPrompt, settings: Body, named: bool):
        self.prompt, self.settings, self.named = prompt, settings, named

    def __call__(self) -> Body:
        body = prompt_body(self.prompt, self.settings, self.named)
        self.named = False
        return body


def _names_only(body: Body) -> bool:
    return any(part["url"] is None for part in body.get("content_parts", ()))


def sampling(
    decoding: Decoding, seed: int, room: int | None, ends: Collection[int], suppressed: Collection[int]
) -> Body:
    """How a reply is drawn.

    vLLM's repetition penalty counts the prompt's tokens too; all else is as in the transformers backend.

    Args:
        room: Most tokens that the model has positions for after the prompt; None for no limit.
        ends: Tokens that end a reply.
        suppressed: Tokens that are never drawn, which vLLM doesn't read from ``generation_config.json``.
    """
    longest = decoding.max_new_tokens if room is None else min(decoding.max_new_tokens, room)
    never = {str(token): _NEVER for token in suppressed}
    return {
        **({"logit_bias": never} if never else {}),
        "max_tokens": longest,
        "temperature": decoding.temperature,
        "top_p": decoding.top_p,
        "top_k": decoding.top_k or 0,  # 0 means all
        "repetition_penalty": decoding.repetition_penalty,
        "seed": seed % (2**63 - 1),  # it must fit into 64 bits with a sign, and -1 means none
        "stop_token_ids": sorted(ends),
    }


def first_place(tokens: Sequence[int]) -> Body:
    """Settings for the log-probs of some tokens at a reply's first place.

    vLLM puts the token that it takes before them, and cuts the list to the number of tokens that were asked
    for: one of them is asked for twice, so that none is cut off.
    """
    asked = [*tokens, tokens[0]]
    return {"max_tokens": 1, "temperature": 0, "logprobs": len(asked), "logprob_token_ids": asked}


def probs_of(choice: TokenChoice, tokens: Sequence[int]) -> dict[int, float]:
    """p(token) of the tokens that were asked for, and of the one that vLLM took, which is the likeliest.

    Raises:
        PassingTrouble: The reply lacks one.
        NoAnswer: The numbers can't be log-probs.
    """
    places = choice.logprobs.content if choice.logprobs else None
    found = {t.token_id: t.logprob for t in places[0].top_logprobs} if places else {}
    if not found.keys() >= set(tokens):
        raise PassingTrouble("the reply lacks log-probs")
    if not all(logprob <= _ROUNDING for logprob in found.values()) or max(found.values()) <= _NO_LOGPROB:
        raise NoAnswer("vLLM's log-probs are NaN or positive: the model's numbers overflow")
    return {token: math.exp(min(logprob, 0.0)) for token, logprob in found.items()}
