"""Requests to the servers of a model: many at once, sent again after troubles that pass, counted."""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic, Protocol, TypeVar

from openai import APIStatusError, AsyncOpenAI

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.models.backends.own_loop import in_own_loop
from rlaifv_kedro.models.backends.server_bodies import Body
from rlaifv_kedro.models.backends.server_connection import Connection
from rlaifv_kedro.models.backends.server_places import Homes, Places
from rlaifv_kedro.models.backends.server_replies import (
    Account,
    NoAnswer,
    PassingTrouble,
    Usage,
    meaning_of,
    one_line,
)
from rlaifv_kedro.params import AskedParams

log = logging.getLogger(__name__)

SECONDS_BETWEEN_REPORTS = 60.0
LONGEST_RETRY_AFTER = 120.0
"""Seconds that a server may have its client wait for a try, as the openai client has it."""
MOST_REFUSED = 256
"""Refused items in a row: more than the questions about one picture, which may be what a server refuses."""
MOST_MOVES = 10
"""Lost connections of an item that don't count as tries; more are the item's fault, not a dead server's."""
_LONGEST_PAUSE = 60.0  # seconds, of our own
_NO_PLACE = 1.0  # seconds until the next look, when no server can be asked
_jitter = random.Random()


class AnyReply(Protocol):
    """What every kind of reply tells."""

    usage: Usage | None


Reply_ = TypeVar("Reply_", bound=AnyReply)
Result = TypeVar("Result")
RetryRefused = Callable[[Body, NoAnswer], bool]
ClientOf = Callable[[str], AsyncOpenAI]
OnOutcome = Callable[[int, Result | NoAnswer], None]
OnCount = Callable[[int, int], None]


@dataclass(frozen=True)
class _Asked:
    """The arguments of a call of :meth:`Requests.ask`."""

    bodies: Sequence[Callable[[], Body]]
    take: Callable[[Any], Any]
    retry_refused: RetryRefused | None
    on_outcome: OnOutcome[Any] | None
    on_count: OnCount | None


