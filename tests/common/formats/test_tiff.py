"""TIFF: every pixel format and layout, against the arrays that tifffile was given."""

import io
import zlib

import numpy as np
import pytest
import tifffile
from image_bytes import (
    CMYK8,
    CMYK16,
    GRAY8,
    GRAY16,
    RGB8,
    RGB16,
    RNG,
    SHAPE,
    assert_pixels,
    by_pillow,
    of_mode,
    samples,
    tiff,
)
from PIL import Image

from hkdnet_jax.common.image_formats import NotSupported, decode, read_header

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


@pytest.mark.parametrize("bits", range(1, 17))
@pytest.mark.parametrize("kind", ["minisblack", "miniswhite"])
def test_unsigned_samples_of_any_depth_packed(bits, kind):
    levels, largest = samples(bits), 2**bits - 1
    stored = levels.astype(bool) if bits == 1 else levels
    content = tiff(stored, photometric=kind, bitspersample=bits)
    header = read_header(io.BytesIO(content))
    assert header.bits == bits
    assert header.full == (0, 255 if bits <= 8 else largest)
    expected = levels if kind == "minisblack" else largest - levels
    if bits < 8:
        expected = np.floor(expected * (255 / largest) + 0.5).astype(np.uint8)
    assert_pixels(content, expected)


WIDE = {
    "uint32": RNG.integers(0, 2**32, SHAPE, dtype=np.uint32),
    "int8": RNG.integers(-128, 128, SHAPE, dtype=np.int8),
    "int16": RNG.integers(-(2**15), 2**15, SHAPE, dtype=np.int16),
    "int32": RNG.integers(-(2**31), 2**31, SHAPE, dtype=np.int32),
    "float16": RNG.normal(20, 5, SHAPE).astype(np.float16),
    "float32": RNG.normal(20, 5, SHAPE).astype(np.float32),
    "float64": RNG.normal(20, 5, SHAPE),
}
for _levels in WIDE.values():
    if _levels.dtype.kind == "f":
        _levels[3, 5:9] = [np.nan, np.inf, -np.inf, 0]


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize(
    "options",
    [{}, {"byteorder": ">"}, {"compression": "zlib", "predictor": True}],
    ids=["little", "big", "predicted"],
)
def test_signed_wide_and_floating_point_samples(dtype, options):
    levels = WIDE[dtype]
    assert_pixels(tiff(levels, photometric="minisblack", **options), levels)
    rgb = np.stack([levels, levels[::-1], levels[:, ::-1]], axis=-1)
    assert_pixels(tiff(rgb, photometric="rgb", **options), rgb)
    planes = np.moveaxis(rgb, -1, 0)
    layout = {"photometric": "rgb", "planarconfig": "separate"}
    assert_pixels(tiff(planes, **layout, **options), rgb)
    inverted = tiff(levels, photometric="miniswhite", **options)
    if levels.dtype.kind == "f":
        assert_pixels(inverted, 1 - levels)
    else:
        ends = np.iinfo(dtype)
        expected = ends.max + (ends.min - levels.astype(np.int64))
        assert_pixels(inverted, expected.astype(dtype))
        assert read_header(io.BytesIO(inverted)).full == (ends.min, ends.max)


def test_every_page_is_a_picture_but_thumbnails_are_none():
    file = io.BytesIO()
    pages = samples(16, 3)
    with tifffile.TiffWriter(file) as writer:
        for index in range(3):
            writer.write(pages[..., index], photometric="minisblack", metadata=None)
            writer.write(GRAY8[::4, ::4], subfiletype=1, metadata=None)
    content = file.getvalue()
    assert read_header(io.BytesIO(content)).pages == 3
    for index in range(3):
        assert_pixels(content, pages[..., index].copy(), page=index)
    for index in (-1, 3):
        with pytest.raises(IndexError, match=f"no page {index + 1}, only 3"):
            decode(content, index)


def test_a_page_of_another_kind_is_refused():
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(GRAY8)
        writer.write(GRAY16)
    with pytest.raises(NotSupported, match="page 2 differs from the first"):
        decode(file.getvalue(), 1)


