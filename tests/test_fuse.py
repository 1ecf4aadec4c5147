"""`fuse` on pairs and folders: the pictures that it writes, and what it says."""

import functools
import os
from pathlib import Path

import command_fixtures
import jax
import numpy as np
import pytest
import tifffile
from command_fixtures import H, W, make_pair, random_params, write
from fuse_fixtures import config_of, folder_flags, network_of, pair_flags
from PIL import Image

from hkdnet_jax import fuse
from hkdnet_jax.common import image_files, levels
from hkdnet_jax.inference.pair import fuse_pair
from hkdnet_jax.model_files import file_format
from hkdnet_jax.model_files.model import Model


def read(path):
    return np.asarray(Image.open(path))


@pytest.fixture
def pair(tmp_path):
    """Arguments --ir --vis of one pair of files."""
    return pair_flags(tmp_path)


@pytest.fixture
def folders(tmp_path):
    """Arguments --ir --vis of two folders with the pairs a, b and c."""
    return folder_flags(tmp_path)


run = functools.partial(command_fixtures.run, fuse)
fails = functools.partial(command_fixtures.fails, fuse)


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [(".png", "PNG"), (".jpg", "JPEG"), (".BMP", "BMP"), (".tif", "TIFF")],
)
def test_suffix_decides_the_format(models, pair, tmp_path, capfd, suffix, kind):
    out = tmp_path / "new" / f"fused{suffix}"
    code, said, errors = run(capfd, *pair, "--out", out, "--model", models[2])
    assert (code, errors) == (0, [])
    assert said == f"Wrote {out} ({2 * W}x{2 * H}).\n"
    assert os.listdir(out.parent) == [out.name]
    with Image.open(out) as image:
        assert (image.format, image.mode) == (kind, "L")
        fused = np.asarray(image).astype(int)
    expected = fuse_pair(Model.load(models[2]), *make_pair()).astype(int)
    limit = 30 if kind == "JPEG" else 0
    assert np.abs(fused - expected).max() <= limit


def test_options_reach_the_pair(models, pair, tmp_path, capfd):
    model = Model.load(models[2])
    out = tmp_path / "fused.png"
    common = (*pair, "--out", out, "--model", models[2], "--scale", 2)
    for flags, kwargs in (
        (["--normalize", "minmax"], {"normalize": "minmax"}),
        (["--stretch"], {"stretch": True}),
        ([], {}),
    ):
        assert run(capfd, *common, *flags)[0] == 0
        expected = fuse_pair(model, *make_pair(), **kwargs)
        np.testing.assert_array_equal(read(out), expected)


def test_dtype_is_that_of_the_students_arithmetic(models, pair, tmp_path, capfd):
    args = *pair, "--out", tmp_path / "o.png", "--model", models[2]
    pictures = {}
    for dtype in ("float32", "bfloat16"):
        assert run(capfd, *args, "--dtype", dtype)[0] == 0
        pictures[dtype] = read(tmp_path / "o.png")
    model = Model.load(models[2])
    for dtype, picture in pictures.items():
        wanted = fuse_pair(model.astype(dtype), *make_pair())
        np.testing.assert_array_equal(picture, wanted)
    assert np.any(pictures["float32"] != pictures["bfloat16"])
    with pytest.raises(ValueError, match=r"float32.*float64"):
        model.astype("float64")


def test_a_teacher_computes_in_float32_alone(models, pair, tmp_path, capfd):
    args = *pair, "--out", tmp_path / "o.png", "--model", models[1]
    fails(capfd, *args, "--dtype", "bfloat16", says=["teacher", "bfloat16", "drop"])
    assert Model.load(models[1]).astype("float32").scale == 1


