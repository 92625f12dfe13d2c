"""The pictures of a table: from the bytes, file or data URL that a row names to pixels.

Policy, labeler, servers, chat, exports and benchmarks get the same ones; see :mod:`rlaifv_kedro.pixels`.

Neither ``transformers.image_utils.load_image`` nor the datasets library's ``Image.decode_example`` takes this
place. Both fetch an image whose path is an http address, unasked; then what a run needs depends on strangers'
servers. ``load_image`` also takes no bytes, takes a path that isn't there for base64, drops transparency,
makes 16-bit greys white, and imports torch (5 s, where Pillow takes 0.07).
"""

import base64
import io
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlaifv_kedro.doors import MOST_OF_A_PICTURE, lies_in, reason_of, regular_bytes
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import shown
from rlaifv_kedro.formats import shortened
from rlaifv_kedro.pixels import PictureError, as_seen, opened_picture, orientation

if TYPE_CHECKING:
    from PIL.Image import Image

THUMBNAIL = 256
_NAME = 100  # characters of a path or address in a message


def open_image(image: dict[str, Any], where: str) -> "Image":
    """The picture of an ``image`` column, in RGB: its bytes if there, else the file that it names.

    The column is the datasets library's Image feature, a dict with ``bytes`` and ``path``.

    Raises:
        UserError: It can't be read; the message names ``where``.
    """
    embedded = embed_image(image, None, where)
    with _saying(where, embedded["path"]):
        return as_seen(opened_picture(embedded["bytes"]))


def image_fault(image: dict[str, Any]) -> str | None:
    """Why an image of such a column can't be read; None if it can."""
    try:
        as_seen(opened_picture(_embedded(image, None)["bytes"]))
    except PictureError as error:
        return error.message
    return None


def embed_image(image: dict[str, Any], folder: Path | None, where: str) -> dict[str, Any]:
    """The image with its bytes, which are read from the file that it names where it has none.

    Nothing depends on that file any more then. A data URL in a file's place is decoded.

    Args:
        image: As of an ``image`` column.
        folder: Of a table from elsewhere: its files are looked for there, then in the working folder, and
            nowhere else. None for tables of the project or the user, who may name any file.

    Raises:
        UserError: The file can't be read; the message names ``where``.
    """
    with _saying(where):
        return _embedded(image, folder)


def portable_image(image: dict[str, Any], where: str) -> dict[str, Any]:
    """The image for other programs: with other bytes where these would be read as other pixels elsewhere.

    That is so if it has an orientation, transparency, colours other than 8 bits of RGB or grey, or several
    frames. It then becomes a PNG of what is seen.

    Args:
        image: With its bytes.

    Raises:
        UserError: It is no picture.
    """
    with _saying(where, image["path"]):
        again = _portable(image["bytes"])
    if again is None:
        return image
    return {"bytes": again, "path": image["path"] and f"{image['path']}.png"}


def png_bytes(picture: "Image") -> bytes:
    """The picture as a PNG file; the same pixels give the same bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def thumbnail_url(image: dict[str, Any], where: str) -> str:
    """The picture as a data URL that a page can show: a JPEG of at most ``THUMBNAIL`` pixels a side.

    A drawing of few pixels is enlarged, pixel by pixel.

    Raises:
        UserError: It can't be read; the message names ``where``.
    """
    picture = open_image(image, where)
    enlarged = max(1, THUMBNAIL // 2 // max(picture.size))
    picture = picture.resize((picture.width * enlarged, picture.height * enlarged), 0)
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def base64_bytes(text: str) -> bytes:
    """What a base64 text holds, in the standard or the URL-safe alphabet; padding may be missing.

    Raises:
        PictureError: It is no base64.
    """
    plain = "".join(text.split()).rstrip("=").replace("-", "+").replace("_", "/")
    wrong = re.search("[^A-Za-z0-9+/]", plain)
    if wrong:
        raise PictureError(f"{wrong[0]!r} isn't a character of base64")
    if len(plain) % 4 == 1:
        raise PictureError(f"no base64 text has {len(plain):,} characters, so some are missing")
    return base64.b64decode(plain + "=" * (-len(plain) % 4))


def data_url_bytes(url: str) -> bytes:
    """What a ``data:`` address holds.

    Raises:
        PictureError: It isn't one of base64.
    """
    head, _, payload = url.partition(",")
    if not head.endswith(";base64"):
        raise PictureError("no data URL with base64 text, like data:image/png;base64,...")
    return base64_bytes(payload)


def readable_images(
    rows: Iterable[Any], stage: str
) -> tuple[list[tuple[Any, "Image"]], list[tuple[str, str, str]]]:
    """Rows of ``prompts`` as (row, picture), and as (stage, key, why) of ``rejects`` where one is damaged."""
    readable, rejects = [], []
    for row in rows:
        try:
            readable.append((row, open_image(row.image, f"prompt {row.prompt_id}")))
        except UserError as error:
            rejects.append((stage, row.prompt_id, error.message))
    return readable, rejects


@contextmanager
def _saying(where: str, path: str | None = None) -> Iterator[None]:
    try:
        yield
    except PictureError as error:
        name = f"{shortened(path, _NAME)}: " if path else ""
        raise UserError(
            f"{where}: the image can't be read ({name}{error.message}). Replace it or remove the row."
        ) from error


def _embedded(image: dict[str, Any], folder: Path | None) -> dict[str, Any]:
    path = image.get("path")
    if image.get("bytes"):
        return {"bytes": image["bytes"], "path": path}
    if path and path.startswith("data:"):
        return {"bytes": data_url_bytes(path), "path": None}
    return {"bytes": _file_bytes(path, folder), "path": path}


def _file_bytes(path: str | None, folder: Path | None) -> bytes:
    if not path:
        raise PictureError("it has neither bytes nor a path")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", path):
        raise PictureError(
            f"{shortened(path, _NAME)} is an address, and only files are read: fetch it, and name the file"
        )
    places = dict.fromkeys([path] if folder is None else _places(path, folder))
    # Not a folder, nor a pipe, which would wait for ever; no error for a name that no file can have.
    place = next(filter(os.path.isfile, places), None)
    if place is None:
        raise PictureError("no such file: " + " or ".join(shortened(repr(p)[1:-1], _NAME) for p in places))
    try:
        return regular_bytes(place, MOST_OF_A_PICTURE)
    except OSError as error:
        raise PictureError(f"{shortened(place, _NAME)}: {reason_of(error)}") from error


def _places(path: str, folder: Path) -> list[str]:
    """Where a file may lie that a table from elsewhere names: its folder, or else the working folder.

    Raises:
        PictureError: It leads out of both: a stranger's table would choose among this machine's files.
    """
    places = [str(place / path) for place in (folder, Path()) if lies_in(place, path)]
    if not places:
        raise PictureError(
            f"{shortened(repr(path)[1:-1], _NAME)} lies neither in {shown(folder)} nor in the folder that "
            "the run is started in; move the pictures there, or link their folder there"
        )
    return places


@lru_cache(maxsize=8)  # pairs of one prompt follow each other
def _portable(content: bytes) -> bytes | None:
    """A PNG of what is seen; None if any program sees that in the file itself."""
    picture = opened_picture(content)
    plain = picture.mode in ("RGB", "L") and not getattr(picture, "is_animated", False)
    if plain and orientation(picture) == 1 and not picture.has_transparency_data:
        return None
    return png_bytes(as_seen(picture))
