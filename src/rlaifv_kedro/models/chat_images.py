"""The forms in which a picture may be given to a chat."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rlaifv_kedro.doors import MOST_OF_A_PICTURE, reason_of, regular_bytes
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.images import base64_bytes, data_url_bytes
from rlaifv_kedro.pixels import PictureError, as_seen, opened_picture

if TYPE_CHECKING:
    from PIL.Image import Image

_FORMS = "Give a file's path, base64 text, a data URL, bytes or a PIL image."


def read_image(image: "str | Path | bytes | Image | None") -> "Image":
    """The picture that something stands for.

    It may be a PIL image, the path of a file, a file's bytes, or these as base64 text (the standard or the
    URL-safe alphabet, also in a data URL, also as bytes). A text that is the path of a file is that, even if
    it could be base64.

    Raises:
        UserError: There is none, the file is missing, or it can't be read.
    """
    from PIL.Image import Image

    if isinstance(image, Image):
        return _opened(image, "the image")
    if isinstance(image, bytes | bytearray):
        return _from_bytes(bytes(image))
    if isinstance(image, os.PathLike):
        return _from_file(Path(image))
    if isinstance(image, str) and image.strip():
        return _from_text(image)
    if image is None or isinstance(image, str):
        raise UserError(f"there is no image, and this model answers questions about one. {_FORMS}")
    raise UserError(f"an image of type {type(image).__name__} can't be read. {_FORMS}")


def _from_file(path: Path) -> "Image":
    if not os.path.exists(path):
        raise UserError(f"there is no file {path}. Correct the path of the image.")
    return _opened(path, str(path))


def _from_text(text: str) -> "Image":
    shown = text if len(text) <= 80 else f"{text[:40]}... ({len(text):,} characters)"
    if os.path.exists(text):  # unlike Path's it knows no error
        return _opened(Path(text), text)
    if text.startswith("data:"):
        return _decoded(data_url_bytes, text, f"the image {shown}")
    # Base64 has no full stop; a separator would tell nothing, because base64 has "/".
    if re.search(r"\.\w{1,5}$", text):
        raise UserError(f"there is no file {shown}. Correct the path of the image.")
    return _decoded(base64_bytes, text, f"there is no file {shown}, and as base64 text it")


def _from_bytes(data: bytes) -> "Image":
    try:
        return _opened(data, "the image")
    except UserError:
        if not data.isascii():
            raise
        return _decoded(base64_bytes, data.decode("ascii"), "the image")


def _decoded(decode: Callable[[str], bytes], text: str, what: str) -> "Image":
    with _saying(what):
        data = decode(text)
    return _opened(data, what)


def _opened(source: "bytes | Path | Image", what: str) -> "Image":
    with _saying(what):
        try:
            data = regular_bytes(source, MOST_OF_A_PICTURE) if isinstance(source, Path) else source
        except OSError as error:
            raise PictureError(reason_of(error)) from error
        return as_seen(opened_picture(data) if isinstance(data, bytes) else data)


@contextmanager
def _saying(what: str) -> Iterator[None]:
    try:
        yield
    except PictureError as error:
        raise UserError(f"{what} can't be read: {error.message}.") from error
