"""Reading the pictures of a table, by Pillow.

Neither ``transformers.image_utils.load_image`` nor the datasets library's ``Image.decode_example`` takes this
place. Both fetch an image whose path is an http address, unasked; then what a run needs depends on strangers'
servers. ``load_image`` also takes no bytes, takes a path that isn't there for base64, drops transparency,
makes 16-bit greys white, and imports torch (5 s, where Pillow takes 0.07).
"""

import io
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlaifv_kedro.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image


def open_image(image: dict[str, Any], where: str) -> "Image":
    """The picture of an ``image`` column: its bytes if there, else the file that it names.

    The column is the datasets library's Image feature, a dict with ``bytes`` and ``path``.

    Raises:
        UserError: It can't be read; the message names ``where``.
    """
    from PIL import Image, UnidentifiedImageError

    source = io.BytesIO(image["bytes"]) if image.get("bytes") else image.get("path")
    if not source:
        raise UserError(f"{where}: the image has neither bytes nor a path.")
    try:
        picture = Image.open(source)
        picture.load()
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(
            f"{where}: the image can't be read ({_reason(error, image)}). Replace it or remove the row."
        ) from error
    return picture


def embed_image(image: dict[str, Any], folder: Path | None, where: str) -> dict[str, Any]:
    """The image with its bytes, which are read from the file that it names where it has none.

    Nothing depends on that file any more then.

    Args:
        image: As of an ``image`` column.
        folder: Where a relative path is looked for first; then in the working folder.

    Raises:
        UserError: The file can't be read; the message names ``where``.
    """
    if image.get("bytes"):
        return image
    path = Path(image.get("path") or "")
    inside = folder / path if folder is not None else path
    try:
        return {"bytes": (inside if inside.is_file() else path).read_bytes(), "path": image.get("path")}
    except OSError as error:
        places = dict.fromkeys([inside.as_posix(), path.as_posix()])
        raise UserError(
            f"{where}: the image can't be read ({error.strerror or error}: {' or '.join(places)}). Put the "
            "file there, or remove the row."
        ) from error


def png_bytes(picture: "Image") -> bytes:
    """The picture as a PNG file; the same pixels give the same bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


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


def _reason(error: Exception, image: dict[str, Any]) -> str:
    """Pillow names the buffer's address, which differs from run to run; name the file instead."""
    return (
        f"not a picture: {image.get('path') or 'no file name'}"
        if "cannot identify" in str(error)
        else str(error)
    )
