"""Reading and writing image files, against OpenCV, tifffile and plain NumPy."""

import io
import os
import re
import tempfile
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from image_bytes import chunk, png
from PIL import Image

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.image_files import (
    DEPTHS,
    OUTPUT_SUFFIXES,
    check_depth,
    encode,
    image_size,
    page_count,
    quantize,
    read,
    read_gray,
    to_8_bit,
)

RNG = np.random.default_rng(7)
HEIGHT, WIDTH = 21, 34  # odd and unequal, so that a swap or a shift shows
GRAY8 = RNG.integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)
GRAY16 = RNG.integers(0, 65536, (HEIGHT, WIDTH), dtype=np.uint16)
RGB8 = RNG.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
RGB16 = RNG.integers(0, 65536, (HEIGHT, WIDTH, 3), dtype=np.uint16)
ALPHA8 = RNG.integers(0, 256, (HEIGHT, WIDTH, 1), dtype=np.uint8)
ALPHA16 = RNG.integers(0, 65536, (HEIGHT, WIDTH, 1), dtype=np.uint16)


def luma(rgb: np.ndarray) -> np.ndarray:
    """MATLAB's rgb2gray, halves up."""
    levels = rgb[..., :3] @ np.array([0.298936, 0.587043, 0.114021])
    return np.floor(levels.round(9) + 0.5).astype(rgb.dtype)


def put(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return path


def assert_gray(path: Path, expected: np.ndarray) -> None:
    image = read_gray(path)
    assert image.dtype == expected.dtype
    np.testing.assert_array_equal(image, expected)
    assert image.dtype.isnative and image.flags.c_contiguous
    assert image_size(path) == image.shape


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "TIFF"])
def test_lossless_8_bit_gray_and_colour(tmp_path, suffix):
    assert_gray(put(tmp_path / f"gray.{suffix}", GRAY8), GRAY8)
    assert_gray(put(tmp_path / f"rgb.{suffix}", RGB8), luma(RGB8))


def test_gray_stored_as_rgb_is_unchanged(tmp_path):
    same = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    assert_gray(put(tmp_path / "a.png", same), same[..., 0])


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_alpha_is_ignored_8_bit(tmp_path, suffix):
    rgba = np.concatenate([RGB8, ALPHA8], axis=2)
    assert_gray(put(tmp_path / f"rgba.{suffix}", rgba), luma(RGB8))
    gray_alpha = np.concatenate([GRAY8[..., None], ALPHA8], axis=2)
    assert_gray(put(tmp_path / f"la.{suffix}", gray_alpha), GRAY8)


def test_jpeg_agrees_with_opencv(tmp_path):
    smooth = cv2.GaussianBlur(RGB8, (9, 9), 3)
    path = tmp_path / "a.jpg"
    Image.fromarray(smooth).save(path, quality=95)
    decoded = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    assert np.abs(read_gray(path).astype(int) - luma(decoded)).max() <= 2
    Image.fromarray(smooth[..., 0]).save(path, quality=95)
    decoded = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert np.abs(read_gray(path).astype(int) - decoded).max() <= 1


def test_cmyk_jpeg_is_read_as_colour(tmp_path):
    flat = np.full((HEIGHT, WIDTH, 3), (200, 80, 40), np.uint8)
    Image.fromarray(flat).convert("CMYK").save(tmp_path / "a.jpg", quality=100)
    assert np.abs(read_gray(tmp_path / "a.jpg").astype(int) - luma(flat)).max() <= 3


@pytest.mark.parametrize("transparent", [False, True])
def test_palette(tmp_path, transparent):
    colours = RNG.integers(0, 256, (256, 3), dtype=np.uint8)
    image = Image.fromarray(GRAY8)
    image = image.convert("P")
    image.putpalette(colours.tobytes())
    options = {"transparency": bytes(range(256))} if transparent else {}
    image.save(tmp_path / "a.png", **options)
    assert_gray(tmp_path / "a.png", luma(colours[GRAY8]))


def test_one_bit_becomes_black_and_white(tmp_path):
    put(tmp_path / "a.png", GRAY8 > 99)
    assert_gray(tmp_path / "a.png", np.where(GRAY8 > 99, 255, 0).astype(np.uint8))


