import dataclasses
import functools
import os
import subprocess
import sys
from pathlib import Path

import command_fixtures
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command_fixtures import TINIEST, TINY, H, W, make_pair, random_params, write
from PIL import Image

from hkdnet_jax import fuse
from hkdnet_jax.common import arrays, atomic_files, image_files
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.inference import folder, programs
from hkdnet_jax.inference import pair as pair_module
from hkdnet_jax.inference.pair import fuse_pair
from hkdnet_jax.model_files import file_format
from hkdnet_jax.model_files.model import Model
from hkdnet_jax.models.presets import MIN_SIDE
from hkdnet_jax.models.student import Student
from hkdnet_jax.models.teacher import Teacher
from hkdnet_jax.runtime import memory


def network_of(scale):
    if scale == 1:
        return Teacher(alpha=0.5)
    return Student(TINY if scale == 2 else TINIEST, scale)


def config_of(scale):
    if scale == 1:
        return {"kind": "teacher", "alpha": 0.5, "damping": 0.0}
    fields = dataclasses.asdict(network_of(scale).config)
    return {"kind": "student", "scale": scale, "model": fields}


@pytest.fixture(scope="module")
def dirs(tmp_path_factory):
    """Scale -> directory of a model with random weights."""
    root = tmp_path_factory.mktemp("models")
    for scale in (1, 2, 3, 4):
        params = random_params(network_of(scale), seed=scale)
        file_format.save_model(root / f"x{scale}", config_of(scale), params)
    return {scale: root / f"x{scale}" for scale in (1, 2, 3, 4)}


def raw_output(directory, scale, ir, vis):
    """The network applied to float [H, W] images in [0, 1], without hkdnet_jax.fuse."""
    _, params = file_format.load_model(directory)
    ir, vis = (jnp.asarray(x, jnp.float32)[None, :, :, None] for x in (ir, vis))
    return jitted_apply(scale)(params, ir, vis)[0, :, :, 0]


@functools.cache
def jitted_apply(scale):
    return jax.jit(lambda p, a, b: network_of(scale).apply({"params": p}, a, b)[0])


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


# --- numbers ------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_equals_the_network_applied_directly(dirs, scale):
    model = Model.load(dirs[scale])
    ir, vis = make_pair()
    fused = fuse_pair(model, ir, vis)
    assert fused.shape == (scale * H, scale * W) and fused.dtype == np.uint8
    assert model.scale == scale
    raw = raw_output(dirs[scale], scale, ir / 255, vis / 255)
    np.testing.assert_array_equal(fused, arrays.to_uint8(raw))
    assert len(np.unique(fused)) > 20  # a picture, not a saturated plane


def test_roles_are_not_swapped(dirs):
    model = Model.load(dirs[1])
    ir, vis = make_pair()
    a, b = fuse_pair(model, ir, vis), fuse_pair(model, vis, ir)
    assert np.abs(a.astype(int) - b).max() > 5


def test_depths_of_the_same_content_agree(dirs):
    model = Model.load(dirs[2])
    ir, vis = make_pair()
    ir16, vis16 = (x.astype(np.uint16) * 257 for x in (ir, vis))
    for normalize in fuse.NORMALIZE:
        expected = fuse_pair(model, ir, vis, normalize=normalize)
        for a, b in ((ir16, vis16), (ir16, vis), (ir, vis16)):
            got = fuse_pair(model, a, b, normalize=normalize)
            np.testing.assert_array_equal(got, expected)


def test_minmax_uses_each_image_own_range(dirs):
    model = Model.load(dirs[2])
    rng = np.random.default_rng(1)
    # Ranges that divide 255 resp. 65535, so that NumPy can stretch them in integers.
    a = rng.integers(0, 51, (H, W), endpoint=True)
    b = rng.integers(0, 257, (H, W), endpoint=True)
    a.flat[:2], b.flat[:2] = (0, 51), (0, 257)
    ir, vis = (10 + a).astype(np.uint8), (700 + b).astype(np.uint16)
    full_ir, full_vis = (5 * a).astype(np.uint8), (255 * b).astype(np.uint16)
    expected = fuse_pair(model, full_ir, full_vis).astype(int)
    got = fuse_pair(model, ir, vis, normalize="minmax").astype(int)
    assert np.abs(got - expected).max() <= 1
    unit = fuse_pair(model, ir, vis, normalize="unit").astype(int)
    assert np.abs(unit - expected).max() > 30


