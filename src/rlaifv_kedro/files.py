"""Files that are there whole or not at all."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from rlaifv_kedro.doors import MOST_OF_A_DOCUMENT, reason_of, regular_bytes
from rlaifv_kedro.errors import UserError

LFS_POINTER = b"version https://git-lfs"
"""How the small file begins that Git leaves in place of a large one until that is fetched."""
LFS = "a Git LFS pointer, not the file itself (git lfs pull, or hf download, gets it)"
_HALF_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]")


def shown(path: str | os.PathLike) -> str:
    """The path as a person wants to read it: relative to the working folder where that is shorter."""
    path = Path(path)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


@contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
    """Turn the operating system's complaints about writing ``path`` into a message.

    Raises:
        UserError: For any ``OSError`` inside.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"Cannot write {shown(path)}: {reason}. Check that the disk has room, that its folder may be "
            "written, and that no file is in a "
            "folder's place; then go on with the same run_id."
        ) from error


def write_atomically(path: str | os.PathLike, content: bytes) -> None:
    """Write a file so that a kill leaves the old one or the new one, never a part.

    Raises:
        UserError: The folder cannot be made or written.
    """
    with replacing_file(path) as file:
        file.write(content)


@contextmanager
def replacing_file(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Gives a file to write to, which takes the place of ``path`` when the block ends.

    So a kill leaves the old one or the new one, never a part. The content goes into a file beside the target,
    is synced to disk, and is renamed. The name of that file is fixed, so what a kill left behind is
    overwritten by the next try.

    Raises:
        UserError: The folder cannot be made or written.
    """
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.tmp")
        try:
            with open(unfinished, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)  # where it is still there, something is wrong
        sync_folder(path.parent)


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Gives the place of a new folder, which takes that of ``folder`` when the block ends.

    So a kill or a power cut leaves the old one or the new one, never a part. The new one's place has a fixed
    name, so what a kill left behind is removed by the next try.

    Raises:
        UserError: The folder cannot be made or written.
    """
    unfinished = folder.with_name(f".{folder.name}.tmp")
    with writing(folder):
        shutil.rmtree(unfinished, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        yield unfinished
        sync_tree(unfinished)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(unfinished, folder)
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename inside ``folder`` survive a power cut (POSIX only)."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sync_tree(folder: Path) -> None:
    """Make all files of a folder, and their names, survive a power cut.

    Raises:
        OSError: The disk is full or failing.
    """
    paths = [folder, *folder.rglob("*")]
    with ThreadPoolExecutor(max_workers=4) as pool:
        list(pool.map(_sync_file, [path for path in paths if path.is_file()]))
    for path in paths:
        if path.is_dir():
            sync_folder(path)


def _sync_file(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def read_bytes(path: str | os.PathLike, remedy: str, most: int | None = MOST_OF_A_DOCUMENT) -> bytes:
    """The file's content.

    Args:
        path: File to read.
        remedy: What to do where it cannot be read.
        most: Bytes that it may have; None for any number.

    Raises:
        UserError: It is missing, no regular file (a folder, a pipe, a device), too large, unreadable, empty,
            or a Git LFS pointer.
    """
    try:
        content = regular_bytes(path, most)
    except (OSError, ValueError) as error:  # the latter: NUL in the path
        raise UserError(f"Cannot read {shown(path)}: {reason_of(error)}. {remedy}") from error
    if not content:
        raise UserError(f"{shown(path)} is empty (0 bytes). {remedy}")
    if content.startswith(LFS_POINTER):
        raise UserError(f"{shown(path)} is {LFS}.")
    return content


def is_lfs_pointer(path: Path) -> bool:
    """Whether a file stands for another one, which Git LFS has not fetched yet."""
    with path.open("rb") as file:
        return file.read(len(LFS_POINTER)) == LFS_POINTER


def read_json(path: str | os.PathLike, remedy: str) -> Any:
    """Reads a file of JSON.

    Args:
        path: File to read.
        remedy: What to do where it cannot be read.

    Raises:
        UserError: It is missing, a folder, unreadable, empty, or not JSON.
    """
    content = read_bytes(path, remedy)
    try:
        return json_value(content.decode("utf-8-sig"))
    except ValueError as error:
        raise UserError(f"{shown(path)} is not JSON ({error}). {remedy}") from error


def json_value(text: str, names_once: bool = False) -> Any:
    """The value that a JSON text holds.

    Args:
        names_once: Refuse objects with the same name twice, of which Python keeps the last alone.

    Raises:
        ValueError: It is no JSON, is nested more deeply than Python can follow, has a number of thousands of
            digits, or half of a character (a lone surrogate), which no file of UTF-8 can hold.
    """
    try:
        value = json.loads(text, object_pairs_hook=_with_names_once if names_once else None)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if _HALF_CHARACTER.search(text):  # an escape of a whole character, two halves, is fine
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError("it has an escape such as \\ud83d that is half of a character") from error
    return value


def _with_names_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"an object has {twice!r} twice")
    return found


def json_lines(text: str) -> list[tuple[int, Any]]:
    """The documents of JSON lines with their lines, counted from 1; blank lines are passed over.

    Only a line feed ends a line: a text in JSON may hold other separators, such as U+2028, as they are.

    Raises:
        ValueError: A line is not JSON, or has an object with the same name twice; names the line.
    """
    documents = []
    for number, line in enumerate(text.split("\n"), start=1):
        try:
            documents += [(number, json_value(line, names_once=True))] if line.strip() else []
        except ValueError as error:
            reason = (
                f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
            )
            raise ValueError(f"line {number}: not JSON ({reason})") from error
    return documents


KNOWN_HASHES: dict[tuple[str, int, int], str] = {}
"""(path, size, mtime in ns) of a file -> its sha256; runs/hashes.py keeps those of large files."""


def file_sha256(path: str | os.PathLike) -> str:
    """The file's sha256.

    A file with the same path, size and modification time is not read twice by one process.

    Raises:
        OSError: The file cannot be read.
    """
    stat = os.stat(path)
    key = (os.fspath(path), stat.st_size, stat.st_mtime_ns)
    if key not in KNOWN_HASHES:
        with open(path, "rb") as file:
            KNOWN_HASHES[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return KNOWN_HASHES[key]


def content_sha256(path: str | os.PathLike) -> str:
    """The sha256 of a file, or of a folder.

    That of a folder is over its sorted relative names and their hashes, without hidden (unfinished) files.

    Raises:
        OSError: Something cannot be read.
    """
    return combined_sha256(content_hashes(Path(path)))


def content_hashes(path: Path) -> dict[str, str]:
    """The sha256 of a folder's files by their relative names, without hidden ones; a file's by no name: "".

    Raises:
        OSError: Something cannot be read.
    """
    return {"": file_sha256(path)} if path.is_file() else file_hashes(path, files_of(path))


def file_hashes(folder: Path, names: list[str]) -> dict[str, str]:
    """The sha256 of some of a folder's files, by their names.

    Raises:
        OSError: One cannot be read.
    """
    with ThreadPoolExecutor(max_workers=4) as pool:
        return dict(zip(names, pool.map(file_sha256, [folder / name for name in names]), strict=True))


def files_of(folder: Path) -> list[str]:
    """The relative names of the files in a folder, sorted, without hidden (unfinished) ones."""
    names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    return [name for name in names if not any(part.startswith(".") for part in name.split("/"))]


def combined_sha256(hashes: dict[str, str]) -> str:
    """The sha256 of a folder, or of a file, from what :func:`content_hashes` says of it."""
    if "" in hashes:
        return hashes[""]
    lines = "".join(f"{name}\0{digest}\n" for name, digest in sorted(hashes.items()))
    return hashlib.sha256(lines.encode()).hexdigest()
