"""The replies of a judge, kept for good: what has been answered once is never asked again, in this run or
another.
"""

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

from rlaifv_kedro.files import shown, sync_folder, writing

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Attempt:
    """What is sent to a judge, once."""

    prompt: str
    temperature: float
    max_new_tokens: int
    seed: int


class StoredReply(BaseModel):
    """A reply, and what it was asked for with.

    Attributes:
        key: See :meth:`ReplyStore.key`.
        returned_model: The name that the server gave; None from a judge in this process, or from a server
            that gives none.
        finish_reason: ``stop``, or ``length`` if it was cut off.
        prompt_tokens, reply_tokens: The server's counts; None and 0 if it gives none.
        received: UTC, ISO 8601.
    """

    model_config = ConfigDict(frozen=True)

    key: str
    prompt_sha256: str
    asked_model: str
    returned_model: str | None
    temperature: float
    max_new_tokens: int
    seed: int
    reply: str
    finish_reason: str
    prompt_tokens: int | None
    reply_tokens: int
    received: str


class ReplyStore:
    """One judge's replies: a JSON object a line, in the order in which they came, each on the disk before the
    next one counts.

    A kill loses the line that was being written, at most; it is taken away before the next is added. A line
    in the middle that is no reply is passed over with a warning, and what it held is asked again.

    Args:
        folder: Of all judges' files; it is made if need be.
        asked_model: What the judge is asked for by, see
            :func:`rlaifv_kedro.benchmarks.judging.judge.asked_model`.

    Raises:
        UserError: The folder can't be written.
    """

    def __init__(self, folder: Path, asked_model: str):
        slug = re.sub(r"[^\w.-]+", "_", asked_model)[-60:].strip("._")
        self.asked_model = asked_model
        self.path = folder / f"{slug}-{_sha256(asked_model)[:8]}.jsonl"
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._replies: dict[str, StoredReply] = {}
        self._read = 0  # bytes of the file that are known
        self.refresh()

    def __len__(self) -> int:
        return len(self._replies)

    def key(self, attempt: Attempt) -> str:
        """Names a reply: the sha256 over all that it may depend on. Prompt files are part of the prompt."""
        asked = [
            self.asked_model,
            attempt.prompt,
            float(attempt.temperature),
            attempt.max_new_tokens,
            attempt.seed,
        ]
        return _sha256(json.dumps(asked))

    def get(self, attempt: Attempt) -> StoredReply | None:
        """The reply, if there is one."""
        return self._replies.get(self.key(attempt))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes from asking the same judge meanwhile, so that none asks what another is just
        asking. Waits for its turn.

        Raises:
            UserError: The lock can't be made.
        """
        lock = FileLock(self.path.with_suffix(".lock"))
        with writing(lock.lock_file):
            try:
                lock.acquire(timeout=0)
            except Timeout:
                log.info("%s: waiting for another process that asks this judge", self.asked_model)
                lock.acquire()
        try:
            self.refresh()
            if self.path.exists() and self.path.stat().st_size > self._read:  # what a kill has cut off
                with writing(self.path):
                    os.truncate(self.path, self._read)
            yield
        finally:
            lock.release()

    def refresh(self) -> None:
        """Read what other processes have added."""
        if not self.path.exists():
            return
        with open(self.path, "rb") as file:
            file.seek(self._read)
            added = file.read()
        whole = added[: added.rfind(b"\n") + 1]
        for line in whole.split(b"\n")[:-1]:
            try:
                reply = StoredReply.model_validate_json(line)
            except ValidationError:
                log.warning(
                    "%s: passed over a damaged line, and what it held will be asked again: %r",
                    shown(self.path),
                    line[:60],
                )
            else:
                self._replies[reply.key] = reply
        self._read += len(whole)

    def add(self, attempt: Attempt, **answer: object) -> None:
        """Keep a reply, on the disk before this returns. Only within :meth:`locked`.

        Args:
            answer: The rest of :class:`StoredReply`.

        Raises:
            UserError: It can't be written; the file is as before then.
        """
        reply = StoredReply(
            key=self.key(attempt),
            prompt_sha256=_sha256(attempt.prompt),
            asked_model=self.asked_model,
            temperature=attempt.temperature,
            max_new_tokens=attempt.max_new_tokens,
            seed=attempt.seed,
            **answer,
        )
        line = reply.model_dump_json().encode() + b"\n"
        with writing(self.path):
            new = not self.path.exists()
            with open(self.path, "ab", buffering=0) as file:
                try:
                    written = 0
                    while written < len(line):
                        written += file.write(line[written:])
                    os.fsync(file.fileno())
                except OSError:
                    file.truncate(self._read)
                    raise
            if new:
                sync_folder(self.path.parent)
        self._read += len(line)
        self._replies[reply.key] = reply


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
