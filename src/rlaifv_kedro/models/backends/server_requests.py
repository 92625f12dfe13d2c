"""Requests to an OpenAI-compatible server: many at once, sent again after troubles that pass, counted."""

import asyncio
import logging
import os
import random
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from openai import APIConnectionError, APIStatusError, APITimeoutError, AsyncOpenAI, OpenAI, Timeout
from pydantic import ValidationError

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.models.backends.own_loop import in_own_loop
from rlaifv_kedro.models.backends.server_bodies import Body
from rlaifv_kedro.models.backends.server_replies import (
    Account,
    ModelNames,
    NoAnswer,
    PassingTrouble,
    Reply,
    cause_of,
    is_content_filter,
    one_line,
    retry_after,
    shown_address,
)
from rlaifv_kedro.params import OpenAIParams

log = logging.getLogger(__name__)

Result = TypeVar("Result")
RetryRefused = Callable[[Body, NoAnswer], bool]
OnOutcome = Callable[[int, Result | NoAnswer], None]

SECONDS_BETWEEN_REPORTS = 60.0
_LONGEST_PAUSE = 60.0  # seconds, of our own
_CONNECT = 10.0  # seconds
_PASSING = {408, 409, 429}  # and all from 500: what the openai client tries again
_KEY_REFUSED = {401, 403}
_ALL_REFUSED = {402, 404}  # no money, no such model or path: the same for every item
_NOT_READY = {502, 503, 504}
_jitter = random.Random()


