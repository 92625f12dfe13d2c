"""What comes back from an OpenAI-compatible server, and the account of it."""

import math
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Literal
from urllib.parse import urlsplit

from openai import APIStatusError
from pydantic import BaseModel, Field

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import json_value
from rlaifv_kedro.formats import shortened
from rlaifv_kedro.models.interface import Answer
from rlaifv_kedro.redaction import redacted

_ALL_REFUSED = {402, 404}  # no money, no such model or path: the same for every item
_MOST_TOKENS = 2**53  # beyond any count, and a number that every file and database holds


class TokenLogProb(BaseModel):
    """A token's text and its log-prob."""

    token: str
    logprob: float


class GeneratedToken(TokenLogProb):
    """A token of the reply, and the likeliest at its place."""

    top_logprobs: list[TokenLogProb] | None = None


class LogProbs(BaseModel):
    """The tokens of a reply with their log-probs."""

    content: list[GeneratedToken] | None = None


class Message(BaseModel):
    """What the model says.

    ``content`` is there where a text is wanted, but SGLang sends null for an empty one. The names of thinking
    are SGLang's and vLLM's.
    """

    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class Choice(BaseModel):
    """One reply of a chat completion."""

    message: Message
    finish_reason: str
    logprobs: LogProbs | None = None


class Usage(BaseModel):
    """The server's counts of tokens."""

    prompt_tokens: int = Field(0, ge=0, le=_MOST_TOKENS)
    completion_tokens: int = Field(0, ge=0, le=_MOST_TOKENS)


class Reply(BaseModel):
    """What is read of a chat completion.

    It is our own model because the openai client's takes any JSON unchecked.
    """

    choices: list[Choice] = Field(min_length=1)
    model: str | None = Field(None, max_length=1000)
    usage: Usage | None = None

    @classmethod
    def read(cls, content: bytes) -> "Reply":
        """Read a reply's bytes.

        Raises:
            ValueError: They are no JSON of use, or no chat completion.
        """
        return cls.model_validate(json_value(content.decode("utf-8-sig"), names_once=True))


class ModelName(BaseModel):
    """The name by which a server knows a model."""

    id: str


class ModelNames(BaseModel):
    """What is read of a list of models."""

    data: list[ModelName] = Field(min_length=1)

    @classmethod
    def read(cls, content: bytes) -> list[str]:
        """The names.

        Raises:
            ValueError: It is no such list.
        """
        return [served.id for served in cls.model_validate(json_value(content.decode("utf-8-sig"))).data]


class NoAnswer(Exception):
    """Says why an item has no answer.

    ``disconnected``: because nothing came from the server at all.
    """

    def __init__(self, why: str, disconnected: bool = False):
        super().__init__(why)
        self.disconnected = disconnected


def or_error(outcome: Answer | NoAnswer) -> Answer:
    """The answer, or one that says why there is none."""
    return Answer("", 0, "error", str(outcome)) if isinstance(outcome, NoAnswer) else outcome


class PassingTrouble(Exception):
    """A trouble that may pass, such as a server that is busy.

    ``retry_after``: seconds that the server asks to wait.
    """

    def __init__(self, why: str, retry_after: float = 0.0, disconnected: bool = False):
        super().__init__(why)
        self.retry_after, self.disconnected = retry_after, disconnected


_FILTERED = {
    *("content_filter", "content_filtered", "refusal"),
    *("safety", "recitation", "blocklist", "prohibited_content", "spii"),
    *("sensitive", "error_toxic", "guardrail_intervened"),
}
"""How replies of content filters end: of OpenAI, Bedrock, Anthropic; of Gemini; of GLM, Cohere, Bedrock."""


def refuse_filtered(choice: Choice) -> None:
    """Raise NoAnswer if a content filter gave the reply, or the server says that the model refuses."""
    if choice.finish_reason.lower() in _FILTERED or choice.message.refusal:
        raise NoAnswer(f"refused: {one_line(choice.message.refusal or 'content filter')}")


_CUT_OFF = ("length", "max_tokens", "max_output_tokens", "model_length", "model_context_window_exceeded")