def test_16_bit_png(tmp_path):
    cv2.imwrite(str(tmp_path / "gray.png"), GRAY16)
    assert_gray(tmp_path / "gray.png", GRAY16)
    cv2.imwrite(str(tmp_path / "rgb.png"), RGB16[..., ::-1])
    assert_gray(tmp_path / "rgb.png", luma(RGB16))
    rgba = np.concatenate([RGB16[..., ::-1], ALPHA16], axis=2)
    cv2.imwrite(str(tmp_path / "rgba.png"), rgba)
    assert_gray(tmp_path / "rgba.png", luma(RGB16))


def test_16_bit_png_gray_with_alpha(tmp_path):
    pixels = np.concatenate([GRAY16[..., None], ALPHA16], axis=2)
    (tmp_path / "la.png").write_bytes(png(pixels))
    assert_gray(tmp_path / "la.png", GRAY16)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    "options",
    [{}, {"compression": "zlib", "predictor": True}, {"rowsperstrip": 4}],
    ids=["plain", "zlib", "strips"],
)
def test_16_bit_tiff(tmp_path, order, options):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, GRAY16, byteorder=order, **options)
    assert_gray(path, GRAY16)
    tifffile.imwrite(path, RGB16, byteorder=order, photometric="rgb", **options)
    assert_gray(path, luma(RGB16))
    for kind in ("unassalpha", "assocalpha", "unspecified"):
        rgba = np.concatenate([RGB16, ALPHA16], axis=2)
        extra = {"photometric": "rgb", "extrasamples": [kind]}
        tifffile.imwrite(path, rgba, byteorder=order, **extra, **options)
        assert_gray(path, luma(RGB16))


