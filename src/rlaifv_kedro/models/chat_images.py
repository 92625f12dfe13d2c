"""The forms in which a picture may be given to a chat."""

import base64
import io
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from rlaifv_kedro.errors import UserError

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
    if not path.is_file():
        raise UserError(f"there is no file {path}. Correct the path of the image.")
    return _opened(path, str(path))


def _from_text(text: str) -> "Image":
    shown = text if len(text) <= 80 else f"{text[:40]}... ({len(text):,} characters)"
    if os.path.isfile(text):  # unlike Path's it returns False for a text that is too long for a path
        return _opened(Path(text), text)
    if text.startswith("data:"):
        head, _, payload = text.partition(",")
        if not head.endswith(";base64"):
            raise UserError(
                f"the image {shown} is no data URL with base64 text, like data:image/png;base64,..."
            )
        return _decoded(payload, f"the image {shown}")
    # Base64 has no full stop; a separator would tell nothing, because base64 has "/".
    if re.search(r"\.\w{1,5}$", text):
        raise UserError(f"there is no file {shown}. Correct the path of the image.")
    return _decoded(text, f"there is no file {shown}, and as base64 text it")


def _from_bytes(data: bytes) -> "Image":
    try:
        return _opened(data, "the image")
    except UserError:
        if not data.isascii():
            raise
        return _decoded(data.decode("ascii"), "the image")


def _decoded(text: str, what: str) -> "Image":
    """The picture in a base64 text, whose padding may be missing."""
    plain = "".join(text.split()).rstrip("=").replace("-", "+").replace("_", "/")
    wrong = re.search("[^A-Za-z0-9+/]", plain)
    if wrong:
        raise UserError(f"{what} can't be read: {wrong[0]!r} isn't a character of base64.")
    if len(plain) % 4 == 1:
        raise UserError(
            f"{what} can't be read: no base64 text has {len(plain):,} characters, so some are missing."
        )
    return _opened(base64.b64decode(plain + "=" * (-len(plain) % 4)), what)


def _opened(source: "bytes | Path | Image", what: str) -> "Image":
    from PIL import Image, UnidentifiedImageError

    try:
        data = source.read_bytes() if isinstance(source, Path) else source
        picture = Image.open(io.BytesIO(data)) if isinstance(data, bytes) else data
        picture.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "that is no picture" if isinstance(error, UnidentifiedImageError) else str(error)
        raise UserError(f"{what} can't be read: {reason}.") from error
    return picture