class Server:
    """One model on a server.

    Args:
        params: See :class:`rlaifv_kedro.params.OpenAIParams`.
        first_pause: Seconds before the second try; each further pause is twice as long, up to a minute, less
            a random part of up to a half.

    Raises:
        UserError: The environment variable holds no possible key.
    """

    def __init__(self, params: OpenAIParams, first_pause: float):
        self.params, self.first_pause = params, first_pause
        self.account = Account(params.price_input, params.price_output)
        self.where = f"{params.model} at {shown_address(params.url)}"
        self._key = os.environ.get(params.api_key_variable, "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise UserError(
                f"The environment variable {params.api_key_variable} holds characters that no key has. Set "
                "it again."
            )
        self._failures_in_a_row, self._reported, self._next_turn = 0, time.monotonic(), 0.0

    def check(self) -> None:
        """Ask for the list of models, before any work; a server that has none gets a warning.

        Raises:
            UserError: There is no server, it refuses the key, or it doesn't serve the model.
        """
        try:
            with OpenAI(**self._options(min(self.params.timeout, 30)), max_retries=2) as client:
                content = client.models.with_raw_response.list().content
                names = [served.id for served in ModelNames.model_validate_json(content).data]
        except APIConnectionError as error:
            raise UserError(
                f"{self.where}: no answer ({cause_of(error)}). Start the server, or correct url under "
                "models.<role> (the address up to /v1)."
            ) from error
        except APIStatusError as error:
            if error.status_code in _KEY_REFUSED:
                raise self._refused_key(error) from None
            if error.status_code in _NOT_READY:
                raise UserError(
                    f"{self.where}: the server isn't ready ({self._why(error)}). Try again when it is."
                ) from None
            log.warning(
                "%s: can't check that the model is served, there is no list of models (%s)",
                self.where,
                self._why(error),
            )
        except ValidationError:
            log.warning("%s: can't check that the model is served, there is no list of models", self.where)
        else:
            if self.params.model not in names:
                known = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
                raise UserError(
                    f"{self.where}: the server has no such model. Choose one of its own in model under "
                    f"models.<role>: {known}."
                )

    def ask(
        self,
        bodies: Sequence[Callable[[], Body]],
        read: Callable[[Reply], Result],
        retry_refused: RetryRefused | None = None,
        on_outcome: OnOutcome[Result] | None = None,
    ) -> list[Result | NoAnswer]:
        """Send chat completions, ``concurrency`` at once.

        It may be called beside a running event loop.

        Args:
            bodies: Called before each try for what to send, without the model's name.
            read: Takes what is wanted from a reply; raises PassingTrouble or NoAnswer if it isn't there.
            retry_refused: Whether an item that was refused should be sent again.
            on_outcome: Called with the index and the outcome of an item as soon as there is one, in the
                thread of the requests.

        Raises:
            UserError: The server refuses the key or the model; or it has answered none of the last requests
                after all retries.
        """
        if not bodies:
            return []
        answered = in_own_loop(lambda: self._all(bodies, read, retry_refused, on_outcome))
        lost = [a for a in answered if isinstance(a, NoAnswer) and a.disconnected]
        if len(lost) == len(answered):
            raise self._down(lost[-1])
        return answered

    def report(self) -> None:
        """Log the account."""
        self._reported = time.monotonic()
        log.info("%s: %s", self.where, self.account.line())

    async def _all(
        self,
        bodies: Sequence[Callable[[], Body]],
        read: Callable[[Reply], Result],
        retry_refused: RetryRefused | None,
        on_outcome: OnOutcome[Result] | None,
    ) -> list[Result | NoAnswer]:
        answered: dict[int, Result | NoAnswer] = {}
        todo = iter(enumerate(bodies))

        async def worker(client: AsyncOpenAI) -> None:
            for k, body in todo:
                answered[k] = await self._item(client, body, read, retry_refused)
                if on_outcome:
                    on_outcome(k, answered[k])

        async with AsyncOpenAI(**self._options(self.params.timeout), max_retries=0) as client:
            workers = [
                asyncio.create_task(worker(client)) for _ in range(min(self.params.concurrency, len(bodies)))
            ]
            try:
                await asyncio.gather(*workers)
            finally:
                for task in workers:
                    task.cancel()
                await asyncio.gather(*workers, return_exceptions=True)
        return [answered[k] for k in range(len(bodies))]

    async def _item(
        self,
        client: AsyncOpenAI,
        body: Callable[[], Body],
        read: Callable[[Reply], Result],
        retry_refused: RetryRefused | None,
    ) -> Result | NoAnswer:
        self.account.requests += 1
        troubles = 0
        while True:
            sent = body()
            await self._turn()
            try:
                result = read(await self._reply(client, sent))
            except PassingTrouble as trouble:
                if troubles == self.params.retries:
                    return self._no_answer_after(trouble)
                await asyncio.sleep(self._pause(troubles) + trouble.retry_after)
                troubles += 1
            except NoAnswer as refusal:
                self._failures_in_a_row = 0
                if retry_refused is None or not retry_refused(sent, refusal):
                    self.account.failed += 1
                    return refusal
            else:
                self._failures_in_a_row = 0
                if time.monotonic() - self._reported >= SECONDS_BETWEEN_REPORTS:
                    self.report()
                return result
            self.account.retries += 1

    async def _turn(self) -> None:
        """Wait until the next request may be sent: they are spread evenly over the minute."""
        if self.params.requests_per_minute:
            now = time.monotonic()
            turn = max(now, self._next_turn)
            self._next_turn = turn + 60 / self.params.requests_per_minute
            await asyncio.sleep(turn - now)

    async def _reply(self, client: AsyncOpenAI, body: Body) -> Reply:
        content = b""
        try:
            # The client's own timeout starts anew with every byte.
            async with asyncio.timeout(self.params.timeout):
                content = (
                    await client.chat.completions.with_raw_response.create(model=self.params.model, **body)
                ).content
            reply = Reply.model_validate_json(content)
        except TimeoutError:
            raise PassingTrouble(f"no reply within {self.params.timeout:g} s") from None
        except APIConnectionError as error:
            raise PassingTrouble(
                f"no reply: {cause_of(error)}", disconnected=not isinstance(error, APITimeoutError)
            ) from None
        except APIStatusError as error:
            if is_content_filter(error.status_code, error.body):
                raise NoAnswer(f"refused: content filter (HTTP {error.status_code})") from None
            if error.status_code in _KEY_REFUSED:
                raise self._refused_key(error) from None
            if error.status_code in _ALL_REFUSED:
                raise UserError(
                    f"{self.where}: {self._why(error)}. Correct url (the address up to /v1) or model under "
                    "models.<role>, or the account there."
                ) from None
            if error.status_code in _PASSING or error.status_code >= 500:
                raise PassingTrouble(
                    self._why(error), retry_after(error.response.headers.get("retry-after"))
                ) from None
            raise NoAnswer(self._why(error)) from None
        except ValidationError:
            raise PassingTrouble(
                f"the reply is no chat completion: {one_line(content.decode(errors='replace'), self._key)}"
            ) from None
        if reply.usage:
            self.account.prompt_tokens += reply.usage.prompt_tokens
            self.account.completion_tokens += reply.usage.completion_tokens
        self._count_model(reply.model or "")
        return reply

    def _count_model(self, name: str) -> None:
        self.account.models[name] += 1
        if name != self.params.model and self.account.models[name] == 1:
            log.warning("%s: the server says that %s answers", self.where, name or "a model without a name")

    def _no_answer_after(self, trouble: PassingTrouble) -> NoAnswer:
        """Count a failure; after too many in a row the server counts as down.

        Hours of retries would give nothing but rejects.
        """
        self.account.failed += 1
        self._failures_in_a_row += 1
        why = NoAnswer(f"{trouble} (tries: {self.params.retries + 1})", trouble.disconnected)
        if self._failures_in_a_row >= max(self.params.concurrency, 8):
            raise self._down(why)
        return why

    def _down(self, why: NoAnswer) -> UserError:
        return UserError(
            f"{self.where}: the server doesn't answer: {why}. Start it again, or wait, and go on with this "
            "run (--params run_id=RUN), which keeps what is finished."
        )

    def _refused_key(self, error: APIStatusError) -> UserError:
        # Without the server's words: some repeat parts of the key.
        name = self.params.api_key_variable
        problem = (
            f"the server refuses the key in the environment variable {name}"
            if self._key
            else f"the server wants a key, and {name} holds none"
        )
        return UserError(
            f"{self.where}: {problem} (HTTP {error.status_code}). Set {name} to a key for this model, or "
            "name another variable in api_key_variable."
        )

    def _options(self, timeout: float) -> dict[str, Any]:
        # A server without keys ignores this one; the client wants some.
        return {
            "api_key": self._key or "none",
            "base_url": self.params.url,
            "timeout": Timeout(timeout, connect=min(timeout, _CONNECT)),
        }

    def _pause(self, troubles: int) -> float:
        return min(self.first_pause * 2**troubles, _LONGEST_PAUSE) * _jitter.uniform(0.5, 1)

    def _why(self, error: APIStatusError) -> str:
        said = error.body.get("message") or error.body if isinstance(error.body, dict) else error.body
        return f"HTTP {error.status_code}" + (f": {one_line(str(said), self._key)}" if said else "")
