"""Thumbnails of pictures, each made once."""

import hashlib
import io
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import writing
from rlaifv_kedro.images import embed_image, png_bytes
from rlaifv_kedro.pixels import as_seen, opened_picture

SIDE = 320
"""Pixels of a thumbnail's longer side."""
PLAIN = 160
"""Pictures up to so many pixels are kept as they are, in every pixel: the miniature's."""
_QUALITY = 82


class Thumbnails:
    """A folder of thumbnails, named by their pictures' content: a picture of many items has one.

    Attributes:
        unreadable: How many pictures can't be shown.
    """

    def __init__(self, folder: Path):
        self._folder, self.unreadable = folder, 0
        self._pool = ThreadPoolExecutor(max_workers=os.cpu_count())

    def of(self, pictures: Sequence[Mapping[str, Any] | None]) -> list[str | None]:
        """The names of the files, in the pictures' order; None for one that can't be read, or isn't there.

        Args:
            pictures: Of an ``image`` column.
        """
        names = list(self._pool.map(self._one, pictures))
        self.unreadable += sum(name is None for name, picture in zip(names, pictures) if picture is not None)
        return names

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown()

    def _one(self, picture: Mapping[str, Any] | None) -> str | None:
        if picture is None:
            return None
        try:
            content = embed_image(dict(picture), None, "")["bytes"]
            digest = hashlib.sha256(content).hexdigest()[:24]
            found = opened_picture(content)
            longer = max(found.size)
            small = longer <= PLAIN
            name = f"{digest[:2]}/{digest[2:]}.{'png' if small else 'jpg'}"
            if (self._folder / name).exists():
                return name
            # JPEG files are decoded at half the size, a quarter or an eighth
            found.draft("RGB", tuple(SIDE * side // longer for side in found.size))
            seen = as_seen(found)
        except UserError:
            return None
        same = small and seen is found and found.format == "PNG"  # in every pixel: nothing to encode
        _write(self._folder / name, content if same else _content(seen, small))
        return name


def _write(path: Path, content: bytes) -> None:
    """Writes a file that is whole once it is there; without a sync, as it can be made again at any time."""
    unfinished = path.with_name(f".{path.name}.{threading.get_ident()}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(content)
        os.replace(unfinished, path)


def _content(picture: Any, small: bool) -> bytes:
    """The thumbnail's file."""
    if small:
        return png_bytes(picture)
    picture.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()
