"""What comes in from outside by a path or a name: regular files of a bounded size, names that stay inside.

The rules are stated here once; docs/security.md says what they keep out.
"""

import errno
import os
import re
import stat
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote

MOST_OF_SETTINGS = 16 * 2**20
"""Bytes of a file that a person writes: a prompt, a template, prices, parameters."""
MOST_OF_A_DOCUMENT = 2 * 2**30
"""Bytes of a file that is read whole: JSON, answers to score. Object HalBench, the largest of those that are
published, has 30 MB.
"""
MOST_OF_A_PICTURE = 256 * 2**20
"""Bytes of a picture's file: what 89 megapixels take without compression. A photograph has some 10 MB."""
_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}
_LONGEST = 200  # bytes of a part of a path; file systems allow 255, and a download adds some
_WINDOWS = {"CON", "PRN", "AUX", "NUL", *(f"{name}{i}" for name in ("COM", "LPT") for i in range(1, 10))}
_DECODINGS = 3  # of %25252f; what is still encoded then is refused


class NotRegularError(OSError):
    """A path that is no regular file, or one that is too large."""

    def __str__(self) -> str:
        return self.strerror


class OutsideError(ValueError):
    """A name that means no file inside its folder; the text says why, in a few words."""


def open_regular(path: str | os.PathLike, most: int | None = None) -> BinaryIO:
    """Opens a file to read, if it is a regular one; a pipe would wait for ever, a device may have no end.

    Args:
        path: May be a link to such a file.
        most: Bytes that it may have; None for any number.

    Raises:
        OSError: It can't be opened. :class:`NotRegularError`: it is no regular file, or is larger.
        ValueError: The path holds NUL.
    """
    # Without O_NONBLOCK the opening itself would wait for a pipe's other end.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            kind = _KINDS.get(stat.S_IFMT(found.st_mode), "something else")
            raise NotRegularError(errno.EINVAL, f"it is {kind}, not a regular file", os.fspath(path))
        if most is not None and found.st_size > most:
            raise NotRegularError(
                errno.EINVAL, f"it has {found.st_size:,} bytes, more than {most:,}", os.fspath(path)
            )
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def regular_bytes(path: str | os.PathLike, most: int | None) -> bytes:
    """The content of a regular file; see :func:`open_regular`."""
    with open_regular(path, most) as file:
        return file.read()


def refuse_special(path: str | os.PathLike) -> None:
    """Refuses pipes, devices, sockets and folders, before a library opens the path itself.

    Raises:
        OSError: See :func:`open_regular`; also where there is nothing.
    """
    open_regular(path).close()


def reason_of(error: Exception) -> str:
    """What the operating system, or :func:`open_regular`, says of a file, without the file's name."""
    return getattr(error, "strerror", None) or str(error)


def path_inside(folder: Path, name: Any, own: bool = False) -> Path:
    """The resolved path of what a name from outside means in a folder.

    Args:
        folder: Where it has to lie.
        name: As it came: of a table, an archive, a server, a marker.
        own: The folder is the user's own, who may have put links there that lead to other disks. They count
            as inside then. Not so where a program unpacked or fetched the content.

    Raises:
        OutsideError: It is no relative path that every system can hold, or leads out of the folder, as it
            stands or by a link.
    """
    refuse_odd_name(name)
    path = Path(os.path.abspath(folder), name)
    if own:
        return path
    real = path.resolve()
    if not real.is_relative_to(folder.resolve()):
        raise OutsideError("a link leads it out of its folder")
    return real


def lies_in(folder: Path, name: str) -> bool:
    """Whether a name, as it is written, is that of a file below a folder; links there count as inside."""
    root = os.path.abspath(folder)
    return os.path.abspath(os.path.join(root, name)).startswith(os.path.join(root, ""))


def refuse_odd_name(name: Any) -> None:
    """Refuses a name that is no path below a folder, on any system and however often it is decoded.

    Raises:
        OutsideError: It is absolute, has ``..``, a drive, a backslash, a control character, a part that is
            hidden, reserved, empty or too long; or hides such a thing behind ``%``.
    """
    if not isinstance(name, str):
        raise OutsideError("it is no text")
    for _ in range(_DECODINGS):
        if why := _fault_of(name):
            raise OutsideError(why)
        decoded = unquote(name, errors="surrogateescape")
        if decoded == name:
            return
        if decoded.count("/") != name.count("/"):
            raise OutsideError("it hides a separator behind %")
        name = decoded
    raise OutsideError("it is encoded again and again")


def _fault_of(name: str) -> str | None:
    if name.startswith("/"):
        return "it is an absolute path"
    if re.search(r'[\x00-\x1f\x7f\\:*?"<>|]', name):
        return "it has a character that not every system allows in a name"
    return next(filter(None, map(_fault_of_part, name.split("/"))), None)


def _fault_of_part(part: str) -> str | None:
    if part == "..":
        return "it leads out of its folder"
    if not part or part.startswith(".") or part.endswith((".", " ")):
        return "a part of it is empty, hidden, or ends with a dot or blank"
    if part.split(".")[0].rstrip().upper() in _WINDOWS:
        return f"{part} is a device of Windows"
    try:
        too_long = len(part.encode()) > _LONGEST
    except UnicodeEncodeError:
        return "it has half of a character"
    return "a part of it is too long" if too_long else None
