"""Pixels as people see them, in whatever form a picture comes; the right ones are worked by hand."""

import io
import struct
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from damaged_bytes import damaged
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.images import open_image, png_bytes
from rlaifv_kedro.pixels import MOST_PIXELS, PictureError, as_seen, opened_picture

RED, GREEN, BLUE, BLACK, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0), (255, 255, 255)


def file_of(picture: Image.Image, form: str, **settings: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **settings)
    return buffer.getvalue()


def seen(content: bytes) -> np.ndarray:
    """Pixels of a file's content: uint8 (rows, columns, 3)."""
    picture = open_image({"bytes": content, "path": None}, "row 0")
    assert picture.mode == "RGB"
    return np.asarray(picture)


def quarters() -> Image.Image:
    """Red, green / blue, white."""
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:20, :30], pixels[:20, 30:], pixels[20:, :30], pixels[20:, 30:] = RED, GREEN, BLUE, WHITE
    return Image.fromarray(pixels)


def ramp() -> np.ndarray:
    return np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (8, 1))


def drawing(mode: str, ink: Any, ground: Any) -> Image.Image:
    """A square on a ground."""
    picture = Image.new(mode, (16, 16), ground)
    picture.paste(ink, (4, 4, 12, 12))
    return picture


def corner_and_middle(pixels: np.ndarray) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return tuple(pixels[1, 1].tolist()), tuple(pixels[8, 8].tolist())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("form", "options"), [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})])
def test_a_camera_held_in_any_way_gives_an_upright_picture(
    orientation: int, form: str, options: dict
) -> None:
    """The file holds what the sensor saw; Pillow's own function knows the eight ways."""
    upright = quarters()
    exif = Image.Exif()
    exif[0x0112] = orientation
    back = {6: 8, 8: 6}.get(orientation, orientation)  # the turns to the left and right undo each other
    turned = upright.copy()
    turned.getexif()[0x0112] = back
    stored = ImageOps.exif_transpose(turned)
    assert np.array_equal(seen(file_of(stored, form, exif=exif, **options)), np.asarray(upright))


def test_a_photograph_lies_on_its_side_in_the_file() -> None:
    """Red left, green right, "turn by 90 degrees": a viewer shows red on top."""
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:, :30], pixels[:, 30:] = RED, GREEN
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = open_image({"bytes": file_of(Image.fromarray(pixels), "JPEG", exif=exif, quality=95)}, "row 0")
    assert picture.size == (40, 60)
    assert np.abs(np.asarray(picture)[3, 20].astype(int) - RED).max() < 8
    # Whoever turns it again by what EXIF says, as transformers' load_image does, leaves it as it is.
    assert ImageOps.exif_transpose(picture).size == (40, 60)
    assert as_seen(picture) is picture


def test_damaged_exif_is_no_damaged_picture() -> None:
    plain = file_of(quarters(), "PNG")
    damaged = file_of(quarters(), "PNG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff")
    assert np.array_equal(seen(damaged), seen(plain))


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
def test_greys_of_16_bits_are_a_ramp(form: str) -> None:
    """Not white from the 256th grey on: ``v >> 8``."""
    pixels = seen(file_of(Image.fromarray(ramp()), form))
    assert np.array_equal(pixels, np.repeat((ramp() >> 8)[..., None], 3, axis=2))


def test_greys_of_16_bits_whose_white_is_zero() -> None:
    """TIFF's PhotometricInterpretation 0."""
    pixels = seen(file_of(Image.fromarray(ramp()), "TIFF", tiffinfo={262: 0}))
    assert np.array_equal(pixels[..., 0], (65535 - ramp()) >> 8)


@pytest.mark.parametrize(
    ("dtype", "brightest", "grey"),
    [
        # Half of the brightest, as 8 bits: 127.5, 127.5 and 32767.5 // 256 = 127.
        (np.float32, 1.0, 128),
        (np.float32, 255.0, 127),
        (np.float32, 65535.0, 127),
        (np.int32, 255, 127),
        (np.int32, 65535, 127),
    ],
)
def test_the_range_of_32_bit_greys_is_the_smallest_that_holds_them(
    dtype: type, brightest: float, grey: int
) -> None:
    values = np.array([[0, brightest / 2, brightest]]).astype(dtype)
    assert seen(file_of(Image.fromarray(values), "TIFF"))[0, :, 1].tolist() == [0, grey, 255]


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -1.0, 70000.0])
def test_greys_that_no_range_holds_are_refused(wrong: float) -> None:
    values = np.array([[0.0, wrong]], np.float32)
    with pytest.raises(UserError, match=r"row 0: the image can't be read \(its greys go from .*8 bits\)"):
        seen(file_of(Image.fromarray(values), "TIFF"))


