"""Damage to a file, as disks, tools and people do it."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path


def _flipped(content: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(content))
    return content[:at] + bytes([content[at] ^ 1 << chance.randrange(8)]) + content[at + 1 :]


def _cut(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content))]


def _zeroed(content: bytes, chance: random.Random) -> bytes:
    """A block that never reached the disk."""
    at = chance.randrange(len(content))
    end = min(len(content), at + 512)
    return content[:at] + bytes(end - at) + content[end:]


def _longer(content: bytes, chance: random.Random) -> bytes:
    return content + chance.randbytes(chance.randint(1, 64))


CHANGES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "a bit flipped": _flipped,
    "cut off": _cut,
    "a block of zeros": _zeroed,
    "bytes appended": _longer,
    "emptied": lambda content, chance: b"",
}


def spoil(project: Path, path: str, others: list[str], chance: random.Random) -> str:
    """Damages a file in one of seven ways; says what was done.

    Args:
        others: Files, one of which may take its place.
    """
    file, way = project / path, chance.choice([*CHANGES, "deleted", "another file's content"])
    content = file.read_bytes()
    if way == "deleted" or not content:
        file.unlink()
        return f"{path}: deleted"
    if way in CHANGES:
        changed = CHANGES[way](content, chance)
        if changed != content:
            file.write_bytes(changed)
            return f"{path}: {way}"
    kin = [other for other in others if Path(other).suffix == file.suffix and other != path]
    different = [other for other in kin or others if (project / other).read_bytes() != content]
    if not different:
        file.unlink()
        return f"{path}: deleted"
    other = chance.choice(different)
    shutil.copyfile(project / other, file)
    return f"{path}: the content of {other}"
