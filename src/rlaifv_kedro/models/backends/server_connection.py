"""The connection to a model's servers, which may send anything.

A reply has so many bytes and so much time, it isn't decompressed, and no redirect is followed: pictures,
prompts and the key go to the address that is named, and nowhere else.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import urljoin

import httpx2  # the openai client's own library, in whose terms it lets its connection be set
from openai import APIConnectionError, APIStatusError, APITimeoutError, AsyncOpenAI, DefaultAsyncHttpxClient

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.models.backends.server_replies import (
    PassingTrouble,
    cause_of,
    is_content_filter,
    one_line,
    shown_address,
)
from rlaifv_kedro.params import OpenAIParams
from rlaifv_kedro.redaction import keep_out

MOST_BYTES = 8 << 20
"""Of a reply: 100,000 tokens of ten characters, each written as an escape of six, are 6 MB."""
_CONNECT = 10.0  # seconds
_KEY_REFUSED = {401, 403}
_NO_ADDRESS = "http://none.invalid"


class Connection:
    """How the servers of one model are reached.

    Args:
        where: Model and addresses, as messages name them.
        key: For them all; empty where they want none.
        variable: Environment variable that the key is from.
        proxies: Whether the environment's proxies are used.
    """

    def __init__(self, where: str, key: str, variable: str, proxies: bool = True):
        self.where, self._key, self._variable, self._proxies = where, key, variable, proxies

    @classmethod
    def of(cls, params: OpenAIParams) -> "Connection":
        """To the servers that parameters name.

        Raises:
            UserError: The environment variable holds no possible key.
        """
        key = os.environ.get(params.api_key_variable, "").strip()
        keep_out({"key": key})
        if not (key.isascii() and key.isprintable()):
            raise UserError(
                f"The environment variable {params.api_key_variable} holds characters that no key has. Set "
                "it again."
            )
        addresses = " and ".join(map(shown_address, params.urls))
        return cls(f"{params.model} at {addresses}", key, params.api_key_variable)

    def client(self, timeout: float) -> AsyncOpenAI:
        """A client that sends nothing twice and follows nothing.

        It has no address: ``with_options(base_url=...)`` gives one for a server, with the same connections.

        Args:
            timeout: Seconds without a byte; :meth:`content` bounds the whole.
        """
        seconds = httpx2.Timeout(timeout, connect=min(timeout, _CONNECT))
        http = DefaultAsyncHttpxClient(
            timeout=seconds,
            follow_redirects=False,
            event_hooks={"response": [_bound]},
            trust_env=self._proxies,
        )
        return AsyncOpenAI(
            api_key=self._key or "none",  # a server without keys ignores it; the client wants some
            base_url=_NO_ADDRESS,
            timeout=seconds,
            max_retries=0,
            default_headers={"Accept-Encoding": "identity"},
            http_client=http,
        )

    async def content(self, request: Callable[[], Awaitable[Any]], timeout: float) -> bytes:
        """The body of a reply.

        Args:
            request: Sends it by the client's ``with_raw_response``.
            timeout: Seconds for the whole reply.

        Raises:
            PassingTrouble: Nothing came, not all of it in time, or too much.
            UserError: The server refuses the key, or sends the request on to another address.
            APIStatusError: It has another status than 200.
        """
        try:
            # The client's own timeout starts anew with every byte.
            async with asyncio.timeout(timeout):
                return (await request()).content
        except TimeoutError:
            raise PassingTrouble(f"no reply within {timeout:g} s") from None
        except APIConnectionError as error:
            there = isinstance(error, APITimeoutError) or isinstance(error.__cause__, _Refused)
            raise PassingTrouble(f"no reply: {one_line(cause_of(error))}", disconnected=not there) from None
        except APIStatusError as error:
            if 300 <= error.status_code < 400:
                raise self._sent_on(error) from None
            if error.status_code in _KEY_REFUSED and not is_content_filter(error.status_code, error.body):
                raise self._refused_key(error) from None
            raise

    def _sent_on(self, error: APIStatusError) -> UserError:
        to = error.response.headers.get("Location")
        try:
            address = shown_address(urljoin(str(error.request.url), to)) if to else "another address"
        except ValueError:  # "http://[::1"
            address = "another address"
        return UserError(
            f"{self.where}: the server sends requests on to {one_line(address)} (HTTP {error.status_code}). "
            "Pictures, prompts and keys are sent to no address but the one that is named. If you trust that "
            "one, name it in url under models.<role> (the address up to /v1)."
        )

    def _refused_key(self, error: APIStatusError) -> UserError:
        # Without the server's words: some repeat parts of the key.
        name = self._variable
        problem = (
            f"the server refuses the key in the environment variable {name}"
            if self._key
            else f"the server wants a key, and {name} holds none"
        )
        return UserError(
            f"{self.where}: {problem} (HTTP {error.status_code}). Set {name} to a key for this model, or "
            "name another variable in api_key_variable."
        )


class _Refused(httpx2.TransportError):
    """What the server sends is not taken."""


class _Bounded(httpx2.AsyncByteStream):
    """A body that is read to so many bytes."""

    def __init__(self, body: httpx2.AsyncByteStream):
        self.body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        count = 0
        async for part in self.body:
            count += len(part)
            if count > MOST_BYTES:
                raise _Refused(f"what the server sends is longer than {MOST_BYTES >> 20} MiB")
            yield part

    async def aclose(self) -> None:
        await self.body.aclose()


async def _bound(response: httpx2.Response) -> None:
    """Have no more read of a reply than there should be; its headers have a bound of the library's."""
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding.strip().lower() != "identity":
        raise _Refused(f"what the server sends is compressed ({encoding}), which was not asked for")
    response.encoding = "utf-8"  # whatever the server names: Python knows encodings that decompress
    response.stream = _Bounded(response.stream)