def test_flat_inputs_are_fused(dirs):
    model = Model.load(dirs[2])
    flat = np.full((H, W), 77, np.uint8)
    black = np.zeros((H, W), np.uint8)
    got = fuse_pair(model, flat, flat, normalize="minmax")
    np.testing.assert_array_equal(got, fuse_pair(model, black, black))


@pytest.mark.parametrize("scale", [1, 2])
def test_stretch_maps_the_outputs_range(dirs, scale):
    model = Model.load(dirs[scale])
    ir, vis = make_pair()
    raw = np.asarray(raw_output(dirs[scale], scale, ir / 255, vis / 255), np.float64)
    expected = np.round((raw - raw.min()) / np.ptp(raw) * 255)
    got = fuse_pair(model, ir, vis, stretch=True)
    assert (got.min(), got.max()) == (0, 255)
    assert np.abs(got - expected).max() <= 1
    plain = fuse_pair(model, ir, vis)
    # One output has levels to spare; the other loses some by clipping unless stretched.
    assert np.ptp(plain) < 255 if scale == 1 else raw.min() < -0.1 or raw.max() > 1.1
    assert np.abs(plain - expected).max() > 5


@pytest.mark.parametrize(
    ("ir", "vis", "kwargs", "error"),
    [
        (np.zeros((9, 9), np.uint8), np.zeros((9, 10), np.uint8), {}, ValueError),
        (np.zeros((7, 9), np.uint8), np.zeros((7, 9), np.uint8), {}, ValueError),
        (np.zeros((9, 9, 1), np.uint8), np.zeros((9, 9, 1), np.uint8), {}, ValueError),
        (np.zeros((9, 9), np.float32), np.zeros((9, 9), np.uint8), {}, TypeError),
        (
            np.zeros((9, 9), np.uint8),
            np.zeros((9, 9), np.uint8),
            {"normalize": "none"},
            ValueError,
        ),
    ],
)
def test_fuse_pair_checks_its_arguments(dirs, ir, vis, kwargs, error):
    with pytest.raises(error):
        fuse_pair(Model.load(dirs[1]), ir, vis, **kwargs)


def test_weights_are_arguments_of_one_program_per_size(dirs, tmp_path):
    other = random_params(network_of(2), seed=99)
    file_format.save_model(tmp_path / "other", config_of(2), other)
    ir, vis = make_pair()
    a = fuse_pair(Model.load(dirs[2]), ir, vis)
    programs = pair_module._forward._cache_size()
    model = Model.load(tmp_path / "other")
    b = fuse_pair(model, ir, vis)
    fuse_pair(model, ir.astype(np.uint16), vis, "minmax", stretch=True)
    assert pair_module._forward._cache_size() == programs
    assert np.abs(a.astype(int) - b).max() > 5


# --- files --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [(".png", "PNG"), (".jpg", "JPEG"), (".BMP", "BMP"), (".tif", "TIFF")],
)
def test_suffix_decides_the_format(dirs, pair, tmp_path, capfd, suffix, kind):
    out = tmp_path / "new" / f"fused{suffix}"
    code, said, errors = run(capfd, *pair, "--out", out, "--model", dirs[2])
    assert (code, errors) == (0, [])
    assert said == f"Wrote {out} ({2 * W}x{2 * H}).\n"
    assert os.listdir(out.parent) == [out.name]
    with Image.open(out) as image:
        assert (image.format, image.mode) == (kind, "L")
        fused = np.asarray(image).astype(int)
    expected = fuse_pair(Model.load(dirs[2]), *make_pair()).astype(int)
    limit = 30 if kind == "JPEG" else 0
    assert np.abs(fused - expected).max() <= limit


def test_options_reach_the_pair(dirs, pair, tmp_path, capfd):
    model = Model.load(dirs[2])
    out = tmp_path / "fused.png"
    common = (*pair, "--out", out, "--model", dirs[2], "--scale", 2)
    for flags, kwargs in (
        (["--normalize", "minmax"], {"normalize": "minmax"}),
        (["--stretch"], {"stretch": True}),
        ([], {}),
    ):
        assert run(capfd, *common, *flags)[0] == 0
        expected = fuse_pair(model, *make_pair(), **kwargs)
        np.testing.assert_array_equal(read(out), expected)


