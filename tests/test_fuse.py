import functools
import os
import subprocess
import sys
from pathlib import Path

import command_fixtures
import jax
import numpy as np
import pytest
import tifffile
from command_fixtures import H, W, make_pair, random_params, write
from fuse_fixtures import config_of, network_of
from PIL import Image

from hkdnet_jax import fuse
from hkdnet_jax.common import atomic_files, image_files, levels
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.inference import programs
from hkdnet_jax.inference.pair import fuse_pair
from hkdnet_jax.model_files import file_format
from hkdnet_jax.model_files.model import Model
from hkdnet_jax.models.presets import MIN_SIDE
from hkdnet_jax.runtime import memory


def read(path):
    return np.asarray(Image.open(path))


@pytest.fixture
def pair(tmp_path):
    """Arguments --ir --vis of one pair of files."""
    ir, vis = make_pair()
    ir = write(tmp_path / "in" / "cam_ir.png", ir)
    vis = write(tmp_path / "in" / "cam_vis.png", vis)
    return ["--ir", str(ir), "--vis", str(vis)]


@pytest.fixture
def folders(tmp_path):
    """Arguments --ir --vis of two folders with the pairs a, b and c."""
    for seed, stem in enumerate("abc"):
        ir, vis = make_pair(seed)
        write(tmp_path / "ir" / f"{stem}.png", ir)
        write(tmp_path / "vis" / f"{stem}.png", vis)
    return ["--ir", str(tmp_path / "ir"), "--vis", str(tmp_path / "vis")]


run = functools.partial(command_fixtures.run, fuse)
fails = functools.partial(command_fixtures.fails, fuse)


# --- files --------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("variable", "value", "code", "says"),
    [
        ("JAX_ENABLE_X64", "1", 0, "Wrote "),
        ("JAX_PLATFORMS", "cuda", 1, "error: JAX_PLATFORMS=cuda names no device that"),
        ("JAX_PLATFORMS", "abacus", 1, "error: JAX_PLATFORMS=abacus names no device"),
    ],
)
def test_settings_of_jax(models, pair, tmp_path, variable, value, code, says):
    args = [*pair, "--out", str(tmp_path / "o.png"), "--model", str(models[1])]
    done = subprocess.run(
        [sys.executable, "-m", "hkdnet_jax.fuse", *args],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, variable: value},
    )
    assert done.returncode == code and says in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "o.png").exists() == (code == 0)


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


# --- bad input ----------------------------------------------------------------------