# What each orientation does to a stored image, in terms other than the code's.
TURNS = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(np.transpose(a), 2),
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", TURNS)
def test_exif_orientation(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(GRAY8).save(tmp_path / "a.png", exif=exif)
    assert_gray(tmp_path / "a.png", TURNS[orientation](GRAY8))

    half = np.zeros((48, 64), np.uint8)
    half[:16, :32] = 255
    Image.fromarray(half).save(tmp_path / "a.jpg", exif=exif)
    image, expected = read_gray(tmp_path / "a.jpg"), TURNS[orientation](half)
    assert image_size(tmp_path / "a.jpg") == image.shape == expected.shape
    assert np.abs(image.astype(int) - expected).max() < 40

    for compression in (None, "zlib"):
        for stored in (GRAY8, GRAY16, RGB16):
            expected = luma(stored) if stored.ndim == 3 else stored
            tifffile.imwrite(
                tmp_path / "a.tif",
                stored,
                photometric="rgb" if stored.ndim == 3 else "minisblack",
                compression=compression,
                extratags=[(274, 3, 1, orientation, True)],
            )
            assert_gray(tmp_path / "a.tif", TURNS[orientation](expected))


def orienting_chunk(kind: str, orientation: int) -> bytes:
    """A PNG chunk of a kind in which programs leave the orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = exif.tobytes()
    if kind == "exif":
        return chunk(b"eXIf", content.removeprefix(b"Exif\0\0"))
    if kind == "xmp":
        text = f'<rdf:Description tiff:Orientation="{orientation}"/>'.encode()
        return chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + text)
    profile = f"\nexif\n{len(content):8}\n{content.hex()}\n".encode()
    keyword = b"Raw profile type exif\0"
    if kind == "raw profile":
        return chunk(b"tEXt", keyword + profile)
    return chunk(b"zTXt", keyword + b"\0" + zlib.compress(profile))


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("kind", ["exif", "xmp", "raw profile", "packed raw profile"])
@pytest.mark.parametrize(
    "stored", [GRAY8, GRAY16, RGB8, RGB16], ids=["g8", "g16", "c8", "c16"]
)
def test_orientation_of_a_png_wherever_it_stands(tmp_path, stored, kind, place):
    expected = luma(stored) if stored.ndim == 3 else stored
    path = tmp_path / "a.png"
    for orientation in (3, 6):
        mark = {place: orienting_chunk(kind, orientation)}
        path.write_bytes(png(stored.reshape(HEIGHT, WIDTH, -1), **mark))
        assert_gray(path, TURNS[orientation](expected))


def test_orientation_of_a_tiff_in_xmp(tmp_path):
    text = b'<rdf:Description tiff:Orientation="6"/>'
    extra = [(700, 1, len(text), text, True)]
    tifffile.imwrite(tmp_path / "a.tif", GRAY8, extratags=extra)
    assert_gray(tmp_path / "a.tif", TURNS[6](GRAY8))
    # The tag itself counts first.
    extra.append((274, 3, 1, 3, True))
    tifffile.imwrite(tmp_path / "a.tif", GRAY8, extratags=extra)
    assert_gray(tmp_path / "a.tif", TURNS[3](GRAY8))


@settings(deadline=None, max_examples=150)
@given(
    kind=st.sampled_from(["PNG", "JPEG", "BMP", "TIFF"]),
    mode=st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"]),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    orientation=st.sampled_from([None, *TURNS]),
)
def test_the_header_tells_the_size_that_is_read(kind, mode, size, orientation):
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    image = Image.new(mode, size)
    if mode == "P":
        image.putpalette(bytes(range(256)) * 3)
    content = io.BytesIO()
    try:
        image.save(content, kind, exif=exif)
    except OSError:
        return  # the format has no such pixels
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a")
        path.write_bytes(content.getvalue())
        turned = kind != "BMP" and orientation in (5, 6, 7, 8)
        assert image_size(path) == (size if turned else size[::-1])
        assert read_gray(path).shape == image_size(path)


def test_to_uint8():
    every = np.arange(65536, dtype=np.uint16)
    expected = np.floor(every / 257 + 0.5).astype(np.uint8)
    np.testing.assert_array_equal(to_8_bit(every), expected)
    assert to_8_bit(GRAY8) is GRAY8
    # An 8-bit image saved as 16 bits comes back as it was.
    np.testing.assert_array_equal(to_8_bit(GRAY8.astype(np.uint16) * 257), GRAY8)
    with pytest.raises(TypeError, match="float32"):
        to_8_bit(np.zeros(3, np.float32))


@pytest.mark.parametrize("suffix", OUTPUT_SUFFIXES)
def test_encode_is_undone_by_reading(tmp_path, suffix):
    smooth = cv2.GaussianBlur(RGB8, (9, 9), 3)
    for image in (smooth, smooth[..., 0]):
        for path in (tmp_path / f"a{suffix}", tmp_path / f"b{suffix.upper()}"):
            path.write_bytes(encode(image, path))
            again = read(path).pixels
            assert again.shape == image.shape
            loss = 12 if suffix in (".jpg", ".jpeg") else 0
            assert np.abs(again.astype(int) - image).max() <= loss


@pytest.mark.parametrize(
    "bad", [GRAY16.astype(int), RGB8 / 255, RGB8[..., :2], GRAY8[0]]
)
def test_encode_refuses_what_is_no_picture(bad):
    with pytest.raises(
        ValueError, match=r"must be HxW or HxWx3 of dtype uint8, .*, not "
    ):
        encode(bad, Path("a.png"))


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif"])
def test_truncated_file_is_named(tmp_path, suffix):
    whole = put(tmp_path / f"whole.{suffix}", RGB8).read_bytes()
    path = tmp_path / f"cut.{suffix}"
    for length in (len(whole) * 2 // 3, 20, 3, 0):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=re.escape(str(path))):
            read_gray(path)


def test_noise_in_a_file_gives_an_image_or_a_user_error(tmp_path):
    files = [put(tmp_path / f"a.{s}", RGB8) for s in ("png", "jpg", "bmp", "tif")]
    tifffile.imwrite(tmp_path / "b.tif", RGB16, photometric="rgb", compression="zlib")
    rng = np.random.default_rng(0)
    failed = 0
    for path in [*files, tmp_path / "b.tif"]:
        whole = np.frombuffer(path.read_bytes(), np.uint8)
        for _ in range(40):
            noisy = whole.copy()
            noisy[rng.integers(len(noisy), size=12)] = rng.integers(256, size=12)
            path.write_bytes(noisy.tobytes())
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow's, about odd metadata
                try:
                    assert read_gray(path).ndim == 2
                except UserError as error:
                    failed += 1
                    assert str(path) in str(error)
    assert failed > 20


def test_other_files_are_named(tmp_path):
    text = tmp_path / "text.png"
    text.write_text("not an image")
    missing = tmp_path / "missing.png"
    for path, word in ((text, "cannot be read"), (missing, "does not exist")):
        for function in (read, read_gray, image_size):
            with pytest.raises(UserError, match=f"{path.name}.*{word}") as error:
                function(path)
            assert "object at" not in str(error.value)


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    for name, says in (
        ("pipe.png", "it is no regular file"),
        ("folder.png", "it is a folder"),
        ("loop.png", "Too many levels of symbolic links"),
        ("n" * 300 + ".png", "name too long"),
    ):
        for function in (read, read_gray, image_size, page_count):
            with pytest.raises(UserError, match=rf"{name} cannot be read.*{says}"):
                function(tmp_path / name)


def test_a_kind_that_is_not_read_is_named(tmp_path):
    path = tmp_path / "complex.tif"
    tifffile.imwrite(path, GRAY8.astype(np.complex64))
    for function in (read, read_gray, image_size, page_count):
        says = r"complex\.tif is a TIFF of 64-bit complex.*8-bit or 16-bit gray"
        with pytest.raises(UserError, match=says):
            function(path)
    (tmp_path / "phone.jpg").write_bytes(b"\0\0\0\x20ftypheic" + bytes(99))
    with pytest.raises(UserError, match=r"phone\.jpg is a HEIC file; save it as"):
        read(tmp_path / "phone.jpg")


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_white_is_white_whatever_the_depth(tmp_path, bits):
    levels, largest = GRAY16 >> (16 - bits), 2**bits - 1
    tifffile.imwrite(tmp_path / "a.tif", levels, bitspersample=bits)
    np.testing.assert_array_equal(read(tmp_path / "a.tif").pixels, levels)
    expected = np.floor(levels * (65535 / largest) + 0.5).astype(np.uint16)
    assert_gray(tmp_path / "a.tif", expected)
    assert to_8_bit(read_gray(tmp_path / "a.tif")).max() >= 250


def test_levels_without_a_fixed_white_are_no_gray_picture(tmp_path):
    path = put(tmp_path / "degrees.tif", GRAY8.astype(np.float32))
    with pytest.raises(UserError, match=r"degrees\.tif holds float32 levels"):
        read_gray(path)
    picture = read(path)
    assert (picture.bits, picture.full, picture.notes) == (32, (0, 1), ())
    assert picture.pixels.dtype == np.float32 and not picture.is_colour


def test_what_is_left_out_is_said(tmp_path):
    rgba = np.concatenate([RGB8, ALPHA8], axis=2)
    picture = read(put(tmp_path / "rgba.png", rgba))
    assert picture.notes == ("Alpha and other channels beside the colour are ignored.",)
    assert picture.is_colour
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, np.stack([GRAY16] * 4), photometric="minisblack")
    assert page_count(path) == 4
    (note,) = read(path).notes
    assert "4 pages, of which only the first" in note and "--pages all" in note
    assert read(path, 3).notes == ()
    with pytest.raises(UserError, match=r"stack\.tif cannot.*no page 5, only 4"):
        read(path, 4)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("suffix", [".png", ".tiff", ".npy"])
def test_deep_pictures_are_undone_by_reading(tmp_path, suffix, depth):
    unit = RNG.uniform(-0.2, 1.2, (HEIGHT, WIDTH, 3)).astype(np.float32)
    for image in (unit, unit[..., 0].copy()):
        levels = quantize(image, depth)
        expected = np.clip(image.astype(np.float64), 0, 1)
        largest, error = (1, 0) if depth == "float" else (2 ** int(depth) - 1, 0.51)
        assert np.abs(levels - expected * largest).max() <= error
        path = tmp_path / f"a{suffix}"
        if (suffix, depth) == (".png", "float"):
            with pytest.raises(UserError, match=r"a\.png cannot .* \.tiff or \.npy"):
                encode(levels, path)
            continue
        path.write_bytes(encode(levels, path))
        again = read(path).pixels
        assert again.dtype == levels.dtype
        np.testing.assert_array_equal(again, levels)


@pytest.mark.parametrize("suffix", [".jpg", ".bmp"])
def test_formats_of_8_bits_hold_no_more(suffix):
    for depth in ("16", "float"):
        with pytest.raises(UserError, match=rf"a\{suffix} cannot hold levels of depth"):
            check_depth(Path(f"a{suffix}"), depth)
    check_depth(Path(f"a{suffix}"), "8")
