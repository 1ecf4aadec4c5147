"""Finding, splitting and reading pairs, against OpenCV, tifffile and plain NumPy."""

import os
import re
import struct
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from data_pipelines.pairs import find_pairs
from data_pipelines.splits import read_split, split_pairs
from hkdnet_jax.common.errors import UserError, listing
from hkdnet_jax.common.image_files import image_size, read_gray, to_8_bit
from hkdnet_jax.common.pair_files import Pair, match_folders, match_fused, read_pair

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


def make_root(root: Path, stems, shape=(HEIGHT, WIDTH)) -> Path:
    for kind in ("ir", "vis"):
        for stem in stems:
            put(root / kind / f"{stem}.png", np.zeros(shape, np.uint8))
    return root


def assert_gray(path: Path, expected: np.ndarray) -> None:
    image = read_gray(path)
    assert image.dtype == expected.dtype
    np.testing.assert_array_equal(image, expected)
    assert image.dtype.isnative and image.flags.c_contiguous
    assert image_size(path) == image.shape


# --- reading ------------------------------------------------------------------------


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
    def chunk(kind: bytes, body: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + check

    pixels = np.concatenate([GRAY16[..., None], ALPHA16], axis=2)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, 4, 0, 0, 0)
    (tmp_path / "la.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
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


def test_to_uint8():
    every = np.arange(65536, dtype=np.uint16)
    expected = np.floor(every / 257 + 0.5).astype(np.uint8)
    np.testing.assert_array_equal(to_8_bit(every), expected)
    assert to_8_bit(GRAY8) is GRAY8
    # An 8-bit image saved as 16 bits comes back as it was.
    np.testing.assert_array_equal(to_8_bit(GRAY8.astype(np.uint16) * 257), GRAY8)
    with pytest.raises(TypeError, match="float32"):
        to_8_bit(np.zeros(3, np.float32))


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
    real = put(tmp_path / "real.tif", GRAY8.astype(np.float32))
    missing = tmp_path / "missing.png"
    for path, word in ((text, "cannot be read"), (missing, "does not exist")):
        for read in (read_gray, image_size):
            with pytest.raises(UserError, match=f"{path.name}.*{word}") as error:
                read(path)
            assert "object at" not in str(error.value)
    with pytest.raises(UserError, match=r"real\.tif.*'F'.*8 or 16 bit"):
        read_gray(real)


def test_read_pair(tmp_path):
    ir = put(tmp_path / "ir.png", GRAY8)
    vis = put(tmp_path / "vis.png", RGB8)
    images = read_pair(Pair("a", ir, vis))
    np.testing.assert_array_equal(images[0], GRAY8)
    np.testing.assert_array_equal(images[1], luma(RGB8))
    other = put(tmp_path / "other.png", GRAY8[:-1])
    with pytest.raises(UserError, match=r"ir\.png is 34x21.*other\.png is 34x20"):
        read_pair(Pair("a", ir, other))


# --- finding ------------------------------------------------------------------------


def test_match_folders(tmp_path):
    for name in ("b.png", "a.jpg", "c.d.TIF", ".hidden.png", "only_ir.bmp"):
        put(tmp_path / "ir" / name, GRAY8)
    for name in ("b.jpeg", "a.png", "c.d.png", "only_vis.png"):
        put(tmp_path / "vis" / name, GRAY8)
    (tmp_path / "ir" / "README.md").write_text("no image")
    pairs, problems = match_folders(tmp_path / "ir", tmp_path / "vis")
    assert [pair.name for pair in pairs] == ["a", "b", "c.d"]
    assert pairs[1] == Pair("b", tmp_path / "ir/b.png", tmp_path / "vis/b.jpeg")
    assert len(problems) == 2
    assert "only_ir.bmp has no partner" in problems[0]
    assert "only_vis.png has no partner" in problems[1]


def test_match_folders_stem_used_twice(tmp_path):
    make_root(tmp_path, ["a", "b"])
    put(tmp_path / "vis" / "a.jpg", GRAY8)
    pairs, problems = match_folders(tmp_path / "ir", tmp_path / "vis")
    assert [pair.name for pair in pairs] == ["b"]
    assert len(problems) == 1
    assert "a.jpg, a.png" in problems[0] and "vis" in problems[0]
    with pytest.raises(UserError, match=r"a\.jpg, a\.png"):
        find_pairs([tmp_path])


def test_match_folders_missing(tmp_path):
    with pytest.raises(UserError, match="nowhere is not a folder"):
        match_folders(tmp_path / "nowhere", tmp_path)


def test_match_fused(tmp_path):
    make_root(tmp_path, ["a", "b", "c", "d.e"])
    pairs, _ = match_folders(tmp_path / "ir", tmp_path / "vis")
    fused = tmp_path / "fused"
    for name in ("a.jpg", "b.png", "b.bmp", "d.e.tif", "stale.png", ".c.png"):
        put(fused / name, GRAY8)
    (fused / "c.txt").write_text("no image")
    files, problems = match_fused(fused, pairs)
    assert files == {"a": fused / "a.jpg", "d.e": fused / "d.e.tif"}
    assert len(problems) == 3
    assert "b.bmp, b.png" in problems[0]
    assert f"{fused / 'stale.png'} belongs to no pair" in problems[1]
    assert f"{fused} holds no 'c.*'" in problems[2]
    assert str(tmp_path / "ir" / "c.png") in problems[2]
    with pytest.raises(UserError, match="nowhere is not a folder"):
        match_fused(tmp_path / "nowhere", pairs)


def test_find_pairs_several_roots(tmp_path):
    roots = [make_root(tmp_path / "tno", ["2", "1"]), make_root(tmp_path / "m3fd", "1")]
    pairs = find_pairs([str(root) for root in roots])
    assert [pair.name for pair in pairs] == ["m3fd/1", "tno/1", "tno/2"]
    assert pairs[1].ir == tmp_path / "tno/ir/1.png"
    assert pairs[1].vis == tmp_path / "tno/vis/1.png"


def test_find_pairs_roots_of_equal_name(tmp_path):
    roots = [
        make_root(tmp_path / "msrs/train", ["1"]),
        make_root(tmp_path / "llvip/train", ["1"]),
        make_root(tmp_path / "tno", ["1"]),
    ]
    names = [pair.name for pair in find_pairs(roots)]
    assert names == ["llvip/train/1", "msrs/train/1", "tno/1"]
    deeper = [make_root(tmp_path / side / "x/train", ["1"]) for side in ("a", "b")]
    assert [pair.name for pair in find_pairs(deeper)] == ["a/x/train/1", "b/x/train/1"]
    (tmp_path / "link").symlink_to(tmp_path / "tno")
    for again in (f"{tmp_path}/msrs/../tno", tmp_path / "link"):
        with pytest.raises(UserError, match="given twice"):
            find_pairs([*roots, again])


def test_find_pairs_relative_root(tmp_path, monkeypatch):
    monkeypatch.chdir(make_root(tmp_path / "tno", ["1"]))
    assert [pair.name for pair in find_pairs(["."])] == ["tno/1"]
    assert [pair.name for pair in find_pairs(["ir/.."])] == ["tno/1"]


def test_find_pairs_without_pairs(tmp_path):
    with pytest.raises(UserError, match="No data folder"):
        find_pairs([])
    with pytest.raises(UserError, match=f"{tmp_path}.*ir/ and vis/"):
        find_pairs([tmp_path])
    (tmp_path / "ir").mkdir()
    (tmp_path / "vis").mkdir()
    with pytest.raises(UserError, match=f"{tmp_path} holds no pairs.*ir/ and vis/"):
        find_pairs([tmp_path])


def test_find_pairs_lists_ten_problems_and_counts_the_rest(tmp_path):
    make_root(tmp_path, ["good"])
    for i in range(13):
        put(tmp_path / "ir" / f"lone{i:02d}.png", GRAY8)
    with pytest.raises(UserError) as caught:
        find_pairs([tmp_path])
    message = str(caught.value)
    assert "lone09.png" in message and "lone10" not in message
    assert "and 3 more" in message and "\n" not in message


def test_listing():
    assert listing(["a", "b"]) == "a; b"
    assert listing(["a", "b", "c"], limit=2) == "a; b; and 1 more"


# --- splitting ----------------------------------------------------------------------


def made_up(names) -> list[Pair]:
    return [Pair(name, Path("ir", name), Path("vis", name)) for name in names]


def names_of(pairs) -> list[str]:
    return [pair.name for pair in pairs]


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_read_split(tmp_path):
    text = "\ufeff# header\n\n a b \r\nroot/c#1  # why\n#d\n"
    assert read_split(write(tmp_path / "s.txt", text)) == ["a b", "root/c#1"]
    with pytest.raises(UserError, match=r"e\.txt names no pair"):
        read_split(write(tmp_path / "e.txt", "# nothing\n"))
    with pytest.raises(UserError, match=r"no\.txt cannot be read"):
        read_split(tmp_path / "no.txt")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"b\.txt cannot be read"):
        read_split(tmp_path / "b.txt")