def test_bad_pairs_are_listed_and_the_others_done(models, folders, tmp_path, capfd):
    ir, vis, out = tmp_path / "ir", tmp_path / "vis", tmp_path / "out"
    good = (ir / "a.png").read_bytes()
    (ir / "d.png").write_bytes(good[: len(good) // 2])  # header whole, data cut off
    (vis / "d.png").write_bytes(good)
    (ir / "e.png").write_text("no image")
    (vis / "e.png").write_bytes(good)
    (ir / "f.png").write_bytes(good)
    write(vis / "f.png", make_pair(height=H + 1)[1])
    for side in (ir, vis):
        write(side / "g.png", np.zeros((MIN_SIDE - 1, 40), np.uint8))
    (ir / "h.png").write_bytes(good)  # no partner
    code, said, errors = run(capfd, *folders, "--out", out, "--model", models[2])
    assert code == 1
    assert said == f"Wrote 3 fused pictures to {out}.\n"
    assert sorted(os.listdir(out)) == ["a.png", "b.png", "c.png"]
    named = [ir / "h.png", *(ir / f"{stem}.png" for stem in "defg")]
    assert len(errors) == len(named)
    for line, path in zip(errors, named, strict=True):
        assert line.startswith(f"error: {path} ") and line.endswith(".")
        assert ".." not in line.replace(str(tmp_path), "")
    assert "7" in errors[-1] and str(MIN_SIDE) in errors[-1]
    assert f"{W}x{H + 1}" in errors[3]


def test_bad_paths_are_refused_before_the_model_is_looked_for(pair, tmp_path, capfd):
    args = (*pair, "--out", tmp_path / "in", "--model", tmp_path / "none")
    fails(capfd, *args, says=["--out", tmp_path / "in", "is a folder"])


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_output_that_cannot_be_written(models, pair, folders, tmp_path, capfd, kind):
    (tmp_path / "file").write_text("in the way")
    inputs, out = {
        "file": (pair, tmp_path / "file" / "out.png"),
        "folder": (folders, tmp_path / "file" / "out"),
    }[kind]
    fails(capfd, *inputs, "--out", out, "--model", models[2], says=[tmp_path / "file"])
    # A folder where a picture should go fails that one pair only.
    (tmp_path / "out" / "b.png").mkdir(parents=True)
    out = tmp_path / "out"
    code, said, errors = run(capfd, *folders, "--out", out, "--model", models[2])
    assert (code, len(errors)) == (1, 1)
    assert str(out / "b.png") in errors[0] and said.startswith("Wrote 2 ")
    assert sorted(os.listdir(out)) == ["a.png", "b.png", "c.png"]


def test_picture_too_large_for_its_format(tmp_path):
    wide = np.zeros((8, 70_000), np.uint8)
    with pytest.raises(UserError, match=r"wide.jpg cannot hold 70000x8 .*\.png"):
        image_files.encode(wide, Path("wide.jpg"))
    assert image_files.encode(wide, Path("wide.png")).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("scale", "asked", "says"),
    [(1, 2, "teacher of scale 1"), (2, 1, "student of scale 2"), (4, 3, "scale 4")],
)
def test_scale_must_be_the_models(models, pair, tmp_path, capfd, scale, asked, says):
    args = (*pair, "--out", tmp_path / "o.png", "--model", models[scale])
    fails(capfd, *args, "--scale", asked, says=[f"--scale {asked}", says])


def test_scale_or_model_is_asked_for(pair, tmp_path, capfd):
    says = ["--scale 2, 3 or 4", "--model DIR"]
    fails(capfd, *pair, "--out", tmp_path / "o.png", says=says)


@pytest.mark.parametrize(
    "args",
    [
        ["--scale", "5"],
        ["--scale", "two"],
        ["--normalize", "max"],
        ["--ir"],
        ["--unknown"],
    ],
)
def test_usage_errors_return_2(pair, capfd, args):
    with pytest.raises(SystemExit) as error:
        fuse.main([*pair, "--out", "o.png", *args])
    assert error.value.code == 2
    assert "usage:" in capfd.readouterr().err


def raising(error):
    def function(*_):
        raise error

    return function


def test_memory_that_runs_out(models, folders, tmp_path, capfd, monkeypatch):
    ir, vis = make_pair(height=H, width=W + 1)
    for name in "bd":
        write(tmp_path / "ir" / f"{name}.png", ir)
        write(tmp_path / "vis" / f"{name}.png", vis)
    start = programs.Program.run
    out = tmp_path / "out"
    args = (*folders, "--out", out, "--model", models[2])
    exhausted = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory.")
    for failure in (exhausted, MemoryError()):

        def small_memory(program, params, ir, vis, failure=failure):
            if ir.shape[2] > W:
                raise failure
            return start(program, params, ir, vis)

        monkeypatch.setattr(programs.Program, "run", small_memory)
        code, said, errors = run(capfd, *args)
        assert code == 1 and said.startswith("Wrote 2 ")
        # The two went together, but each is named.
        assert len(errors) == 2
        for name, error in zip("bd", errors, strict=True):
            assert f"{tmp_path / 'ir' / name}.png is {W + 1}x{H} pixels" in error
            assert "memory" in error
        assert sorted(os.listdir(out)) == ["a.png", "c.png"]
    # Another failure of the device is a bug or a defect, and must not be hidden.
    broken = jax.errors.JaxRuntimeError("INTERNAL: something else")
    monkeypatch.setattr(programs.Program, "run", raising(broken))
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        fuse.main([str(arg) for arg in args])


@pytest.mark.parametrize(
    ("limit", "way_out"), [("400MB", "--tile 64"), ("1MB", "a smaller model")]
)
def test_memory_limit_is_kept_before_the_work_starts(
    models, folders, tmp_path, capfd, monkeypatch, limit, way_out
):
    write(tmp_path / "ir" / "b.png", make_pair(1, 120, 120)[0])
    write(tmp_path / "vis" / "b.png", make_pair(1, 120, 120)[1])
    monkeypatch.setattr(memory, "rss", lambda: 395 * 10**6)
    monkeypatch.setattr(programs.Program, "needed", lambda program: 10**7)
    out = tmp_path / "out"
    args = (*folders, "--out", out, "--model", models[2], "--max-memory", limit)
    error = fails(capfd, *args)
    assert f"{tmp_path / 'ir' / 'b.png'} is 120x120 pixels" in error
    left = "5 MB" if limit == "400MB" else "0 MB"
    assert f"10 MB, but only {left} are left of --max-memory" in error
    assert way_out in error
    assert not os.listdir(out)


def test_what_needs_most_memory_comes_first(models, tmp_path, capfd, monkeypatch):
    # In tiles of 64 pixels the smaller one needs more at once.
    sizes = {"a": (20, 400), "b": (64, 80)}
    for name, size in sizes.items():
        for kind, image in zip(("ir", "vis"), make_pair(0, *size), strict=True):
            write(tmp_path / kind / f"{name}.png", image)
    monkeypatch.setattr(
        programs.Program,
        "needed",
        lambda program: 10**6 * program.compiled.in_avals[0][1].shape[1],
    )
    monkeypatch.setattr(memory, "rss", lambda: 10**6)
    args = [f"--{kind}={tmp_path / kind}" for kind in ("ir", "vis")]
    args += ["--out", tmp_path / "out", "--model", models[2], "--tile", 64]
    error = fails(capfd, *args, "--max-memory", "50MB")
    assert "b.png is 80x64 pixels, which take about 65 MB in tiles of 64x64" in error
    assert not os.listdir(tmp_path / "out")
    # Memory that the process keeps after the first images is there for the next ones.
    held = iter([10**6])
    monkeypatch.setattr(memory, "rss", lambda: next(held, 10**9))
    assert run(capfd, *args, "--max-memory", "80MB")[0] == 0


def test_free_memory_is_the_limit_without_one(
    models, pair, tmp_path, capfd, monkeypatch
):
    monkeypatch.setattr(memory, "free", lambda device: 10**4)
    error = fails(capfd, *pair, "--out", tmp_path / "a.png", "--model", models[2])
    assert "but only 0 MB are free: use a smaller model" in error
    monkeypatch.setattr(memory, "free", lambda device: None)  # a silent system
    assert run(capfd, *pair, "--out", tmp_path / "a.png", "--model", models[2])[0] == 0


def test_senseless_limits(models, pair, tmp_path, capfd):
    args = (*pair, "--out", tmp_path / "a.png", "--model", models[2])
    says = ["--max-memory: '4' is not an amount"]
    fails(capfd, *args, "--max-memory", "4", says=says)
    fails(capfd, *args, "--tile", 63, says=["--tile 63 is too small"])


def test_interrupt_leaves_whole_files_only(
    models, folders, tmp_path, capfd, monkeypatch
):
    out = tmp_path / "out"
    real, calls = os.replace, []

    def replace(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(atomic_files.os, "replace", replace)
    code, said, errors = run(capfd, *folders, "--out", out, "--model", models[2])
    assert (code, said, len(errors)) == (130, "", 1)
    assert os.listdir(out) == ["a.png"]
    assert read(out / "a.png").shape == (2 * H, 2 * W)


# --- models -------------------------------------------------------------------------


def test_a_model_that_cannot_be_loaded_is_one_sentence(pair, tmp_path, capfd):
    args = (*pair, "--out", tmp_path / "o.png", "--model")
    fails(capfd, *args, tmp_path / "none", says=[tmp_path / "none", "does not exist"])
    fails(capfd, *args, tmp_path / "in", says=[tmp_path / "in", "model.safetensors"])


# --- the process --------------------------------------------------------------------


def test_help_shows_an_example_and_heavy_packages_stay_out():
    code = (
        "import sys, hkdnet_jax.fuse as fuse\n"
        "heavy = {'tensorflow', 'orbax', 'tensorstore', 'clu', 'grain'}\n"
        "print(heavy & {name.split('.')[0] for name in sys.modules})\n"
        "sys.exit(fuse.main(['--help']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("set()\n")
    assert "example:" in done.stdout
    assert "python -m hkdnet_jax.fuse --ir" in done.stdout
