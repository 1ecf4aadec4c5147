"""What headers say, and the pixels of every kind of file that is read."""

import io
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tifffile
from PIL import Image

from hkdnet_jax.common.image_formats import NotSupported, decode, read_header

RNG = np.random.default_rng(7)
SHAPE = (21, 34)  # odd and unequal, so that a swap or a shift shows


def samples(bits: int, *count: int) -> np.ndarray:
    dtype = np.uint16 if bits > 8 else np.uint8
    return RNG.integers(0, 2**bits, (*SHAPE, *count), dtype=dtype)


GRAY8, RGB8, CMYK8 = samples(8), samples(8, 3), samples(8, 4)
GRAY16, RGB16, CMYK16 = samples(16), samples(16, 3), samples(16, 4)


def tiff(image: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, image, **options)
    return file.getvalue()


def by_pillow(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def assert_pixels(content: bytes, expected: np.ndarray) -> None:
    pixels, header = decode(content)
    assert pixels.dtype == expected.dtype and pixels.dtype.isnative
    np.testing.assert_array_equal(pixels, expected)
    assert header == read_header(io.BytesIO(content))


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
        ("YCbCr", "TIFF", ("pillow", "YCbCr", 8)),
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


def test_a_jpeg_of_several_pictures_is_a_jpeg():
    image = Image.fromarray(RGB8)
    content = by_pillow(image, "MPO", save_all=True, append_images=[image])
    assert read_header(io.BytesIO(content)).format == "JPEG"
    assert decode(content)[0].shape == RGB8.shape


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (tiff(GRAY8 / 255), "64-bit floating-point samples, 1 per pixel .gray"),
        (
            tiff(RGB8.astype(np.float32), photometric="rgb"),
            "32-bit floating-point samples, 3 per pixel .RGB",
        ),
        (tiff(GRAY8.astype(np.int8)), "8-bit signed samples, 1 "),
        (tiff(GRAY8.astype(np.int16)), "16-bit signed samples, 1 "),
        (tiff(GRAY8.astype(np.uint32)), "32-bit unsigned samples, 1 "),
        (tiff(GRAY8.astype(np.complex64)), "64-bit complex samples, 1 "),
        (
            tiff(samples(16, 5), photometric="minisblack", planarconfig="contig"),
            "16-bit unsigned samples, 5 per pixel .gray",
        ),
        (
            by_pillow(Image.new("LAB", SHAPE), "TIFF"),
            "8-bit unsigned samples, 3 per pixel .photometric interpretation 8",
        ),
    ],
)
def test_kinds_that_are_not_read_are_described(content, says):
    for read in (decode, lambda content: read_header(io.BytesIO(content))):
        with pytest.raises(NotSupported, match=f"a TIFF of {says}"):
            read(content)


def test_a_tiff_that_claims_absurd_sizes_is_refused_by_its_header():
    content = tiff(np.zeros((1, 1), np.uint8), compression="zlib")
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        places = [file.pages[0].tags[code].valueoffset for code in (256, 257)]
    forged = bytearray(content)
    for place in places:
        forged[place : place + 4] = (60_000).to_bytes(4, "little")
    with pytest.raises(ValueError, match="its header says 60000x60000 pixels"):
        read_header(io.BytesIO(bytes(forged)))


# --- TIFF ---------------------------------------------------------------------------

STORED = {
    "plain": {},
    "strips": {"rowsperstrip": 4},
    "tiles": {"tile": (16, 16)},
    "big-endian": {"byteorder": ">"},
    "BigTIFF": {"bigtiff": True},
    "zlib": {"compression": "zlib", "predictor": True, "rowsperstrip": 4},
    "lzw": {"compression": "lzw", "predictor": True, "byteorder": ">"},
    "packbits": {"compression": "packbits", "tile": (16, 16)},
    "zstd": {"compression": "zstd"},
    "lzma": {"compression": "lzma"},
}


@pytest.mark.parametrize("options", STORED.values(), ids=STORED)
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_tiff_however_it_is_stored(options, planar):
    for gray in (GRAY8, GRAY16):
        largest = np.iinfo(gray.dtype).max
        assert_pixels(tiff(gray, photometric="minisblack", **options), gray)
        assert_pixels(tiff(gray, photometric="miniswhite", **options), largest - gray)
    for kind, images in (("rgb", (RGB8, RGB16)), ("minisblack", (GRAY8, GRAY16))):
        for image in images:
            colours = image.reshape(*SHAPE, -1)
            stored = np.concatenate([colours, ~colours[..., :1]], axis=2)
            stored = np.moveaxis(stored, -1, 0) if planar == "separate" else stored
            layout = {"planarconfig": planar, "extrasamples": ["unassalpha"]}
            assert_pixels(tiff(stored, photometric=kind, **layout, **options), image)