def test_pages_that_pillow_decodes():
    images = [Image.fromarray(x).convert("YCbCr") for x in (RGB8, RGB8[::-1])]
    options = {"compression": "jpeg", "save_all": True, "append_images": images[1:]}
    content = by_pillow(images[0], "TIFF", **options)
    first, second = (decode(content, index)[0].astype(int) for index in (0, 1))
    again = decode(by_pillow(images[1], "TIFF", compression="jpeg"))[0]
    np.testing.assert_array_equal(second, again)
    assert np.abs(first - second).max() > 100


def test_colours_multiplied_by_alpha_stay_as_stored():
    for colours in (samples(8, 4), samples(16, 4)):
        layout = {"photometric": "rgb", "extrasamples": ["assocalpha"]}
        content = tiff(colours, **layout)
        assert_pixels(content, colours[..., :3].copy())
        assert read_header(io.BytesIO(content)).extra == 1


@pytest.mark.parametrize("compression", ["lerc", "webp", "png", "jpegxl"])
def test_compressions_of_whole_pictures(compression):
    options = {"compression": compression}
    if compression != "lerc":
        options["compressionargs"] = {"level": 100 if compression == "webp" else 5}
        options["compressionargs"] |= {} if compression == "png" else {"lossless": True}
    assert_pixels(tiff(RGB8, photometric="rgb", **options), RGB8)


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt"])
def test_tiff_of_a_fax(compression):
    page = Image.fromarray(GRAY8 > 99)
    content = by_pillow(page, "TIFF", compression=compression)
    assert_pixels(content, np.where(GRAY8 > 99, 255, 0).astype(np.uint8))