def test_colour_is_read_as_luma(dirs, tmp_path, capfd):
    rng = np.random.default_rng(3)
    rgb = rng.integers(0, 256, (H, W, 3), dtype=np.uint8)
    ir, _ = make_pair()
    write(tmp_path / "vis.png", rgb)
    write(tmp_path / "ir.png", np.dstack([ir] * 3))
    out = tmp_path / "out.png"
    args = ["--ir", tmp_path / "ir.png", "--vis", tmp_path / "vis.png"]
    assert run(capfd, *args, "--out", out, "--model", dirs[2])[0] == 0
    luma = np.round(rgb @ np.array([0.298936, 0.587043, 0.114021])).astype(np.uint8)
    expected = fuse_pair(Model.load(dirs[2]), ir, luma).astype(int)
    assert np.abs(read(out) - expected).max() <= 1


def test_depth_of_files(dirs, pair, tmp_path, capfd):
    ir, vis = make_pair()
    ir16 = write(tmp_path / "ir16.png", ir.astype(np.uint16) * 257)
    vis16 = write(tmp_path / "vis16.tif", vis.astype(np.uint16) * 257)
    args = ["--out", tmp_path / "a.png", "--model", dirs[2]]
    assert run(capfd, *pair, *args)[0] == 0
    args[1] = tmp_path / "b.png"
    assert run(capfd, "--ir", ir16, "--vis", vis16, *args)[0] == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_folder_equals_single_files_and_is_deterministic(
    dirs, folders, tmp_path, capfd
):
    out = tmp_path / "out"
    write(out / "a.png", np.zeros((3, 3), np.uint8))  # is replaced
    args = (*folders, "--out", out, "--model", dirs[2])
    assert run(capfd, *args) == (0, f"Wrote 3 fused pictures to {out}.\n", [])
    first = {path.name: path.read_bytes() for path in out.iterdir()}
    assert sorted(first) == ["a.png", "b.png", "c.png"]
    assert run(capfd, *args)[0] == 0
    for name, content in first.items():
        assert (out / name).read_bytes() == content
        single = tmp_path / "single.png"
        files = ("--ir", tmp_path / "ir" / name, "--vis", tmp_path / "vis" / name)
        assert run(capfd, *files, "--out", single, "--model", dirs[2])[0] == 0
        assert single.read_bytes() == content


def jobs_of(folder):
    """The pairs of folder/ir and folder/vis, to be written to folder/out."""
    pairs, _ = fuse.match_folders(folder / "ir", folder / "vis")
    atomic_files.make_writable(folder / "out")
    return [folder.Job(p, folder / "out" / f"{p.name}.png") for p in pairs]


def test_equal_sizes_go_together_and_the_largest_first(
    dirs, folders, tmp_path, capfd, monkeypatch
):
    for stem, (height, width) in {"b": (H, 2 * W), "d": (H + 1, W)}.items():
        for kind, image in zip(("ir", "vis"), make_pair(3, height, width), strict=True):
            write(tmp_path / kind / f"{stem}.png", image)
    real, seen = programs.choose, []

    def choose(model, size, count, *args, **more):
        seen.append((size, count))
        return real(model, size, count, *args, **more)

    monkeypatch.setattr(programs, "choose", choose)
    jobs = jobs_of(tmp_path)
    assert folder.fuse_files(Model.load(dirs[2]), jobs) == []
    assert seen == [((H, 2 * W), 1), ((H + 1, W), 1), ((H, W), 2)]
    assert "4/4" in capfd.readouterr().err
    assert [read(job.out).shape[1] for job in jobs] == [2 * W, 4 * W, 2 * W, 2 * W]