@pytest.mark.parametrize(("bits", "scale"), [(1, 255), (2, 85), (4, 17), (12, 1)])
@pytest.mark.parametrize("kind", ["minisblack", "miniswhite"])
def test_tiff_of_other_bits(bits, scale, kind):
    levels = samples(bits)
    if bits == 1:
        content = tiff(levels.astype(bool), photometric=kind)
    else:
        content = tiff(levels, photometric=kind, bitspersample=bits)
    assert read_header(io.BytesIO(content)).bits == bits
    expected = levels if kind == "minisblack" else 2**bits - 1 - levels
    assert_pixels(content, expected * levels.dtype.type(scale))


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt"])
def test_tiff_of_a_fax(compression):
    page = Image.fromarray(GRAY8 > 99)
    content = by_pillow(page, "TIFF", compression=compression)
    assert_pixels(content, np.where(GRAY8 > 99, 255, 0).astype(np.uint8))


def test_tiff_with_a_palette():
    colours = RNG.integers(0, 65536, (3, 256), dtype=np.uint16)
    content = tiff(GRAY8, photometric="palette", colormap=colours)
    assert_pixels(content, (colours.T // 256).astype(np.uint8)[GRAY8])


def test_tiff_of_inks():
    content = tiff(CMYK8, photometric="separated")
    paper = Image.fromarray(CMYK8, "CMYK").convert("RGB")
    assert_pixels(content, np.asarray(paper))
    light = 1 - CMYK16 / 65535
    expected = np.round(65535 * light[..., :3] * light[..., 3:])
    pixels, _ = decode(tiff(CMYK16, photometric="separated"))
    assert np.abs(pixels - expected).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_tiffs_that_pillow_decodes_are_turned_once(orientation):
    """Its own pixels, turned by it: luminance and chroma, premultiplied, JPEG."""
    tag = {"extratags": [(274, 3, 1, orientation, True)]}
    premultiplied = {"photometric": "rgb", "extrasamples": ["assocalpha"]}
    chroma = Image.fromarray(RGB8).convert("YCbCr")
    contents = (
        tiff(samples(8, 4), **premultiplied, **tag),
        tiff(RGB8, photometric="rgb", compression="jpeg", **tag),
        tiff(GRAY8, compression="jpeg", **tag),
        by_pillow(chroma, "TIFF", tiffinfo={274: orientation}, compression="tiff_lzw"),
        by_pillow(chroma, "TIFF", tiffinfo={274: orientation}, compression="jpeg"),
    )
    for content in contents:
        with Image.open(io.BytesIO(content)) as image:
            mode = "L" if image.mode == "L" else "RGB"
            assert_pixels(content, np.asarray(image.convert(mode)))
        header = read_header(io.BytesIO(content))
        assert (header.decoder, header.orientation) == ("pillow", 1)


def test_the_first_of_several_pages_is_read():
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(GRAY8)
        writer.write(RGB16[:5], photometric="rgb")
    assert_pixels(file.getvalue(), GRAY8)


@pytest.mark.parametrize("options", STORED.values(), ids=STORED)
def test_pixels_that_are_missing_are_noticed_in_silence(options, caplog, capfd):
    for image in (GRAY8, GRAY16):
        whole = tiff(image, **options)
        for length in (len(whole) - 40, len(whole) * 2 // 3, len(whole) // 3, 9):
            with pytest.raises(Exception, match=r"."):
                decode(whole[:length])
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_odd_metadata_is_not_reported(caplog):
    nodata = (42113, "s", 0, "not a number", True)
    assert_pixels(tiff(GRAY8, extratags=[nodata]), GRAY8)
    assert not caplog.records


def test_a_jpeg_in_a_tiff_that_ends_too_early_is_noticed():
    whole = tiff(GRAY8, compression="jpeg")
    with pytest.raises(OSError, match="decoder error"):
        decode(whole[:-200])


def test_strips_that_were_never_written_are_noticed():
    content = tiff(GRAY16, rowsperstrip=4)
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        place = file.pages[0].tags["StripByteCounts"].valueoffset
    damaged = bytearray(content)
    damaged[place : place + 2] = b"\0\0"
    with pytest.raises(ValueError, match="parts of its pixels are missing"):
        decode(bytes(damaged))


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