def finish_of(choice: Choice) -> Literal["stop", "length"]:
    """Why a reply ended, whatever the server calls it.

    Raises:
        PassingTrouble: The server broke it off.
    """
    reason = choice.finish_reason.lower()
    if reason in ("error", "abort", "aborted", "cancelled", "network_error", "insufficient_system_resource"):
        raise PassingTrouble(f"the server broke the reply off: {one_line(reason)}")
    return "length" if reason in _CUT_OFF else "stop"


_FILTER = re.compile(
    r"content.?(filter|management|policy)|moderation|data_inspection|input was flagged", re.IGNORECASE
)


def is_content_filter(status: int, body: object) -> bool:
    """Whether an error says that a content filter refused the request.

    Azure sends HTTP 400 with the code ``content_filter``, DashScope with ``data_inspection_failed``,
    OpenRouter HTTP 403 that speaks of moderation.
    """
    return status in (400, 403, 422) and bool(_FILTER.search(str(body)))


def passes(error: APIStatusError) -> bool:
    """Whether it is worth another try, by what the openai client tries again."""
    return error.status_code in (408, 409, 429) or error.status_code >= 500


def meaning_of(error: APIStatusError, where: str, not_there: str) -> Exception:
    """What a status other than 200 means for the item, or for all of them.

    Args:
        where: Names the server.
        not_there: What to do if it knows no such path or model.
    """
    if is_content_filter(error.status_code, error.body):
        return NoAnswer(f"refused: content filter (HTTP {error.status_code})")
    if error.status_code in _ALL_REFUSED:
        return UserError(f"{where}: {words_of(error)}. {not_there}")
    if passes(error):
        return PassingTrouble(words_of(error), retry_after(error.response.headers.get("retry-after")))
    return NoAnswer(words_of(error))


def one_line(text: str) -> str:
    """A server's words as one short line, without the key."""
    return shortened(" ".join(redacted(text[:10_000]).split()), 300)


def words_of(error: APIStatusError) -> str:
    """What an error of the server says, as one short line."""
    said = error.body.get("message") or error.body if isinstance(error.body, dict) else error.body
    return f"HTTP {error.status_code}" + (f": {one_line(str(said))}" if said else "")


@dataclass
class Account:
    """What was asked and what came back.

    ``requests`` are different items, ``retries`` what was sent for them beyond the first time, ``failed`` the
    items without an answer after all. Tokens are the server's counts, of the replies that arrived: one lost
    on the way may be on its bill and isn't here. ``outside_top``: words that weren't among the likeliest
    first tokens. ``models``: replies by the name that the server gave its model.
    """

    price_input: float = 0.0
    price_output: float = 0.0
    requests: int = 0
    retries: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    outside_top: int = 0
    models: Counter[str] = field(default_factory=Counter)

    @property
    def cost(self) -> float:
        """In the currency of the prices, which are for a million tokens."""
        return (self.prompt_tokens * self.price_input + self.completion_tokens * self.price_output) / 1e6

    def line(self) -> str:
        """The account as one line for people."""
        parts = [f"{self.requests:,} requests, {self.retries:,} retries, {self.failed:,} without an answer"]
        parts.append(f"{self.prompt_tokens:,} + {self.completion_tokens:,} tokens")
        if self.price_input or self.price_output:
            parts.append(f"cost {self.cost:.2f}")
        if self.outside_top:
            parts.append(f"{self.outside_top:,} words outside the likeliest first tokens")
        return "; ".join(parts)


def shown_address(url: str) -> str:
    """An address without a user, password or query, which may hold keys."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "") + parts.path


def cause_of(error: Exception) -> str:
    """What is behind an error of the client, such as a refused connection."""
    cause = error.__cause__ or error
    return str(cause) or type(cause).__name__


def retry_after(header: str | None) -> float:
    """Seconds from now, of a header that holds seconds or a date; 0 if it holds neither."""
    try:
        seconds = float(header or 0)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(str(header)).timestamp() - time.time()
        except (ValueError, OverflowError):
            return 0.0
    return max(seconds, 0.0) if math.isfinite(seconds) else 0.0