def test_a_folder_of_more_than_one_batch(dirs, tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "_PIXELS_AT_ONCE", 2 * H * W)
    for seed in range(5):
        for kind, image in zip(("ir", "vis"), make_pair(seed), strict=True):
            write(tmp_path / kind / f"{seed}.png", image)
    write(tmp_path / "vis" / "3.png", make_pair(3, H + 1)[0])
    model, jobs = Model.load(dirs[2]), jobs_of(tmp_path)
    programs._compile.cache_clear()
    (failure,) = folder.fuse_files(model, jobs)
    assert "3.png" in failure
    assert programs._compile.cache_info().misses == 1
    for seed in (0, 1, 2, 4):
        expected = fuse_pair(model, *make_pair(seed)).astype(int)
        assert abs(read(jobs[seed].out) - expected).max() <= 1


def test_tiles_are_blended_and_said(tmp_path, capfd):
    height, width = 100, 150
    ys, xs = np.mgrid[:height, :width] / 150
    smooth = np.rint(255 * (0.5 + 0.4 * np.sin(3 * xs + 2 * ys))).astype(np.uint8)
    flat = np.full_like(smooth, 90)
    files = [
        f"--{kind}={write(tmp_path / kind / 's.png', image)}"
        for kind, image in (("ir", smooth), ("vis", flat))
    ]
    # Weights as wild as those of `dirs` make noise of any image.
    calm = jax.tree.map(lambda p: 0.3 * p, random_params(network_of(2)))
    file_format.save_model(tmp_path / "calm", config_of(2), calm)
    model = Model.load(tmp_path / "calm")
    for name, tile, says in (
        ("whole", 150, "none was cut"),
        ("tiled", 64, "1 of 1 inputs cut into 6 tiles of at most 64x64 pixels"),
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


def test_bad_pairs_are_listed_and_the_others_done(dirs, folders, tmp_path, capfd):
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
    code, said, errors = run(capfd, *folders, "--out", out, "--model", dirs[2])
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


def test_smallest_size_is_fused(dirs):
    smallest = np.zeros((MIN_SIDE, MIN_SIDE), np.uint8)
    fused = fuse_pair(Model.load(dirs[1]), smallest, smallest)
    assert fused.shape == smallest.shape


@pytest.mark.parametrize(
    ("ir", "vis", "out", "says"),
    [
        ("ir/a.png", "vis", "out.png", ("ir/a.png is a file", "vis is a folder")),
        ("ir", "vis/a.png", "out", ("vis/a.png is a file", "ir is a folder")),
        ("ir/a.png", "vis/a.png", "vis", ("--out", "vis is a folder")),
        ("ir", "vis", "ir/a.png", ("--out", "ir/a.png is a file")),
        ("ir", "vis", "new.png", ("--out", "new.png is a file")),
        ("ir/a.png", "vis/a.png", "ir/a.png", ("--ir", "overwritten")),
        ("ir/a.png", "vis/a.png", "link.png", ("--vis", "overwritten")),
        ("ir", "vis", "vis", ("--vis", "overwritten")),
        ("ir", "vis", "vis/../ir", ("--ir", "overwritten")),
        ("ir/a.png", "vis/a.png", "out.webp", ("out.webp", ".png")),
        ("ir/a.png", "vis/a.png", "out", ("out", ".png")),
        ("ir/z.png", "vis/a.png", "out.png", ("ir/z.png does not exist",)),
        ("ir", "nowhere", "out", ("nowhere does not exist",)),
        ("empty", "empty", "out", ("empty", "no pictures", ".png")),
    ],
)
def test_bad_paths_are_refused_before_any_work(
    folders, tmp_path, capfd, ir, vis, out, says
):
    (tmp_path / "link.png").symlink_to(tmp_path / "vis" / "a.png")
    (tmp_path / "empty").mkdir()
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    args = ("--ir", tmp_path / ir, "--vis", tmp_path / vis, "--out", tmp_path / out)
    # The model does not exist either: the paths are judged first.
    fails(capfd, *args, "--model", tmp_path / "none", says=says)
    assert before == {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_output_that_cannot_be_written(dirs, pair, folders, tmp_path, capfd, kind):
    (tmp_path / "file").write_text("in the way")
    inputs, out = {
        "file": (pair, tmp_path / "file" / "out.png"),
        "folder": (folders, tmp_path / "file" / "out"),
    }[kind]
    fails(capfd, *inputs, "--out", out, "--model", dirs[2], says=[tmp_path / "file"])
    # A folder where a picture should go fails that one pair only.
    (tmp_path / "out" / "b.png").mkdir(parents=True)
    out = tmp_path / "out"
    code, said, errors = run(capfd, *folders, "--out", out, "--model", dirs[2])
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
def test_scale_must_be_the_models(dirs, pair, tmp_path, capfd, scale, asked, says):
    args = (*pair, "--out", tmp_path / "o.png", "--model", dirs[scale])
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


def test_memory_that_runs_out(dirs, folders, tmp_path, capfd, monkeypatch):
    ir, vis = make_pair(height=H, width=W + 1)
    for name in "bd":
        write(tmp_path / "ir" / f"{name}.png", ir)
        write(tmp_path / "vis" / f"{name}.png", vis)
    start = programs.Program.run
    out = tmp_path / "out"
    args = (*folders, "--out", out, "--model", dirs[2])
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
    dirs, folders, tmp_path, capfd, monkeypatch, limit, way_out
):
    write(tmp_path / "ir" / "b.png", make_pair(1, 120, 120)[0])
    write(tmp_path / "vis" / "b.png", make_pair(1, 120, 120)[1])
    monkeypatch.setattr(memory, "rss", lambda: 395 * 10**6)
    monkeypatch.setattr(programs.Program, "needed", lambda program: 10**7)
    out = tmp_path / "out"
    args = (*folders, "--out", out, "--model", dirs[2], "--max-memory", limit)
    error = fails(capfd, *args)
    assert f"{tmp_path / 'ir' / 'b.png'} is 120x120 pixels" in error
    left = "5 MB" if limit == "400MB" else "0 MB"
    assert f"10 MB, but only {left} are left of --max-memory" in error
    assert way_out in error
    assert not os.listdir(out)


def test_what_needs_most_memory_comes_first(dirs, tmp_path, capfd, monkeypatch):
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
    args += ["--out", tmp_path / "out", "--model", dirs[2], "--tile", 64]
    error = fails(capfd, *args, "--max-memory", "50MB")
    assert "b.png is 80x64 pixels, which take about 65 MB in tiles of 64x64" in error
    assert not os.listdir(tmp_path / "out")
    # Memory that the process keeps after the first images is there for the next ones.
    held = iter([10**6])
    monkeypatch.setattr(memory, "rss", lambda: next(held, 10**9))
    assert run(capfd, *args, "--max-memory", "80MB")[0] == 0


def test_images_refused_after_others_are_named(dirs, folders, tmp_path, monkeypatch):
    for name in "de":
        for kind, image in zip(("ir", "vis"), make_pair(0, H, W + 4), strict=True):
            write(tmp_path / kind / f"{name}.png", image)
    real = programs.choose

    def choose(model, size, *args, **more):
        if size == (H, W):
            raise programs.DoesNotFit(3 * 10**9, 2 * 10**9)
        return real(model, size, *args, **more)

    monkeypatch.setattr(programs, "choose", choose)
    failures = folder.fuse_files(Model.load(dirs[2]), jobs_of(tmp_path))
    assert len(failures) == 3
    for name, failure in zip("abc", failures, strict=True):
        assert f"{name}.png is {W}x{H} pixels" in failure
        assert failure.endswith("only 2.0 GB are free: use a smaller model.")
    assert sorted(os.listdir(tmp_path / "out")) == ["d.png", "e.png"]


def test_free_memory_is_the_limit_without_one(dirs, pair, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(memory, "free", lambda device: 10**4)
    error = fails(capfd, *pair, "--out", tmp_path / "a.png", "--model", dirs[2])
    assert "but only 0 MB are free: use a smaller model" in error
    monkeypatch.setattr(memory, "free", lambda device: None)  # a silent system
    assert run(capfd, *pair, "--out", tmp_path / "a.png", "--model", dirs[2])[0] == 0


@pytest.mark.parametrize(
    ("flag", "value", "says"),
    [
        ("--max-memory", "4", "'4' is no amount of memory such as 4GB or 800MB"),
        ("--max-memory", "0GB", "no amount of memory"),
        ("--tile", "63", "--tile 63 is too small: give at least 64 pixels"),
    ],
)
def test_senseless_limits(dirs, pair, tmp_path, capfd, flag, value, says):
    args = (*pair, "--out", tmp_path / "a.png", "--model", dirs[2], flag, value)
    assert says in fails(capfd, *args)


def test_memory_that_really_runs_out():
    with (
        pytest.raises(UserError, match=r"a\.png is 5x4 pixels, .* memory"),
        pair.explain_out_of_memory("a.png", 4, 5),
    ):
        # 2^48 bytes: more than a process can address, so no system grants them.
        jax.jit(lambda x: jnp.broadcast_to(x, (2**24, 2**24)) + x)(jnp.uint8(1))


def test_interrupt_leaves_whole_files_only(dirs, folders, tmp_path, capfd, monkeypatch):
    out = tmp_path / "out"
    real, calls = os.replace, []

    def replace(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(atomic_files.os, "replace", replace)
    code, said, errors = run(capfd, *folders, "--out", out, "--model", dirs[2])
    assert (code, said, len(errors)) == (130, "", 1)
    assert os.listdir(out) == ["a.png"]
    assert read(out / "a.png").shape == (2 * H, 2 * W)


# --- models -------------------------------------------------------------------------


def student_with(**fields):
    config = config_of(2)
    config["model"] |= fields
    return config


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"kind": "critic"},
        {"kind": "teacher"},
        {"kind": "teacher", "alpha": 0.5},
        {"kind": "teacher", "alpha": "half", "damping": 0.0},
        {"kind": "teacher", "alpha": True, "damping": 0.0},
        {"kind": "teacher", "alpha": 0.5, "damping": -1.0},
        {"kind": "teacher", "alpha": 0.5, "damping": 0.0, "beta": 1},
        {**config_of(2), "scale": 5},
        {**config_of(2), "scale": True},
        {**config_of(2), "scale": "2"},
        {**config_of(2), "more": 1},
        {**config_of(2), "model": None},
        student_with(depth=3),
        student_with(width="8"),
        student_with(width=0),
        student_with(dfag=1),
        student_with(decoder=8),
        student_with(decoder=["8", 8, 8]),
        student_with(dfa_softmax="height"),
    ],
)
def test_unknown_configurations_are_refused(tmp_path, config):
    file_format.save_model(tmp_path / "m", config, {"x": np.zeros(1, np.float32)})
    with pytest.raises(UserError, match=r"m describes no network of this version"):
        Model.load(tmp_path / "m")


