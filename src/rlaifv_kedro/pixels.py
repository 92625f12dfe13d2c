"""Pixels as people see them: from a file's content to RGB, by Pillow.

Upright (EXIF); greys of 16 and 32 bits scaled; what is transparent on white; the first frame of an animation
and the first page of a document. A colour profile is left out, as the models' processors do.
"""

import io
import re
import threading
import warnings
from contextlib import nullcontext
from typing import TYPE_CHECKING

import numpy as np

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import LFS, LFS_POINTER
from rlaifv_kedro.formats import first_line, shortened

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = (
    *("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "DIB", "AVIF", "JPEG2000", "PPM", "ICO", "ICNS"),
    *("PSD", "PCX", "SGI", "SUN", "QOI", "DDS"),
)
"""Read by Pillow; the others are films, drawings that another program must paint (EPS, WMF), or told by
nothing but a few bytes that a text may have, too.
"""
MOST_PIXELS = 178_956_970
"""As Pillow refuses it (twice its MAX_IMAGE_PIXELS): three bytes each are half a gigabyte, and a small file
can claim as many.
"""
_LARGE = 2**24
"""Pixels from which on one picture at a time is decoded: a PNG of 0.7 MB can take 2.8 GB meanwhile."""
_one_at_a_time = threading.Lock()
_TIFF_BITS, _TIFF_PHOTOMETRIC = 258, 262  # TIFF 6.0, section 8
_BEGINNING = 24  # bytes, in a message
_QUIET = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
"""Filter of warnings: what Pillow warns of are details beside the pixels, and pictures that are large."""


class PictureError(UserError):
    """Why something is no picture: a few words without the place, which the caller knows."""


def opened_picture(content: bytes) -> "Image":
    """The file's picture, of which only the beginning is read.

    Raises:
        PictureError: It is none, or too large.
    """
    from PIL import Image, UnidentifiedImageError

    if not content:
        raise PictureError("not a picture: 0 bytes")
    if warnings.filters[0] != _QUIET:
        warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        picture = Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError as error:
        pointer = content.startswith(LFS_POINTER)
        what = LFS if pointer else f"it begins with {content[:_BEGINNING]!r}"
        raise PictureError(f"not a picture: {what}") from error
    except Exception as error:  # see as_seen
        raise PictureError(_reason(error)) from error
    if picture.width * picture.height > MOST_PIXELS:
        raise PictureError(f"{picture.width * picture.height:,} pixels, more than {MOST_PIXELS:,}")
    return picture


def as_seen(picture: "Image") -> "Image":
    """A Pillow picture in RGB as people see it; itself if that is what it is.

    Raises:
        PictureError: Its pixels can't be read, or its greys have no known range.
    """
    try:
        with _one_at_a_time if picture.width * picture.height > _LARGE else nullcontext():
            seen = _seen(picture)
    except PictureError:
        raise
    except Exception as error:  # Pillow raises a dozen kinds of them for damaged files
        raise PictureError(_reason(error)) from error
    if seen is not picture:
        seen.info = {}  # it says how to turn the picture, and which colour is transparent
    return seen


def _seen(picture: "Image") -> "Image":
    from PIL import Image

    picture.load()
    seen = picture
    if seen.mode in ("I", "F") or seen.mode.startswith("I;16"):
        seen = _grey_of_8_bits(seen)
    if seen.has_transparency_data:
        layer = seen.convert("RGBA")
        seen = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    if seen.mode != "RGB":
        seen = seen.convert("RGB")
    return _upright(seen, orientation(picture))


def file_ending(content: bytes) -> str:
    """The usual ending of a picture's file, such as ``jpg``.

    Raises:
        PictureError: It is no picture.
    """
    kind = (opened_picture(content).format or "png").lower()
    return {"jpeg": "jpg", "mpo": "jpg", "jpeg2000": "jp2"}.get(kind, kind)


def orientation(picture: "Image") -> int:
    """EXIF's number for it, from 1 (upright) to 8; 1 where it says nothing that can be read."""
    from PIL import ExifTags

    try:
        return picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a damaged note is no damaged picture
        return 1


def _upright(picture: "Image", exif: int) -> "Image":
    """As the camera was held: EXIF 2.32, 4.6.4 A, Orientation."""
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return picture.transpose(turns[exif]) if exif in turns else picture


def _grey_of_8_bits(picture: "Image") -> "Image":
    """Greys of more than 8 bits: the upper 8 of them.

    Raises:
        PictureError: See :func:`_white`.
    """
    from PIL import Image

    values, tags = np.asarray(picture), getattr(picture, "tag_v2", {})
    white = _white(picture, values)
    if tags.get(_TIFF_PHOTOMETRIC) == 0:  # white is zero; Pillow turns only greys of up to 8 bits
        values = white - values
    grey = np.rint(values * 255.0) if white == 1 else values // ((white + 1) // 256)
    eight = grey.astype(np.uint8)
    if isinstance(clear := picture.info.get("transparency"), int):
        eight[values == clear] = 255
    return Image.fromarray(eight)


def _white(picture: "Image", values: np.ndarray) -> int:
    """The brightest grey that there can be.

    Of 32 bits, whole or broken, no file says it. It is the smallest of 1 (of broken ones alone), 255 and
    65,535 that none exceeds.

    Raises:
        PictureError: A grey is negative, above that, or no number.
    """
    if picture.mode.startswith("I;16"):
        return 4095 if getattr(picture, "tag_v2", {}).get(_TIFF_BITS) == (12,) else 65535
    if picture.format == "PPM" and picture.mode == "I":
        return 65535  # to which Pillow scales it
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 65535):
        raise PictureError(
            f"its greys go from {low:g} to {high:g}, and the ranges that are known end at 1, 255 and 65,535: "
            "save it with 8 bits"
        )
    return next(
        white for white in ((1, 255, 65535) if picture.mode == "F" else (255, 65535)) if high <= white
    )


def _reason(error: Exception) -> str:
    """What Pillow says, on a line; the kind of error where that is no sentence."""
    said = shortened(first_line(error), 200)
    return (
        said if isinstance(error, OSError | SyntaxError | ValueError) else f"{type(error).__name__}: {said}"
    )
