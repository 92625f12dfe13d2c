"""A small OpenAI-compatible server on this machine, which can be told to misbehave. Tests talk to it over
real HTTP.
"""

import gzip
import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Body = dict[str, Any]
Fault = Callable[["Handler"], None]


class ChatServer:
    """Answers each chat with :func:`text_for` it, or as ``reply`` says.

    Args:
        models: What ``GET /v1/models`` lists, or the HTTP status it has instead.
        key: The key it wants, if any.
        fault: What goes wrong with a request, given its body and how often the same body came before; None to
            answer.
        reply: The JSON of a reply to a body.
        delay: Seconds before a reply.
        list_fault: What goes wrong with the list of models, if anything.
        path: Where requests are taken.

    Attributes:
        bodies: Of all chat requests, in the order they came.
        keys: What came in the Authorization header.
        answered: How often each body was answered, by :func:`key_of` it.
        faults: How many faults there were.
        most_at_once: Requests under way at the same time, at most.
    """

    def __init__(
        self,
        models: Sequence[str] | int = ("tiny",),
        key: str | None = None,
        fault: Callable[[Body, int], Fault | None] = lambda body, before: None,
        reply: Callable[[Body], Any] | None = None,
        delay: float = 0.0,
        list_fault: Fault | None = None,
        path: str = "/v1/chat/completions",
    ):
        self.models, self.key, self.fault, self.reply, self.delay = (
            models,
            key,
            fault,
            reply or (lambda body: completion(text_for(body))),
            delay,
        )
        self.list_fault, self.path = list_fault, path
        self.bodies: list[Body] = []
        self.keys: set[str | None] = set()
        self.answered: Counter[str] = Counter()
        self.faults = self.most_at_once = self.at_once = 0
        self.came: Counter[str] = Counter()
        self.lock, self.stopping = threading.Lock(), threading.Event()

    def __enter__(self) -> "ChatServer":
        self.http = _Http(("127.0.0.1", 0), Handler)
        self.http.chat = self
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()

    @property
    def url(self) -> str:
        return f"{self.root}/v1"

    @property
    def root(self) -> str:
        """The address without a path."""
        return f"http://127.0.0.1:{self.http.server_port}"


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256
    chat: ChatServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the tests."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Http

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        chat = self.server.chat
        if self._allowed():
            if chat.list_fault:
                chat.list_fault(self)
            elif self.path != "/v1/models" or isinstance(chat.models, int):
                self.send(chat.models if isinstance(chat.models, int) else 404, error("Not Found"))
            else:
                self.send(
                    200, {"object": "list", "data": [{"id": name, "object": "model"} for name in chat.models]}
                )

    def do_POST(self) -> None:
        chat = self.server.chat
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self._allowed():
            return
        if self.path != chat.path:
            self.send(404, error("Not Found"))
            return
        key = key_of(body)
        with chat.lock:
            chat.bodies.append(body)
            before = chat.came[key]
            chat.came[key] += 1
            chat.at_once += 1
            chat.most_at_once = max(chat.most_at_once, chat.at_once)
        try:
            time.sleep(chat.delay)
            fault = chat.fault(body, before)
        finally:
            with chat.lock:
                chat.at_once -= 1
        if fault:
            with chat.lock:
                chat.faults += 1
            fault(self)
        else:
            with chat.lock:
                chat.answered[key] += 1
            self.send(200, chat.reply(body))

    def send(
        self, status: int, content: Any, headers: dict[str, str] | None = None, length: int | None = None
    ) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(length or len(data)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def _allowed(self) -> bool:
        chat, given = self.server.chat, self.headers["Authorization"]
        chat.keys.add(given)
        if chat.key is None or given == f"Bearer {chat.key}":
            return True
        self.send(401, error(f"Incorrect API key provided: {given}"))
        return False


def status(code: int, message: str = "sorry", headers: dict[str, str] | None = None) -> Fault:
    return lambda handler: handler.send(code, error(message), headers)


def raw(content: bytes, headers: dict[str, str] | None = None) -> Fault:
    """An HTTP 200 with this body."""
    return lambda handler: handler.send(200, content, headers)


def cut(handler: Handler) -> None:
    """The connection ends in the middle of the reply."""
    data = json.dumps(completion("half of it")).encode()
    handler.send(200, data[: len(data) // 2], length=len(data))
    handler.close_connection = True


def hang(handler: Handler) -> None:
    """No reply until the server stops."""
    handler.server.chat.stopping.wait()
    handler.close_connection = True


def endless(handler: Handler) -> None:
    """A reply that never ends, as fast as it is read."""
    handler.send(200, b"{" + b" " * 1000, length=10**15)
    _write_until_the_end(handler, b" " * 65536)


def endless_error(handler: Handler) -> None:
    """An error whose body never ends, and says not how long it is."""
    handler.wfile.write(b"HTTP/1.1 400 Bad Request\r\nTransfer-Encoding: chunked\r\n\r\n")
    _write_until_the_end(handler, b"10000\r\n" + b"x" * 65536 + b"\r\n")


def endless_headers(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    _write_until_the_end(handler, b"X-More: " + b"y" * 1000 + b"\r\n")


def endless_continues(handler: Handler) -> None:
    """Interim replies without a reply."""
    _write_until_the_end(handler, b"HTTP/1.1 100 Continue\r\n\r\n" * 100)


def drip(handler: Handler) -> None:
    """A byte now and then, so that the connection is never silent for long."""
    handler.send(200, b"{", length=10**6)
    _write_until_the_end(handler, b" ", pause=0.05)


def bomb(handler: Handler) -> None:
    """A small reply that is long once it is decompressed."""
    handler.send(200, _compressed_blanks(), {"Content-Encoding": "gzip"})


@cache
def _compressed_blanks() -> bytes:
    return gzip.compress(b" " * 10**7)


def moved(to: str, code: int = 307) -> Fault:
    """The request is to be sent to another address."""
    return lambda handler: handler.send(code, error("moved"), {"Location": to})


def _write_until_the_end(handler: Handler, content: bytes, pause: float = 0.0) -> None:
    """Write until the client hangs up, or the server stops."""
    handler.close_connection = True
    with suppress(OSError):
        while not handler.server.chat.stopping.wait(pause):
            handler.wfile.write(content)
            handler.wfile.flush()


GARBAGE = raw(b"<html>Bad gateway</html>", {"Content-Type": "text/html"})
CUT_JSON = raw(b'{"choices": [{"message": {"content": "half')
NO_CHOICES = raw(b'{"choices": [], "model": "tiny"}')
NO_CONTENT = raw(
    b'{"choices": [{"message": {"role": "assistant"}, "finish_reason": "stop"}], "model": "tiny"}'
)


def error(message: str) -> Body:
    return {"error": {"message": message, "type": "test", "param": None, "code": None}}


def completion(
    text: str | None,
    *,
    model: str = "tiny",
    finish: str = "stop",
    top: dict[str, float] | None = None,
    **message: Any,
) -> Body:
    """A chat completion. ``top``: log-probs of the likeliest first tokens, best first."""
    logprobs = None
    if top is not None:
        tokens = [{"token": token, "logprob": logprob, "bytes": None} for token, logprob in top.items()]
        logprobs = {"content": [{**tokens[0], "top_logprobs": tokens}]}
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text, **message},
        "finish_reason": finish,
        "logprobs": logprobs,
    }
    usage = {"prompt_tokens": 100, "completion_tokens": 7, "total_tokens": 107}
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [choice],
        "usage": usage,
    }


def question_of(body: Body) -> str:
    """The text of the last message."""
    content = body["messages"][-1]["content"]
    return (
        content
        if isinstance(content, str)
        else next(part["text"] for part in content if part["type"] == "text")
    )


def image_of(body: Body) -> str:
    """The URL of the last message's image."""
    return next(
        part["image_url"]["url"] for part in body["messages"][-1]["content"] if part["type"] == "image_url"
    )


def text_for(body: Body) -> str:
    """What the server says: the question again, and something that depends on all that was sent."""
    return f" {question_of(body)} {key_of(body)}\n"


def key_of(body: Body) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:12]