def test_split_files(tmp_path):
    pairs = made_up(["x/1", "x/2", "x/3", "y/1", "y/4"])
    train_file = write(tmp_path / "train.txt", "4\nx/1\nx/1\n")
    val_file = write(tmp_path / "val.txt", "3\ny/1\n")
    train, val = split_pairs(pairs, train_file, val_file, 0.1)
    assert names_of(train) == ["x/1", "y/4"] and names_of(val) == ["x/3", "y/1"]
    train, val = split_pairs(pairs, train_file, "", 0.1)
    assert names_of(val) == ["x/2", "x/3", "y/1"]
    train, val = split_pairs(pairs, "", val_file, 0.1)
    assert names_of(train) == ["x/1", "x/2", "y/4"] and names_of(val) == ["x/3", "y/1"]


def test_split_file_mistakes(tmp_path):
    pairs = made_up(["x/1", "x/2", "y/1"])
    unknown = write(tmp_path / "unknown.txt", "2\nx/9\n2.png\n")
    with pytest.raises(UserError, match=r"unknown\.txt.*: x/9; 2\.png\.$"):
        split_pairs(pairs, unknown, "", 0.1)
    vague = write(tmp_path / "vague.txt", "1\n")
    with pytest.raises(UserError, match=r"vague\.txt.*rootname/stem.*: 1\.$"):
        split_pairs(pairs, vague, "", 0.1)
    one, two = write(tmp_path / "one", "x/1\nx/2"), write(tmp_path / "two", "2\n")
    with pytest.raises(UserError, match=r"one and .*two both name x/2"):
        split_pairs(pairs, one, two, 0.1)
    everything = write(tmp_path / "all", "x/1\nx/2\ny/1\n")
    with pytest.raises(UserError, match="No pair is left for training"):
        split_pairs(pairs, "", everything, 0.1)