def test_weights_must_fit_the_configuration(dirs, tmp_path, pair, capfd):
    _, params = file_format.load_model(dirs[2])
    file_format.save_model(tmp_path / "wide", student_with(width=16), params)
    says = [tmp_path / "wide", "do not fit", "fusion/ir/conv/kernel"]
    args = (*pair, "--out", tmp_path / "o.png", "--model")
    fails(capfd, *args, tmp_path / "wide", says=says)
    file_format.save_model(tmp_path / "teacher", config_of(1), params)
    fails(capfd, *args, tmp_path / "teacher", says=["missing: decoder/conv1/bias"])
    fails(capfd, *args, tmp_path / "none", says=[tmp_path / "none", "does not exist"])
    fails(capfd, *args, tmp_path / "in", says=[tmp_path / "in", "model.safetensors"])


def test_weights_must_be_finite(dirs, tmp_path):
    config, params = file_format.load_model(dirs[1])
    params["decoder"]["conv4"]["bias"] = np.array([np.nan], np.float32)
    file_format.save_model(tmp_path / "nan", config, params)
    with pytest.raises(UserError, match=r"nan holds weights that are not finite"):
        Model.load(tmp_path / "nan")


def test_fields_of_the_configuration_reach_the_network(tmp_path):
    student = dataclasses.replace(TINY, decoder=(4, 8, 8), cea=False, corner_gamma=1.0)
    params = random_params(Student(student, 3))
    fields = dataclasses.asdict(student) | {"corner_gamma": 1}  # as JSON may hold 1.0
    config = {"kind": "student", "scale": 3, "model": fields}
    file_format.save_model(tmp_path / "s", config, params)
    assert Model.load(tmp_path / "s").network == Student(student, 3)
    params = random_params(Teacher())
    file_format.save_model(
        tmp_path / "t", {"kind": "teacher", "alpha": 1, "damping": 2}, params
    )
    assert Model.load(tmp_path / "t").network == Teacher(1.0, 2.0)


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