class Requests(Generic[Reply_]):
    """One model on one or several servers; subclasses know what is sent there, and what comes back.

    Args:
        places: Where the servers are.
        first_pause: Seconds before the second try; each further pause is twice as long, up to a minute, less
            a random part of up to a half.
        per_minute: Most requests a minute, to all servers together; None for no limit.
    """

    kind: str  # what a reply is, in words
    not_there: str  # what to do when the server knows no such path or model

    def __init__(
        self,
        params: AskedParams,
        connection: Connection,
        places: Places,
        first_pause: float,
        account: Account,
        per_minute: int | None = None,
    ):
        self.params, self.connection, self.places = params, connection, places
        self.first_pause, self.account, self._per_minute = first_pause, account, per_minute
        self.where = connection.where
        self._failures_in_a_row, self._refused_in_a_row, self._homes = 0, 0, Homes()
        self._reported, self._next_turn, self._said_longest = time.monotonic(), 0.0, False

    def send(self, client: AsyncOpenAI, body: Body) -> Awaitable[Any]:
        """Send one request; its result has the reply's bytes as ``content``."""
        raise NotImplementedError

    def read(self, content: bytes) -> Reply_:
        """Read a reply's bytes.

        Raises:
            ValueError: They are none.
        """
        raise NotImplementedError

    def ask(
        self,
        bodies: Sequence[Callable[[], Body]],
        take: Callable[[Reply_], Result],
        retry_refused: RetryRefused | None = None,
        on_outcome: OnOutcome[Result] | None = None,
        routes: Sequence[Hashable] | None = None,
        on_count: OnCount | None = None,
    ) -> list[Result | NoAnswer]:
        """Send requests, ``concurrency`` at once to each server.

        It may be called beside a running event loop.

        Args:
            bodies: Called before each try for what to send.
            take: Takes what is wanted from a reply; raises PassingTrouble or NoAnswer if it isn't there.
            retry_refused: Whether an item that was refused should be sent again.
            on_outcome: Called with the index and the outcome of an item as soon as there is one, in the
                thread of the requests.
            routes: Of each item; those of one route, such as an image, go to one server while it answers.
            on_count: Called with the index of an item and the server's count of its prompt's tokens.

        Raises:
            UserError: The server refuses the key or the model, or sends requests on; it has answered none of
                the last requests after all retries; or it has refused very many in a row.
        """
        if not bodies:
            return []
        asked = _Asked(bodies, take, retry_refused, on_outcome, on_count)
        answered = in_own_loop(lambda: self._all(asked, routes))
        if all(isinstance(a, NoAnswer) and a.disconnected for a in answered):
            raise self._down(answered[-1])
        return answered

    def report(self) -> None:
        """Log the account."""
        self._reported = time.monotonic()
        log.info("%s: %s", self.where, self.account.line())

    def assigned(self, routes: Sequence[Hashable]) -> list[int]:
        """The number of the server that each item goes to, while it answers."""
        return self._homes.assigned(routes, max(len(self.places.urls), 1))

    async def _all(self, asked: _Asked, routes: Sequence[Hashable] | None) -> list[Any]:
        answered: dict[int, Any] = {}
        places = max(len(self.places.urls), 1)
        given = [k % places for k in range(len(asked.bodies))] if routes is None else self.assigned(routes)
        todo = [[k for k, own in enumerate(given) if own == place] for place in range(max(given) + 1)]

        async def worker(client_of: ClientOf, place: int, items: Iterator[int]) -> None:
            for k in items:
                answered[k] = await self._item(client_of, place, asked, k)
                if asked.on_outcome:
                    asked.on_outcome(k, answered[k])

        async with self.connection.client(self.params.timeout) as client:
            client_of = cache(lambda url: client.with_options(base_url=url))
            workers = [
                asyncio.create_task(worker(client_of, place, items))
                for place, own in enumerate(todo)
                for items in [iter(own)] * min(self.params.concurrency, len(own))
            ]
            try:
                await asyncio.gather(*workers)
            finally:
                for task in workers:
                    task.cancel()
                await asyncio.gather(*workers, return_exceptions=True)
        return [answered[k] for k in range(len(asked.bodies))]

    async def _item(self, client_of: ClientOf, place: int, asked: _Asked, index: int) -> Any:
        self.account.requests += 1
        troubles = moves = 0
        while True:
            sent = asked.bodies[index]()
            await self._turn()
            url = await self._place(place)
            try:
                reply = await self._reply(client_of(url), sent)
                if asked.on_count and reply.usage:
                    asked.on_count(index, reply.usage.prompt_tokens)
                result = asked.take(reply)
            except PassingTrouble as trouble:
                place += 1  # the next server, if there are several
                if trouble.disconnected and moves < MOST_MOVES and self._moved(url):
                    moves += 1
                else:
                    if troubles == self.params.retries:
                        return self._no_answer_after(trouble)
                    await asyncio.sleep(self._pause(troubles) + self._asked_pause(trouble))
                    troubles += 1
            except NoAnswer as refusal:
                self._failures_in_a_row = 0
                if asked.retry_refused is None or not asked.retry_refused(sent, refusal):
                    return self._refused(refusal)
            else:
                self._failures_in_a_row = self._refused_in_a_row = 0
                if time.monotonic() - self._reported >= SECONDS_BETWEEN_REPORTS:
                    self.report()
                return result
            self.account.retries += 1

    async def _place(self, place: int) -> str:
        """The address to ask; one is waited for."""
        while not (urls := self.places.urls):
            await asyncio.sleep(_NO_PLACE)
        return urls[place % len(urls)]

    def _moved(self, url: str) -> bool:
        """Whether a server that gave no connection is not to be asked now: such a try doesn't count."""
        self.places.lost(url)
        return url not in self.places.urls

    async def _turn(self) -> None:
        """Wait until the next request may be sent: they are spread evenly over the minute."""
        if self._per_minute:
            now = time.monotonic()
            turn = max(now, self._next_turn)
            self._next_turn = turn + 60 / self._per_minute
            await asyncio.sleep(turn - now)

    async def _reply(self, client: AsyncOpenAI, body: Body) -> Reply_:
        content = b""
        try:
            content = await self.connection.content(lambda: self.send(client, body), self.params.timeout)
            reply = self.read(content)
        except APIStatusError as error:
            raise meaning_of(error, self.where, self.not_there) from None
        except ValueError:
            raise PassingTrouble(
                f"the reply is no {self.kind}: {one_line(content[:10_000].decode(errors='replace'))}"
            ) from None
        if reply.usage:
            self.account.prompt_tokens += reply.usage.prompt_tokens
            self.account.completion_tokens += reply.usage.completion_tokens
        return reply

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
