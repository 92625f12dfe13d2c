"""The replies of a judge, kept for good: what has been answered is never asked again, by no run."""

import hashlib
import json
import logging
import os
import re
import sqlite3
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import shown, writing

log = logging.getLogger(__name__)

_PATIENCE = 60.0  # seconds that a read or a write waits for another process's write
# Generic errors, too: all statements are ours, so it is a table that has changed.
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)


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

    def checksum(self) -> str:
        """The sha256 over all fields; it is stored beside them, so that a damaged reply is noticed."""
        return _sha256(json.dumps(list(self.model_dump().values())))


_FIELDS = tuple(StoredReply.model_fields)
_CREATE = f"CREATE TABLE IF NOT EXISTS replies ({', '.join(_FIELDS)}, checksum, PRIMARY KEY (key))"
_VALUES = f"INTO replies VALUES ({', '.join('?' * (len(_FIELDS) + 1))})"
_ADD, _ADD_NEW = f"REPLACE {_VALUES}", f"INSERT OR IGNORE {_VALUES}"
_SELECT = f"SELECT {', '.join(_FIELDS)}, checksum FROM replies WHERE key = ?"


class ReplyStore:
    """One judge's replies in a SQLite database, each on the disk before :meth:`add` returns.

    The journal is SQLite's default one, a file beside the database while a reply is written: it works on
    network file systems, as the faster write-ahead log doesn't. A kill loses the reply that was being
    written, at most. A reply whose checksum doesn't fit is passed over with a warning, and asked for again.

    Args:
        folder: Of all judges' files; it is made if need be.
        asked_model: What the judge is asked for by, see
            :func:`rlaifv_kedro.benchmarks.judging.judge.asked_model`.

    Raises:
        UserError: The folder can't be written, or the database is damaged.
    """

    def __init__(self, folder: Path, asked_model: str):
        slug = re.sub(r"[^\w.-]+", "_", asked_model)[-60:].strip("._")
        self.asked_model = asked_model
        self.path = folder / f"{slug}-{_sha256(asked_model)[:8]}.sqlite"
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with self._user_errors():
            # Replies come in the thread of the requests, one at a time.
            self._database = sqlite3.connect(
                self.path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False
            )
            weakref.finalize(self, self._database.close)
            self._database.text_factory = lambda content: content.decode(errors="replace")
            self._database.execute("PRAGMA synchronous = EXTRA")  # a power cut loses no reply either
            self._database.execute(_CREATE)
            (state,) = self._database.execute("PRAGMA integrity_check(1)").fetchone()
        if state != "ok":
            raise self._damaged(state)
        if self._old_path.exists():
            self._take_over()

    def __len__(self) -> int:
        with self._user_errors():
            return self._database.execute("SELECT count(*) FROM replies").fetchone()[0]

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
        """The reply, if there is one.

        Raises:
            UserError: The database is damaged.
        """
        key = self.key(attempt)
        with self._user_errors():
            row = self._database.execute(_SELECT, (key,)).fetchone()
        if row is None:
            return None
        try:
            reply = StoredReply(**dict(zip(_FIELDS, row)))
        except ValidationError:
            reply = None
        if reply is None or reply.key != key or reply.checksum() != row[-1]:
            log.warning(
                "%s: passed over a damaged reply, and it will be asked for again: key %s",
                shown(self.path),
                key,
            )
            return None
        return reply

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Waits until no other process asks this judge, and keeps others from it meanwhile.

        So no process asks what another is just asking. Reading needs no turn, and would have to wait for
        SQLite's own lock if that were held while a judge is asked.

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
            yield
        finally:
            lock.release()

    def add(self, attempt: Attempt, **answer: object) -> None:
        """Keep a reply, on the disk before this returns.

        Args:
            answer: The rest of :class:`StoredReply`.

        Raises:
            UserError: It can't be written; the replies are as before then.
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
        with self._user_errors():
            self._database.execute(_ADD, _row(reply))

    def _take_over(self) -> None:
        """Copies the replies of an earlier version into the database.

        Its store was a file of JSON lines. That file stays, under another name.
        """
        old = self._old_path
        with self.locked(), self._user_errors(), writing(old):
            if not old.exists():  # another process was quicker
                return
            replies, damaged = {}, 0
            for line in old.read_bytes().splitlines():
                try:
                    reply = StoredReply.model_validate_json(line)
                except ValidationError:
                    damaged += 1
                else:
                    replies[reply.key] = reply
            self._database.execute("BEGIN")
            with self._database:  # commits, or rolls back
                self._database.executemany(_ADD_NEW, map(_row, replies.values()))
            kept = old.with_name(f"{old.name}.taken-over")
            os.replace(old, kept)
        log.info(
            "%s: took over %d replies of an earlier version (damaged lines: %d); its file is now %s",
            shown(self.path),
            len(replies),
            damaged,
            shown(kept),
        )

    @property
    def _old_path(self) -> Path:
        return self.path.with_suffix(".jsonl")

    @contextmanager
    def _user_errors(self) -> Iterator[None]:
        """Turns what SQLite complains of into a message."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED:
                raise self._damaged(error) from error
            raise UserError(
                f"Cannot read or write {shown(self.path)}: {error}. Check that the disk has room, that its "
                "folder may be written, and that no other process keeps the file locked; then go on with the "
                "same run_id."
            ) from error

    def _damaged(self, reason: object) -> UserError:
        return UserError(
            f"{shown(self.path)} is damaged ({reason}). Its replies may have been paid for, so they are not "
            "asked for again unbidden. Restore the file from a copy, or put in its place what "
            f"`sqlite3 {self.path.name} .recover | sqlite3 new.sqlite` gets back, or move it away, and all "
            "is asked again."
        )


def _row(reply: StoredReply) -> tuple[object, ...]:
    """The reply's values, and their checksum, in the order of the table's columns."""
    return (*reply.model_dump().values(), reply.checksum())


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
