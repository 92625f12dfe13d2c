"""File operations of this process that end it, or that fail, at the n-th of them: kills and full disks at
exactly the moments that a clock hits by luck.

What libraries write without Python's own functions (SQLite, safetensors, torch) isn't counted.
"""

import builtins
import errno
import io
import os
import signal
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

WHENS = ("before", "after", "torn", "power")
FAILURES = {"full": errno.ENOSPC, "quota": errno.EDQUOT, "broken": errno.EIO}
OPERATIONS = ("open", "fsync", "replace", "rename", "unlink", "remove", "mkdir", "rmdir", "link", "truncate")
ROOM = ("open", "fsync", "mkdir", "link")
"""Operations that take room on the disk."""


_TRUNCATE = os.truncate


class Operations:
    """Counts this process's operations on files below a folder, and acts at one of them.

    Args:
        below: The folder.
        at: Which operation, from 1; 0 counts alone.
        act: ``before``, ``after``: this process is killed (``SIGKILL``) just before or after the operation;
            ``torn``: the same as ``before``, and of a file that was to be synced only the first half is there;
            ``power``: the same as ``before``, and files that this process has not synced since they were
            written are empty, as after a power cut;
            ``full``, ``quota``, ``broken``: from then on the disk takes nothing any more.
        only: Names of operations that are counted.
        on_count: Gets the number of each operation, for those who only count.
    """

    def __init__(
        self,
        below: Path,
        at: int = 0,
        act: str = "before",
        only: Collection[str] = OPERATIONS,
        on_count: Callable[[int], object] = lambda number: None,
    ) -> None:
        self.below, self.at, self.act, self.only = os.path.realpath(below), at, act, only
        self.on_count, self.count, self.lock = on_count, 0, threading.Lock()
        self.began, self.synced = time.time(), {}

    def install(self) -> None:
        """Takes the place of the operations in this process, for good."""
        for name in OPERATIONS:
            if name != "open":
                setattr(os, name, self._counted(name, getattr(os, name)))
        os.open = self._counted("open", os.open)
        builtins.open = io.open = self._counted("open", io.open)

    def _counted(self, name: str, operation: Callable) -> Callable:
        def counted(*args: Any, **options: Any) -> Any:
            path = _path_of(args[0], options.get("dir_fd", options.get("src_dir_fd")))
            if not self._counts(name, path, args, options):
                return operation(*args, **options)
            number = self._next(name)
            if self.act in FAILURES and 0 < self.at <= number and name in ROOM:
                code = FAILURES[self.act]
                raise OSError(code, os.strerror(code), path)
            if number == self.at and self.act in WHENS:
                if self.act == "after":
                    operation(*args, **options)
                if self.act == "torn" and name == "fsync" and os.path.isfile(path):
                    _TRUNCATE(path, os.path.getsize(path) // 2)
                if self.act == "power":
                    self._lose_what_was_not_synced()
                os.kill(os.getpid(), signal.SIGKILL)
            result = operation(*args, **options)
            if name == "fsync":
                stat = os.fstat(args[0])
                self.synced[stat.st_ino] = stat.st_mtime_ns
            return result

        return counted

    def _lose_what_was_not_synced(self) -> None:
        for path in Path(self.below).rglob("*"):
            if path.is_file() and ".sqlite" not in path.name:  # SQLite syncs without us
                stat = path.stat()
                if stat.st_mtime >= self.began and self.synced.get(stat.st_ino) != stat.st_mtime_ns:
                    _TRUNCATE(path, 0)

    def _counts(self, name: str, path: str, args: tuple, options: dict) -> bool:
        if name not in self.only or not path.startswith(self.below + os.sep):
            return False
        return name != "open" or _writes(args, options)

    def _next(self, name: str) -> int:
        with self.lock:
            self.count += 1
            self.on_count(self.count)
            return self.count


def _path_of(target: Any, folder: int | None) -> str:
    """The absolute path that an operation works on; of a file that is open, where it was opened."""
    if isinstance(target, int):
        return _opened(target)
    path = os.fsdecode(target)
    return os.path.join(_opened(folder) if folder is not None else os.getcwd(), path)


def _opened(handle: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{handle}")
    except OSError:
        return ""


def _writes(args: tuple, options: dict) -> bool:
    """Whether a file is opened for writing, by ``open`` or by ``os.open``."""
    mode = args[1] if len(args) > 1 else options.get("mode", options.get("flags", "r"))
    if isinstance(mode, int):
        return bool(mode & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    return any(letter in mode for letter in "wax+")