TRANSPARENT = {
    "RGBA": lambda: file_of(drawing("RGBA", (*BLACK, 255), (*BLACK, 0)), "PNG"),
    "WebP": lambda: file_of(drawing("RGBA", (*BLACK, 255), (*BLACK, 0)), "WEBP", lossless=True),
    "TIFF": lambda: file_of(drawing("RGBA", (*BLACK, 255), (*BLACK, 0)), "TIFF"),
    "GIF": lambda: file_of(drawing("RGBA", (*BLACK, 255), (*BLACK, 0)), "GIF"),
    "AVIF": lambda: file_of(drawing("RGBA", (*BLACK, 255), (*BLACK, 0)), "AVIF", quality=100),
    "JPEG 2000": lambda: file_of(drawing("RGBA", (*BLACK, 255), (*BLACK, 0)), "JPEG2000"),
    "LA": lambda: file_of(drawing("LA", (0, 255), (0, 0)), "PNG"),
    "a palette": lambda: file_of(
        drawing("RGBA", (*BLACK, 255), (*BLACK, 0)).quantize(4), "PNG"
    ),
    "a colour": lambda: file_of(drawing("RGB", BLACK, RED), "PNG", transparency=RED),
    "a grey": lambda: file_of(drawing("L", 0, 9), "PNG", transparency=9),
    "a bit": lambda: file_of(drawing("1", 0, 1), "PNG", transparency=1),
    "a grey of 16 bits": lambda: file_of(
        Image.fromarray(np.asarray(drawing("L", 0, 9)).astype(np.uint16) * 256), "PNG", transparency=9 * 256
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", TRANSPARENT)
def test_a_black_drawing_on_nothing_is_black_on_white(kind: str) -> None:
    assert corner_and_middle(seen(TRANSPARENT[kind]())) == (WHITE, BLACK)


def test_what_is_half_transparent_lets_half_of_the_white_through() -> None:
    content = file_of(drawing("RGBA", (*RED, 128), (*RED, 255)), "PNG")
    assert corner_and_middle(seen(content)) == (RED, (255, 127, 127))


FIRST, SECOND = drawing("RGB", RED, WHITE), drawing("RGB", BLUE, BLACK)
OTHERS = {
    "CMYK JPEG, which Adobe turns": lambda: file_of(FIRST.convert("CMYK"), "JPEG", quality=100),
    "CMYK TIFF": lambda: file_of(FIRST.convert("CMYK"), "TIFF"),
    "YCbCr TIFF": lambda: file_of(FIRST.convert("YCbCr"), "TIFF"),
    "Lab TIFF": lambda: file_of(Image.merge("LAB", _lab(FIRST)), "TIFF"),
    "a palette": lambda: file_of(FIRST.quantize(4), "PNG"),
    "a palette of BMP": lambda: file_of(FIRST.quantize(4), "BMP"),
    "animated GIF": lambda: file_of(FIRST, "GIF", save_all=True, append_images=[SECOND]),
    "animated WebP": lambda: file_of(FIRST, "WEBP", save_all=True, append_images=[SECOND], lossless=True),
    "animated PNG": lambda: file_of(FIRST, "PNG", save_all=True, append_images=[SECOND]),
    "pages of a TIFF": lambda: file_of(FIRST, "TIFF", save_all=True, append_images=[SECOND]),
    "several pictures in one JPEG": lambda: file_of(FIRST, "MPO", save_all=True, append_images=[SECOND]),
    "AVIF": lambda: file_of(FIRST, "AVIF", quality=100, subsampling="4:4:4"),
    "QOI": lambda: file_of(FIRST, "QOI"),
    "a colour profile": lambda: file_of(FIRST, "PNG", icc_profile=b"left out"),
}


def _lab(picture: Image.Image) -> tuple[Image.Image, ...]:
    from PIL import ImageCms

    profile = ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
    )
    return ImageCms.applyTransform(picture, profile).split()


@pytest.mark.parametrize("kind", OTHERS)
def test_red_on_white_in_any_form(kind: str) -> None:
    corner, middle = corner_and_middle(seen(OTHERS[kind]()))
    assert np.abs(np.array([corner, middle]) - [WHITE, RED]).max() <= 8  # JPEG


def test_black_and_white() -> None:
    assert corner_and_middle(seen(file_of(drawing("1", 1, 0), "PNG"))) == (BLACK, WHITE)


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_the_usual_picture_is_what_pillow_reads(form: str) -> None:
    """Nothing is converted, so nothing takes longer, and its PNG is the same."""
    content = file_of(quarters(), form)
    plain = Image.open(io.BytesIO(content))
    assert as_seen(plain) is plain
    assert png_bytes(open_image({"bytes": content}, "row 0")) == png_bytes(plain)


@pytest.mark.parametrize("size", [(1, 1), (500, 1), (1, 500), (3, 500), (500, 3)])
def test_thin_pictures(size: tuple[int, int]) -> None:
    assert seen(file_of(Image.new("RGB", size, RED), "PNG")).shape == (size[1], size[0], 3)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def claimed(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says to be so large."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )


NO_PICTURES = {
    "nothing": (b"\n", r"not a picture: it begins with b'\\n'"),
    "text": (b"a cat", "not a picture: it begins with b'a cat'"),
    "a web page": (b"<!DOCTYPE html><html>gone</html>", "begins with b'<!DOCTYPE html>"),
    "SVG": (b"<svg width=\"9\"></svg>", "begins with b.<svg"),
    "an LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid ...", "a Git LFS pointer"),
    "HEIC": (b"\0\0\0\x18ftypheic" + bytes(50), "begins with .*ftypheic"),
    "EPS, which another program would paint": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "begins with b'%!PS"),
    "a GIF without a frame": (b"GIF89a\x10\0\x10\0\0\0\0;", r"can't be read \("),
    "a cut JPEG": (file_of(quarters(), "JPEG")[:-99], "truncated"),
    "a cut PNG": (file_of(quarters(), "PNG")[:99], "truncated|broken"),
    "a bomb": (claimed(60000, 60000), r"178956970|178,956,970"),
    "a bomb in Pillow's eyes as well": (claimed(2**31 - 1, 2**31 - 1), "can't be read"),
}  # fmt: skip