def test_hash_split_is_stable():
    pairs = made_up([f"root/{i}" for i in range(2000)])
    train, val = split_pairs(pairs, "", "", 0.1)
    assert 150 < len(val) < 250
    assert sorted(names_of(train + val)) == sorted(names_of(pairs))
    # Frozen: another version must not move pairs between training and validation.
    assert names_of(val)[:4] == ["root/9", "root/39", "root/49", "root/51"]
    # More pairs, another order or another folder name move none of them.
    renamed = made_up([f"other/{i}" for i in reversed(range(3000))])
    more = set(names_of(split_pairs(renamed, "", "", 0.1)[1]))
    kept = {f"other/{i}" for i in range(2000)} & more
    assert kept == {name.replace("root", "other") for name in names_of(val)}
    # A larger fraction only adds.
    assert set(val) < set(split_pairs(pairs, "", "", 0.2)[1])


def test_hash_split_of_one_pair_is_for_training():
    for stem in range(20):
        pairs = made_up([f"r/{stem}"])
        assert split_pairs(pairs, "", "", 0.5) == (pairs, [])


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.999])
def test_hash_split_of_few_pairs_leaves_no_side_empty(count, fraction):
    for start in range(20):
        pairs = made_up([f"r/{start + i}" for i in range(count)])
        train, val = split_pairs(pairs, "", "", fraction)
        assert train and val and len(train) + len(val) == count


def test_hash_split_limits():
    pairs = made_up(["r/1", "r/2"])
    assert split_pairs(pairs, "", "", 0.0) == (pairs, [])
    assert split_pairs(pairs[:1], "", "", 0.0) == (pairs[:1], [])
    for bad in (-0.1, 1.0, float("nan")):
        with pytest.raises(UserError, match="val_fraction is"):
            split_pairs(pairs, "", "", bad)


# --- real data ----------------------------------------------------------------------


def test_real_pairs(real_data):
    pairs = find_pairs([real_data / "roadscene"])
    assert len(pairs) == 221
    assert pairs[0].name == "roadscene/FLIR_00006"
    train, val = split_pairs(pairs, "", "", 0.1)
    assert len(train) + len(val) == 221 and 10 < len(val) < 35
    for pair in pairs[::40]:
        ir, vis = read_pair(pair)
        assert ir.shape == vis.shape == image_size(pair.ir) == image_size(pair.vis)
        assert ir.dtype == vis.dtype == np.uint8
        reference = cv2.imread(os.fspath(pair.vis), cv2.IMREAD_GRAYSCALE)
        assert np.abs(vis.astype(int) - reference).mean() < 1