def test_tiff_with_a_palette():
    colours = RNG.integers(0, 65536, (3, 256), dtype=np.uint16)
    content = tiff(GRAY8, photometric="palette", colormap=colours)
    assert_pixels(content, (colours.T // 256).astype(np.uint8)[GRAY8])
    # Some writers fill only the lower half of an entry.
    content = tiff(GRAY8, photometric="palette", colormap=colours // 256)
    assert_pixels(content, (colours.T // 256).astype(np.uint8)[GRAY8])
    few = RNG.integers(0, 256, (16, 3), dtype=np.uint8)
    levels = Image.fromarray(samples(4)).convert("P")
    levels.putpalette(few.tobytes())
    content = by_pillow(levels, "TIFF", bits=4)
    assert_pixels(content, few[np.asarray(levels)])


def test_tiff_of_inks():
    content = tiff(CMYK8, photometric="separated")
    paper = of_mode("CMYK", CMYK8).convert("RGB")
    assert_pixels(content, np.asarray(paper))
    light = 1 - CMYK16 / 65535
    expected = np.round(65535 * light[..., :3] * light[..., 3:])
    pixels, _ = decode(tiff(CMYK16, photometric="separated"))
    assert np.abs(pixels - expected).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_tiffs_that_pillow_decodes_are_turned_once(orientation):
    """Its own pixels, turned by it: luminance and chroma, JPEG."""
    tag = {"extratags": [(274, 3, 1, orientation, True)]}
    chroma = Image.fromarray(RGB8).convert("YCbCr")
    contents = (
        tiff(RGB8, photometric="rgb", compression="jpeg", **tag),
        tiff(GRAY8, compression="jpeg", **tag),
        by_pillow(chroma, "TIFF", tiffinfo={274: orientation}, compression="jpeg"),
    )
    for content in contents:
        with Image.open(io.BytesIO(content)) as image:
            mode = "L" if image.mode == "L" else "RGB"
            assert_pixels(content, np.asarray(image.convert(mode)))
        header = read_header(io.BytesIO(content))
        assert (header.decoder, header.orientation) == ("pillow", 1)


@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_luminance_and_chroma(planar, compression):
    stored = RGB8 if planar == "contig" else np.moveaxis(RGB8, -1, 0)
    layout = {"planarconfig": planar, "subsampling": (1, 1), "compression": compression}
    content = tiff(stored, photometric="ycbcr", **layout)
    expected = np.asarray(of_mode("YCbCr", RGB8).convert("RGB"))
    assert_pixels(content, expected)
    assert_pixels(
        tiff(
            stored,
            photometric="ycbcr",
            extratags=[(274, 3, 1, 6, True)],
            **layout,
        ),
        expected,
    )


def subsampled(luminance: np.ndarray, chroma: np.ndarray, packed: bool) -> bytes:
    """A TIFF of [H, W] luminance and [H / 2, W / 2, 2] chroma, in clusters."""
    height, width = luminance.shape
    fours = luminance.reshape(height // 2, 2, width // 2, 2).swapaxes(1, 2)
    clusters = np.concatenate([fours.reshape(*chroma.shape[:2], 4), chroma], axis=2)
    data = zlib.compress(clusters.tobytes()) if packed else clusters.tobytes()
    content = bytearray(
        tiff(
            iter([data if packed else data.ljust(3 * height * width)]),
            shape=(height, width, 3),
            dtype="uint8",
            photometric="ycbcr",
            subsampling=(1, 1),
            compression="zlib" if packed else None,
        )
    )
    with tifffile.TiffFile(io.BytesIO(bytes(content))) as file:
        place = file.pages[0].tags["YCbCrSubSampling"].valueoffset
    content[place : place + 4] = b"\2\0\2\0"
    return bytes(content)


def test_subsampled_chroma():
    luminance, chroma = samples(8)[:20, :32], samples(8, 2)[:10, :16]
    large = np.kron(chroma, np.ones((2, 2, 1), np.uint8))
    stored = np.dstack([luminance, large])
    expected = np.asarray(of_mode("YCbCr", stored).convert("RGB")).astype(int)
    pixels, header = decode(subsampled(luminance, chroma, packed=True))
    assert header.decoder == "pillow"
    assert np.abs(pixels - expected).max() <= 2
    with pytest.raises(NotSupported, match="subsampled YCbCr that is not compressed"):
        decode(subsampled(luminance, chroma, packed=False))


def test_a_circle_of_pages_ends():
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for index in range(3):
            writer.write(GRAY8 + np.uint8(index), metadata=None)
    content = bytearray(file.getvalue())
    with tifffile.TiffFile(io.BytesIO(bytes(content))) as opened:
        second, last = (opened.pages[index] for index in (1, 2))
        place = last.offset + 2 + 12 * len(last.tags)
        content[place : place + 4] = second.offset.to_bytes(4, "little")
    assert read_header(io.BytesIO(bytes(content))).pages == 3
    assert_pixels(bytes(content), GRAY8 + np.uint8(2), page=2)


def test_a_stack_is_looked_through_once(tmp_path, monkeypatch):
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, np.stack([GRAY16] * 5), photometric="minisblack")
    parsed = []
    real = tifffile.TiffPage.__init__

    def counted(self, *args, **options):
        parsed.append(args)
        real(self, *args, **options)

    monkeypatch.setattr(tifffile.TiffPage, "__init__", counted)
    for page in range(5):
        with path.open("rb") as file:
            np.testing.assert_array_equal(decode(file, page)[0], GRAY16)
    # Five to find the pictures; for each of these the first in both its openings.
    assert len(parsed) <= 5 + 5 * 3


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


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (tiff(GRAY8.astype(np.complex64)), "64-bit complex samples, 1 "),
        (tiff(GRAY8.astype(np.uint64)), "64-bit unsigned samples, 1 "),
        (tiff(GRAY8.astype(np.int64)), "64-bit signed samples, 1 "),
        (
            tiff(samples(16, 5), photometric="minisblack", planarconfig="contig"),
            "16-bit unsigned samples, 5 per pixel .gray",
        ),
        (
            by_pillow(Image.new("LAB", SHAPE), "TIFF"),
            "8-bit unsigned samples, 3 per pixel .photometric interpretation 8, CIELAB",
        ),
        (
            tiff(GRAY16, photometric="cfa"),
            "16-bit unsigned samples, 1 per pixel .photometric interpretation 32803",
        ),
        (
            tiff(
                np.zeros((4, 16, 16), np.uint8),
                volumetric=True,
                photometric="minisblack",
            ),
            "volumes, 4 planes",
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
    with pytest.raises(ValueError, match="says 60000x60000 pixels, of which at most"):
        read_header(io.BytesIO(bytes(forged)))