@pytest.mark.parametrize("kind", NO_PICTURES)
def test_what_is_no_picture_is_said(kind: str) -> None:
    content, why = NO_PICTURES[kind]
    with pytest.raises(UserError, match=why) as error:
        seen(content)
    assert error.value.message.startswith("row 0: the image can't be read (")
    assert error.value.message.endswith("). Replace it or remove the row.")
    assert len(error.value.message) < 350


def test_a_picture_below_the_limit_is_read_without_a_warning() -> None:
    """Pillow warns from half of the limit on."""
    assert 89_478_485 < 10_000 * 10_000 < MOST_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert seen(file_of(Image.new("1", (10_000, 10_000)), "PNG")).shape == (10_000, 10_000, 3)


def test_a_pillow_picture_of_a_cut_file() -> None:
    """Pillow reads the pixels when they are first asked for."""
    with pytest.raises(PictureError, match="truncated"):
        as_seen(Image.open(io.BytesIO(file_of(quarters(), "JPEG")[:-99])))


MODES = ("1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "I;16", "I", "F")
SAVED = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "AVIF", "JPEG2000", "ICO", "PCX", "SGI", "QOI")


@st.composite
def picture_files(draw: st.DrawFn) -> bytes:
    """A file in a random mode, size and form, with or without an orientation."""
    width, height = draw(st.integers(1, 24)), draw(st.integers(1, 24))
    pixels = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 256, (height, width, 4), np.uint8)
    picture = Image.fromarray(pixels, "RGBA").convert("RGB" if draw(st.booleans()) else "RGBA")
    mode, form = draw(st.sampled_from(MODES)), draw(st.sampled_from(SAVED))
    exif = Image.Exif()
    exif[0x0112] = draw(st.integers(0, 9))
    try:
        picture = picture.convert("L").convert(mode) if mode[0] in "IF" else picture.convert(mode)
        return file_of(picture, form, exif=exif, save_all=draw(st.booleans()))
    except (OSError, ValueError, KeyError):  # this form doesn't take that mode
        return file_of(picture.convert("RGB"), "PNG")


@settings(max_examples=100)
@given(picture_files())
def test_fuzz_pictures_of_any_mode_and_form_are_read(content: bytes) -> None:
    assert seen(content).size


@settings(max_examples=300)
@given(damaged(picture_files()) | st.binary(max_size=200))
def test_fuzz_damaged_pictures_are_read_or_refused(content: bytes) -> None:
    """Nothing else than pixels or the project's error, and no warning."""
    try:
        assert seen(content).size
    except UserError as error:
        assert len(error.message) < 400


@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP"])
def test_notes_that_grow_are_refused(kind: bytes) -> None:
    """A note or a colour profile of 50 kB in a PNG that would be 50 MB."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    plain, note = buffer.getvalue(), b"name\0\0" + zlib.compress(bytes(50_000_000), 9)
    chunk = struct.pack(">I", len(note)) + kind + note + struct.pack(">I", zlib.crc32(kind + note))
    header = 8 + 25  # signature, IHDR
    with pytest.raises(PictureError, match="too large"):
        as_seen(opened_picture(plain[:header] + chunk + plain[header:]))
