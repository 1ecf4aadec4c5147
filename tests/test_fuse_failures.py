"""`fuse` where something is wrong: input, memory, models, settings, an interrupt."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import command_fixtures
import jax
import numpy as np
import pytest
from command_fixtures import H, W, make_pair, write
from fuse_fixtures import folder_flags, pair_flags

from hkdnet_jax import fuse
from hkdnet_jax.common import atomic_files, image_files
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.inference import programs
from hkdnet_jax.models.presets import MIN_SIDE
from hkdnet_jax.runtime import memory


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
    assert image_files.image_size(out / "a.png") == (2 * H, 2 * W)


# --- models -------------------------------------------------------------------------


def test_a_model_that_cannot_be_loaded_is_one_sentence(pair, tmp_path, capfd):
    args = (*pair, "--out", tmp_path / "o.png", "--model")
    fails(capfd, *args, tmp_path / "none", says=[tmp_path / "none", "does not exist"])
    fails(capfd, *args, tmp_path / "in", says=[tmp_path / "in", "model.safetensors"])


# --- the process --------------------------------------------------------------------


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


def test_help_shows_an_example_and_heavy_packages_stay_out():
    code = (
        "import sys, hkdnet_jax.fuse as fuse\n"
        "heavy = {'tensorflow', 'orbax', 'tensorstore', 'clu', 'grain'}\n"
        "print(heavy & {name.split('.')[0] for name in sys.modules})\n"
        "print('hkdnet_jax.inference.video' in sys.modules)\n"
        "sys.exit(fuse.main(['--help']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("set()\nFalse\n")
    assert "example:" in done.stdout
    assert "python -m hkdnet_jax.fuse --ir" in done.stdout
