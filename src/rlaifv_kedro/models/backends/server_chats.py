"""OpenAI-compatible servers: what every request to them is, and what is asked before any work."""

import asyncio
import logging
from collections.abc import Awaitable
from typing import Any

from openai import APIStatusError, AsyncOpenAI

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.models.backends.own_loop import in_own_loop
from rlaifv_kedro.models.backends.server_bodies import Body
from rlaifv_kedro.models.backends.server_connection import Connection
from rlaifv_kedro.models.backends.server_places import NamedPlaces
from rlaifv_kedro.models.backends.server_replies import (
    Account,
    ModelNames,
    PassingTrouble,
    Reply,
    one_line,
    passes,
    shown_address,
    words_of,
)
from rlaifv_kedro.models.backends.server_requests import Requests
from rlaifv_kedro.params import OpenAIParams

log = logging.getLogger(__name__)

_NOT_READY = {502, 503, 504}
_TRIES_OF_A_CHECK = 3


class ChatServers(Requests[Reply]):
    """One model on one or several OpenAI-compatible servers.

    Args:
        params: See :class:`rlaifv_kedro.params.OpenAIParams`.
        first_pause: See :class:`rlaifv_kedro.models.backends.server_requests.Requests`.

    Raises:
        UserError: The environment variable holds no possible key.
    """

    kind = "chat completion"
    not_there = "Correct url (the address up to /v1) or model under models.<role>, or the account there."
    params: OpenAIParams

    def __init__(self, params: OpenAIParams, first_pause: float):
        account = Account(params.price_input, params.price_output)
        places = NamedPlaces(params.urls)
        super().__init__(
            params, Connection.of(params), places, first_pause, account, params.requests_per_minute
        )

    def send(self, client: AsyncOpenAI, body: Body) -> Awaitable[Any]:
        """Send a request for a chat completion, without the model's name in the body."""
        return client.chat.completions.with_raw_response.create(model=self.params.model, **body)

    def read(self, content: bytes) -> Reply:
        """Read a chat completion.

        Raises:
            ValueError: It is none.
        """
        reply = Reply.read(content)
        self._count_model(reply.model or "")
        return reply

    def check(self) -> None:
        """Ask every server for its list of models, before any work; one that has none gets a warning.

        Raises:
            UserError: There is no server at an address, it refuses the key, or it doesn't serve the model.
        """
        for url in self.params.urls:
            self._check(url)

    def _check(self, url: str) -> None:
        no_list = "%s: can't check that the model is served, there is no list of models (%s)"
        where = f"{self.params.model} at {shown_address(url)}"
        try:
            names = ModelNames.read(in_own_loop(lambda: self._list(url)))
        except PassingTrouble as trouble:
            raise UserError(
                f"{where}: no answer ({trouble}). Start the server, or correct url under "
                "models.<role> (the address up to /v1)."
            ) from trouble
        except APIStatusError as error:
            if error.status_code in _NOT_READY:
                raise UserError(
                    f"{where}: the server isn't ready ({words_of(error)}). Try again when it is."
                ) from None
            log.warning(no_list, where, words_of(error))
        except ValueError:
            log.warning(no_list, where, "something else came")
        else:
            if self.params.model not in names:
                known = one_line(", ".join(names[:10]))
                more = f" and {len(names) - 10} more" if len(names) > 10 else ""
                raise UserError(
                    f"{where}: the server has no such model. Choose one of its own in model under "
                    f"models.<role>: {known}{more}."
                )

    async def _list(self, url: str) -> bytes:
        """The list of models, as it comes."""
        timeout = min(self.params.timeout, 30)
        async with self.connection.client(timeout) as any_client:
            client = any_client.with_options(base_url=url)
            for troubles in range(_TRIES_OF_A_CHECK - 1):
                try:
                    return await self.connection.content(client.models.with_raw_response.list, timeout)
                except (PassingTrouble, APIStatusError) as error:
                    if isinstance(error, APIStatusError) and not passes(error):
                        raise
                await asyncio.sleep(self._pause(troubles))
            return await self.connection.content(client.models.with_raw_response.list, timeout)

    def _count_model(self, name: str) -> None:
        self.account.models[name] += 1
        if name != self.params.model and self.account.models[name] == 1:
            said = one_line(name) or "a model without a name"
            log.warning("%s: the server says that %s answers", self.where, said)
