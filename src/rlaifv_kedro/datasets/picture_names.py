"""Which file a picture's name or address means."""

import hashlib
import posixpath
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote, unquote

HTTP = ("http://", "https://")
_READABLE = 60  # characters of an address's last part that are kept in the name of its file


@dataclass(frozen=True)
class Match:
    """A file that a name may mean.

    Attributes:
        path: In the folder or archive.
        by_path: The name is the path, or its end. Otherwise only the last parts of both are the same.
    """

    path: str
    by_path: bool


class Places:
    """The files of a folder or archive, by their relative paths with ``/``."""

    def __init__(self, paths: Iterable[str]):
        self._by_last_part: dict[str, list[str]] = defaultdict(list)
        self._folded: dict[str, str] = {}
        for path in paths:
            self.add(path)

    def add(self, path: str) -> None:
        """One more file."""
        paths = self._by_last_part[posixpath.basename(path)]
        if path not in paths:
            paths.append(path)
            self._folded.setdefault(_folded(path), path)

    def twin(self, path: str) -> str | None:
        """A file that is there, and would be this one where capitals or forms of Unicode don't count."""
        found = self._folded.get(_folded(path))
        return found if found != path else None

    def of(self, name: str) -> list[Match]:
        """What a name or address may mean: nothing, one file, or several of the same last part."""
        plain = _last_part(name) if name.startswith(HTTP) else name
        paths = self._by_last_part.get(posixpath.basename(plain), [])
        if plain in paths:
            return [Match(plain, not name.startswith(HTTP))]
        ends = [Match(path, True) for path in paths if path.endswith(f"/{plain}")]
        if ends and not name.startswith(HTTP):
            return ends
        return [Match(path, False) for path in paths]


def file_of_address(address: str) -> str:
    """The file name that an address gets: what can be read of its last part, and a hash of the whole.

    So ``/a/1.jpg`` and ``/b/1.jpg``, or ``?id=1`` and ``?id=2``, are two files, and none lies elsewhere.
    """
    stem, ending = posixpath.splitext(re.sub(r"[^A-Za-z0-9._-]+", "_", _last_part(address)).strip("._"))
    digest = hashlib.sha256(address.encode(errors="surrogatepass")).hexdigest()[:12]
    return f"{stem[:_READABLE] or 'picture'}-{digest}{ending[:6].rstrip('.')}"


def address_below(base_url: str, name: str) -> str:
    """The address of a picture by its relative path."""
    return posixpath.join(base_url, quote(name))


def _folded(path: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def _last_part(address: str) -> str:
    """What people take for the file's name. ``urlsplit`` refuses addresses that are none."""
    return unquote(posixpath.basename(re.split("[?#]", address)[0]))
