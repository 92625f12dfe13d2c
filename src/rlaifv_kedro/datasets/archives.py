"""Zip archives from elsewhere: members that are files of a bounded size; nothing is unpacked to the disk."""

import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from typing import IO

from rlaifv_kedro.doors import open_regular
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import shown
from rlaifv_kedro.formats import shortened

_ENCRYPTED = 0x1  # APPNOTE.TXT 6.3.10, 4.4.4
_NAME = 100  # characters of a member's name in a message


class _MemberError(Exception):
    """Why a member isn't read."""


@contextmanager
def open_archive(path: str | PathLike) -> Iterator[zipfile.ZipFile]:
    """Opens an archive.

    Raises:
        OSError: It can't be opened, or is no regular file.
        zipfile.BadZipFile: It is no archive.
        UserError: :func:`open_member` has refused a member.
    """
    with open_regular(path) as file, zipfile.ZipFile(file) as archive:
        try:
            yield archive
        except _MemberError as error:
            raise UserError(
                f"{shown(path)}: {error}. Where you trust the archive, unpack it yourself, and name the "
                "folder in the catalog's `filepath`."
            ) from error


def open_member(archive: zipfile.ZipFile, name: str, most: int) -> IO[bytes]:
    """Opens a member that is a file of at most so many bytes; zipfile reads no more than it claims to have.

    It is refused, with a message of :func:`open_archive`, where it is encrypted, a link, a device, or larger.
    """
    member = archive.getinfo(name)
    kind = stat.S_IFMT(member.external_attr >> 16)  # 0 where the archive was made without one
    fault = None
    if member.flag_bits & _ENCRYPTED:
        fault = "is encrypted"
    elif kind not in (0, stat.S_IFREG):
        fault = "is a link or a device, not a file"
    elif member.file_size > most:
        fault = f"has {member.file_size:,} bytes unpacked, more than {most:,}"
    if fault:
        raise _MemberError(f"its member {shortened(repr(name)[1:-1], _NAME)} {fault}")
    return archive.open(member)