def test_luma_is_fused_and_gets_the_visible_colour(models, tmp_path, capfd):
    rgb = np.random.default_rng(3).integers(100, 156, (H, W, 3), dtype=np.uint8)
    ir, _ = make_pair()
    write(tmp_path / "vis.png", rgb)
    write(tmp_path / "ir.png", np.dstack([ir] * 3))
    out = tmp_path / "out.png"
    args = ["--ir", tmp_path / "ir.png", "--vis", tmp_path / "vis.png"]
    args += ["--out", out, "--model", models[2]]
    weights = np.array([0.298936, 0.587043, 0.114021])
    luma = np.round(rgb @ weights).astype(np.uint8)
    expected = fuse_pair(Model.load(models[2]), ir, luma).astype(int)
    assert run(capfd, *args, "--color", "gray")[0] == 0
    assert np.abs(read(out) - expected).max() <= 1
    assert run(capfd, *args)[0] == 0
    picture = read(out)
    assert picture.shape == (2 * H, 2 * W, 3)
    assert np.abs(picture @ weights - expected).max() <= 1
    np.testing.assert_array_equal(
        picture, Model.load(models[2])(np.dstack([ir] * 3), rgb)
    )


def test_gray_stays_gray(models, pair, tmp_path, capfd):
    out = tmp_path / "o.png"
    _, vis = make_pair()
    write(Path(pair[3]), np.dstack([vis] * 3))
    args = *pair, "--out", out, "--model", models[2]
    assert run(capfd, *args)[0] == 0
    gray = read(out)
    assert run(capfd, *args, "--color", "rgb")[0] == 0
    np.testing.assert_array_equal(read(out), np.dstack([gray] * 3))
    assert gray.ndim == 2


def test_depth_of_files(models, pair, tmp_path, capfd):
    ir, vis = make_pair()
    ir16 = write(tmp_path / "ir16.png", ir.astype(np.uint16) * 257)
    vis16 = write(tmp_path / "vis16.tif", vis.astype(np.uint16) * 257)
    args = ["--out", tmp_path / "a.png", "--model", models[2]]
    args += ["--ir-range", "full", "--vis-range", "full"]
    assert run(capfd, *pair, *args)[0] == 0
    args[1] = tmp_path / "b.png"
    assert run(capfd, "--ir", ir16, "--vis", vis16, *args)[0] == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_levels_are_taken_once_and_said(models, tmp_path, capfd):
    model, deep = Model.load(models[2]), []
    for seed, stem in enumerate("ab"):
        ir, vis = make_pair(seed)
        deep.append(ir.astype(np.uint16) * 5 + 7000)
        write(tmp_path / "ir" / f"{stem}.tif", deep[-1])
        write(tmp_path / "vis" / f"{stem}.png", vis)
    out = tmp_path / "out"
    args = ["--ir", tmp_path / "ir", "--vis", tmp_path / "vis", "--out", out]
    args += ["--model", models[2]]
    code, said, errors = run(capfd, *args)
    taken = levels.pooled(deep)
    assert (code, errors) == (0, [])
    assert said.startswith(f"Levels of the infrared files: {taken} (0.1 to 99.9 %)")
    for number, stem in enumerate("ab"):
        _, vis = make_pair(number)
        expected = model(deep[number], vis, ir_range=tuple(taken))
        assert np.abs(read(out / f"{stem}.png").astype(int) - expected).max() <= 1
    code, said, _ = run(capfd, *args, "--ir-range", "7000:8275")
    assert (code, said) == (0, f"Wrote 2 fused pictures to {out}.\n")
    expected = fuse_pair(model, *make_pair(0)).astype(int)
    assert np.abs(read(out / "a.png") - expected).max() <= 1


@pytest.mark.parametrize(("depth", "suffix"), [("16", ".png"), ("float", ".tiff")])
def test_depths_of_outputs(models, folders, tmp_path, capfd, depth, suffix):
    out = tmp_path / "out"
    args = (*folders, "--out", out, "--model", models[2], "--output-depth", depth)
    assert run(capfd, *args)[0] == 0
    assert sorted(os.listdir(out)) == [f"{stem}{suffix}" for stem in "abc"]
    expected = Model.load(models[2])(*make_pair(0), depth=depth)
    got = image_files.read(out / f"a{suffix}").pixels
    assert got.dtype == expected.dtype
    largest = 1 if depth == "float" else 65535
    assert np.abs(got.astype(float) - expected).max() <= 1e-4 * largest


def test_a_format_that_cannot_hold_the_depth_is_refused(models, pair, tmp_path, capfd):
    args = *pair, "--out", tmp_path / "o.jpg", "--model", models[2]
    fails(capfd, *args, "--output-depth", "16", says=["o.jpg cannot hold", ".tiff"])
    assert not (tmp_path / "o.jpg").exists()


