"""Which format a file is of, what headers say, and what is imported for it."""

import io
import subprocess
import sys
import textwrap

import pytest
from image_bytes import RNG, SHAPE, by_pillow
from PIL import Image

from hkdnet_jax.common.image_formats import NotSupported, decode, read_header

# --- headers ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "kind", "says"),
    [
        ("1", "PNG", ("pillow", "gray", 1)),
        ("L", "PNG", ("pillow", "gray", 8)),
        ("LA", "PNG", ("pillow", "gray", 8)),
        ("P", "PNG", ("pillow", "palette", 8)),
        ("RGBA", "PNG", ("pillow", "RGB", 8)),
        ("I;16", "PNG", ("imagecodecs", "gray", 16)),
        ("L", "JPEG", ("pillow", "gray", 8)),
        ("RGB", "JPEG", ("pillow", "RGB", 8)),
        ("CMYK", "JPEG", ("pillow", "CMYK", 8)),
        ("P", "BMP", ("pillow", "palette", 8)),
        ("RGB", "BMP", ("pillow", "RGB", 8)),
        ("1", "TIFF", ("tifffile", "gray", 1)),
        ("LA", "TIFF", ("tifffile", "gray", 8)),
        ("P", "TIFF", ("tifffile", "palette", 8)),
        ("RGBA", "TIFF", ("tifffile", "RGB", 8)),
        ("CMYK", "TIFF", ("tifffile", "CMYK", 8)),
        ("YCbCr", "TIFF", ("tifffile", "YCbCr", 8)),
        ("I;16", "TIFF", ("tifffile", "gray", 16)),
        ("I;16B", "TIFF", ("tifffile", "gray", 16)),
    ],
)
def test_what_a_header_says(mode, kind, says):
    image = Image.new(mode, SHAPE[::-1])
    if mode == "P":
        image.putpalette(RNG.bytes(3 * 256))
    content = by_pillow(image, kind)
    header = read_header(io.BytesIO(content))
    assert (header.decoder, header.colour, header.bits) == says
    assert (header.format, header.size, header.orientation) == (kind, SHAPE, 1)


@pytest.mark.parametrize(
    ("start", "says"),
    [
        (b"GIF89a", "a GIF file"),
        (b"\0\0\0\x20ftypheic\0\0\0\0", "a HEIC file"),
        (b"\0\0\0\x20ftypmif1\0\0\0\0", "a HEIF file"),
        (b"\0\0\0\x20ftypavif\0\0\0\0", "an AVIF file"),
        (b"\0\0\0\x20ftypisom\0\0\0\0", "an MP4 or MOV file"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL file"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 file"),
        (b"v/1\1", "an OpenEXR file"),
        (b"8BPS\0\1", "a Photoshop file"),
    ],
)
def test_other_formats_are_refused_by_name(start, says):
    for read in (decode, lambda content: read_header(io.BytesIO(content))):
        with pytest.raises(NotSupported, match=says):
            read(start + bytes(64))


@pytest.mark.parametrize("content", [b"", b"\0", b"text", b"RIFF\0\0\0\0AVI "])
def test_what_is_no_picture_at_all(content):
    with pytest.raises(ValueError, match=r"it is (empty|not a PNG, JPEG)"):
        decode(content)


# --- imports ------------------------------------------------------------------------


def test_the_other_decoders_are_imported_only_for_their_files():
    code = """
        import io, sys
        from PIL import Image
        from hkdnet_jax.common.image_formats import decode

        def imported_after(mode, kind):
            file = io.BytesIO()
            Image.new(mode, (9, 9)).save(file, kind)
            decode(file.getvalue())
            print(*sorted({"tifffile", "imagecodecs"} & set(sys.modules)))

        for kind in ("PNG", "JPEG", "BMP"):
            imported_after("RGB", kind)
        imported_after("I;16", "PNG")
        imported_after("L", "TIFF")
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "",
        "",
        "",
        "imagecodecs",
        "imagecodecs tifffile",
    ]
