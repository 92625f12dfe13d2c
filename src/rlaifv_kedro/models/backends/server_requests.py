"""Requests to an OpenAI-compatible server: many at once, sent again after troubles that pass, counted."""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from openai import APIStatusError, AsyncOpenAI

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.models.backends.own_loop import in_own_loop
from rlaifv_kedro.models.backends.server_bodies import Body
from rlaifv_kedro.models.backends.server_connection import Connection
from rlaifv_kedro.models.backends.server_replies import (
    Account,
    ModelNames,
    NoAnswer,
    PassingTrouble,
    Reply,
    is_content_filter,
    one_line,
    passes,
    retry_after,
    words_of,
)
from rlaifv_kedro.params import OpenAIParams

log = logging.getLogger(__name__)

Result = TypeVar("Result")
RetryRefused = Callable[[Body, NoAnswer], bool]
OnOutcome = Callable[[int, Result | NoAnswer], None]

SECONDS_BETWEEN_REPORTS = 60.0
LONGEST_RETRY_AFTER = 120.0
"""Seconds that a server may have its client wait for a try, as the openai client has it."""
MOST_REFUSED = 256
"""Refused items in a row: more than the questions about one picture, which may be what a server refuses."""
_LONGEST_PAUSE = 60.0  # seconds, of our own
_ALL_REFUSED = {402, 404}  # no money, no such model or path: the same for every item
_NOT_READY = {502, 503, 504}
_TRIES_OF_A_CHECK = 3
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
        self.connection = Connection(params)
        self.where = self.connection.where
        self._failures_in_a_row, self._refused_in_a_row = 0, 0
        self._reported, self._next_turn, self._said_longest = time.monotonic(), 0.0, False

    def check(self) -> None:
        """Ask for the list of models, before any work; a server that has none gets a warning.

        Raises:
            UserError: There is no server, it refuses the key, or it doesn't serve the model.
        """
        no_list = "%s: can't check that the model is served, there is no list of models (%s)"
        try:
            names = ModelNames.read(in_own_loop(self._list))
        except PassingTrouble as trouble:
            raise UserError(
                f"{self.where}: no answer ({trouble}). Start the server, or correct url under "
                "models.<role> (the address up to /v1)."
            ) from trouble
        except APIStatusError as error:
            if error.status_code in _NOT_READY:
                raise UserError(
                    f"{self.where}: the server isn't ready ({words_of(error)}). Try again when it is."
                ) from None
            log.warning(no_list, self.where, words_of(error))
        except ValueError:
            log.warning(no_list, self.where, "something else came")
        else:
            if self.params.model not in names:
                known = one_line(", ".join(names[:10]))
                more = f" and {len(names) - 10} more" if len(names) > 10 else ""
                raise UserError(
                    f"{self.where}: the server has no such model. Choose one of its own in model under "
                    f"models.<role>: {known}{more}."
                )

    async def _list(self) -> bytes:
        """The list of models, as it comes."""
        timeout = min(self.params.timeout, 30)
        async with self.connection.client(timeout) as client:
            for troubles in range(_TRIES_OF_A_CHECK - 1):
                try:
                    return await self.connection.content(client.models.with_raw_response.list, timeout)
                except (PassingTrouble, APIStatusError) as error:
                    if isinstance(error, APIStatusError) and not passes(error):
                        raise
                await asyncio.sleep(self._pause(troubles))
            return await self.connection.content(client.models.with_raw_response.list, timeout)

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
            UserError: The server refuses the key or the model, or sends requests on; it has answered none of
                the last requests after all retries; or it has refused very many in a row.
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

        async with self.connection.client(self.params.timeout) as client:
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
                await asyncio.sleep(self._pause(troubles) + self._asked_pause(trouble))
                troubles += 1
            except NoAnswer as refusal:
                self._failures_in_a_row = 0
                if retry_refused is None or not retry_refused(sent, refusal):
                    return self._refused(refusal)
            else:
                self._failures_in_a_row = self._refused_in_a_row = 0
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
        def request() -> Awaitable[Any]:
            return client.chat.completions.with_raw_response.create(model=self.params.model, **body)

        content = b""
        try:
            content = await self.connection.content(request, self.params.timeout)
            reply = Reply.read(content)
        except APIStatusError as error:
            raise self._of_status(error) from None
        except ValueError:
            raise PassingTrouble(
                f"the reply is no chat completion: {one_line(content[:10_000].decode(errors='replace'))}"
            ) from None
        if reply.usage:
            self.account.prompt_tokens += reply.usage.prompt_tokens
            self.account.completion_tokens += reply.usage.completion_tokens
        self._count_model(reply.model or "")
        return reply

    def _of_status(self, error: APIStatusError) -> Exception:
        """What a status other than 200 means for the item, or for all of them."""
        if is_content_filter(error.status_code, error.body):
            return NoAnswer(f"refused: content filter (HTTP {error.status_code})")
        if error.status_code in _ALL_REFUSED:
            return UserError(
                f"{self.where}: {words_of(error)}. Correct url (the address up to /v1) or model under "
                "models.<role>, or the account there."
            )
        if passes(error):
            return PassingTrouble(words_of(error), retry_after(error.response.headers.get("retry-after")))
        return NoAnswer(words_of(error))

    def _count_model(self, name: str) -> None:
        self.account.models[name] += 1
        if name != self.params.model and self.account.models[name] == 1:
            said = one_line(name) or "a model without a name"
            log.warning("%s: the server says that %s answers", self.where, said)

    def _refused(self, refusal: NoAnswer) -> NoAnswer:
        """Count a refusal; after very many in a row it is the server that is to be mended."""
        self.account.failed += 1
        self._refused_in_a_row += 1
        if self._refused_in_a_row >= MOST_REFUSED:
            raise UserError(
                f"{self.where}: the server has refused {self._refused_in_a_row} items in a row, the last: "
                f"{refusal}. Mend that at the server, or under models.<role>, and go on with this run "
                "(--params run_id=RUN), which keeps what is finished."
            )
        return refusal

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

    def _pause(self, troubles: int) -> float:
        return min(self.first_pause * 2**troubles, _LONGEST_PAUSE) * _jitter.uniform(0.5, 1)

    def _asked_pause(self, trouble: PassingTrouble) -> float:
        """Seconds that the server asks to wait, as far as it may."""
        if trouble.retry_after > LONGEST_RETRY_AFTER and not self._said_longest:
            self._said_longest = True
            log.warning(
                "%s: the server asks to wait %s s (Retry-After); it is asked again after %.0f s, the longest "
                "pause, up to %d times",
                self.where,
                f"{trouble.retry_after:,.0f}",
                LONGEST_RETRY_AFTER,
                self.params.retries,
            )
        return min(trouble.retry_after, LONGEST_RETRY_AFTER)