def test_pages_of_a_stack(models, tmp_path, capfd):
    pairs = [make_pair(seed) for seed in range(3)]
    for side, images in zip(("ir", "vis"), zip(*pairs, strict=True), strict=True):
        tifffile.imwrite(
            tmp_path / f"{side}.tif", np.stack(images), photometric="minisblack"
        )
    args = ["--ir", tmp_path / "ir.tif", "--vis", tmp_path / "vis.tif"]
    args += ["--out", tmp_path / "o" / "x.png", "--model", models[2]]
    code, said, notes = run(capfd, *args)
    assert (code, said) == (0, f"Wrote {args[5]} ({2 * W}x{2 * H}).\n")
    assert len(notes) == 1 and "note: " in notes[0] and "It has 3 pages" in notes[0]
    code, said, notes = run(capfd, *args, "--pages", "all")
    assert (code, notes) == (0, [])
    assert said == f"Wrote 3 fused pictures to {tmp_path / 'o'}.\n"
    for number, pair in enumerate(pairs):
        expected = fuse_pair(Model.load(models[2]), *pair).astype(int)
        assert np.abs(read(tmp_path / f"o/x_{number + 1}.png") - expected).max() <= 1


def test_what_is_left_out_is_said_once(models, tmp_path, capfd):
    ir, vis = make_pair()
    for stem in "abc":
        write(tmp_path / "ir" / f"{stem}.png", ir)
        write(tmp_path / "vis" / f"{stem}.png", np.dstack([vis, vis, vis, ir]))
    args = ["--ir", tmp_path / "ir", "--vis", tmp_path / "vis"]
    code, _, notes = run(capfd, *args, "--out", tmp_path / "o", "--model", models[2])
    assert code == 0
    (note,) = notes
    assert note.endswith(
        "a.png: Alpha and other channels beside the colour are ignored."
    )


def test_folder_equals_single_files_and_is_deterministic(
    models, folders, tmp_path, capfd
):
    out = tmp_path / "out"
    write(out / "a.png", np.zeros((3, 3), np.uint8))  # is replaced
    args = (*folders, "--out", out, "--model", models[2])
    assert run(capfd, *args) == (0, f"Wrote 3 fused pictures to {out}.\n", [])
    first = {path.name: path.read_bytes() for path in out.iterdir()}
    assert sorted(first) == ["a.png", "b.png", "c.png"]
    assert run(capfd, *args)[0] == 0
    for name, content in first.items():
        assert (out / name).read_bytes() == content
        single = tmp_path / "single.png"
        files = ("--ir", tmp_path / "ir" / name, "--vis", tmp_path / "vis" / name)
        assert run(capfd, *files, "--out", single, "--model", models[2])[0] == 0
        assert single.read_bytes() == content


def test_tiles_are_blended_and_said(tmp_path, capfd):
    height, width = 100, 150
    ys, xs = np.mgrid[:height, :width] / 150
    smooth = np.rint(255 * (0.5 + 0.4 * np.sin(3 * xs + 2 * ys))).astype(np.uint8)
    flat = np.full_like(smooth, 90)
    files = [
        f"--{kind}={write(tmp_path / kind / 's.png', image)}"
        for kind, image in (("ir", smooth), ("vis", flat))
    ]
    # Weights as wild as those of `models` make noise of any image.
    calm = jax.tree.map(lambda p: 0.3 * p, random_params(network_of(2)))
    file_format.save_model(tmp_path / "calm", config_of(2), calm)
    model = Model.load(tmp_path / "calm")
    for name, tile, says in (
        ("whole", 150, "none was cut"),
        ("tiled", 64, "1 of 1 inputs were cut into 6 tiles of at most 64x64 pixels"),
    ):
        args = (*files, "--model", tmp_path / "calm", "--tile", tile)
        code, said, errors = run(capfd, *args, "--out", tmp_path / f"{name}.png")
        assert (code, errors) == (0, [])
        assert f"Wrote {tmp_path / name}.png (300x200).\n" in said and says in said
    whole, tiled = (read(tmp_path / f"{n}.png").astype(int) for n in ("whole", "tiled"))
    np.testing.assert_array_equal(whole, fuse_pair(model, smooth, flat))
    assert abs(tiled - whole).max() <= 1
    assert whole.max() - whole.min() > 60
