"""The command `hkdnet`: its list, its dispatch, and what it says without an extra."""

import gc
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import hkdnet_jax
from hkdnet_jax import __main__
from hkdnet_jax.__main__ import COMMANDS, main
from hkdnet_jax.runtime import start

ROOT = Path(__file__).parents[1]
# What the command loads before it knows the subcommand.
LIGHT = {"numpy", "jax", "flax", "PIL", "tensorflow", "ml_collections", "orbax"}


def python(*arguments, **options):
    """A new interpreter, as a user starts it."""
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, **options
    )


def without(packages, module, flags):
    """Runs the main of a module where some packages are not installed."""
    code = f"""
import sys
from importlib.machinery import PathFinder
find = PathFinder.find_spec
hidden = {set(packages)!r}
PathFinder.find_spec = lambda name, *a: None if name in hidden else find(name, *a)
from {module} import main
sys.exit(main({flags!r}))
"""
    return python("-c", code)


def test_help_lists_every_command(capsys):
    for flag in ("--help", "-h"):
        with pytest.raises(SystemExit) as ended:
            main([flag])
        assert ended.value.code == 0
        printed = capsys.readouterr().out
        for name, (_, what) in COMMANDS.items():
            assert re.search(rf"^  {name} +{re.escape(what)}$", printed, re.M)
        assert max(map(len, printed.splitlines())) <= 80


def test_version(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"hkdnet {hkdnet_jax.__version__}\n"


@pytest.mark.parametrize(
    ("argv", "named"), [(["fuze"], "fuze"), ([], "no command"), (["--ir=a"], "--ir=a")]
)
def test_no_such_command(capsys, argv, named):
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert not out and line.startswith(f"error: {named}") and "fuse" in line


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_its_module(monkeypatch, name):
    def run_module(module, run_name, alter_sys):
        assert (module, run_name, alter_sys) == (COMMANDS[name][0], "__main__", True)
        assert sys.argv[1:] == ["--flag", "value"]
        sys.exit(7)

    monkeypatch.setattr(sys, "argv", ["hkdnet"])
    monkeypatch.setattr(runpy, "run_module", run_module)
    monkeypatch.setattr(gc, "freeze", lambda: None)  # this process is not a command's
    with pytest.raises(SystemExit) as ended:
        main([name, "--flag", "value"])
    assert ended.value.code == 7


@pytest.mark.parametrize(
    ("name", "times"), [("train", 1), ("sweep", 1), ("benchmark", 1), ("fuse", 0)]
)
def test_commands_that_start_again(monkeypatch, name, times):
    tuned = []
    monkeypatch.setattr(start, "tune", lambda: tuned.append(sys.argv))
    monkeypatch.setattr(__main__, "_import_jax", lambda: None)
    monkeypatch.setattr(runpy, "run_module", lambda *args, **kwargs: sys.exit(0))
    monkeypatch.setattr(sys, "argv", ["hkdnet", name, "--help"])
    with pytest.raises(SystemExit):
        main()
    assert len(tuned) == times
    with pytest.raises(SystemExit):
        main([name, "--help"])  # a call, whose process is not ours
    assert len(tuned) == times


def test_every_command_of_the_package_is_listed():
    files = Path(hkdnet_jax.__file__).parent.glob("*.py")
    commands = {f"hkdnet_jax.{f.stem}" for f in files if f.stem.isidentifier()}
    private = {"hkdnet_jax.__init__", "hkdnet_jax.__main__"}
    assert {module for module, _ in COMMANDS.values()} == commands - private


@pytest.mark.parametrize(
    ("name", "flag", "code"),
    [
        ("evaluate", "--help", 0),
        ("evaluate", "--nonsense", 2),
        ("train", "--nonsense", 1),
    ],
)
def test_flags_help_and_exit_codes_are_the_modules(name, flag, code):
    ours = python("-m", "hkdnet_jax", name, flag)
    theirs = python("-m", COMMANDS[name][0], flag)
    assert ours.returncode == theirs.returncode == code
    assert (ours.stdout, ours.stderr) == (theirs.stdout, theirs.stderr)


def test_nothing_heavy_is_loaded_for_the_list():
    code = """
import sys
from hkdnet_jax.__main__ import main
try:
    main(["--help"])
except SystemExit:
    print("loaded:", *sys.modules)
"""
    loaded = python("-c", code, check=True).stdout.partition("loaded:")[2].split()
    assert "runpy" in loaded and not LIGHT & set(loaded)


@pytest.mark.parametrize(
    ("module", "flags", "hidden", "extra"),
    [
        ("hkdnet_jax.__main__", ["train"], "ml_collections", "train"),
        ("hkdnet_jax.__main__", ["train", "--help"], "orbax", "train"),
        ("hkdnet_jax.main", [], "optax", "train"),
        ("hkdnet_jax.main", [], "grain", "train"),
        ("hkdnet_jax.__main__", ["compile-check"], "ml_collections", "train,tpu"),
        ("hkdnet_jax.demo", ["--port", "0"], "gradio", "web"),
        ("data_pipelines.prepare", [], "tensorflow_datasets", "data"),
    ],
)
def test_a_missing_extra_is_one_sentence(module, flags, hidden, extra):
    done = without([hidden], module, flags)
    assert done.returncode == 1 and not done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and f"No module named '{hidden}'" in line
    assert line.endswith(f"pip install 'hkdnet-jax[{extra}]'.")


def test_a_config_file_finds_its_folder_which_is_not_installed(tmp_path):
    for package in ("hkdnet_jax", "data_pipelines"):
        (tmp_path / package).symlink_to(ROOT / package)
    flags = ["--config=configs/student_x2.py:tiny", "--workdir=W", "--config.scale=7"]
    # -P: without the folder where it runs, like the command that pip installs.
    done = python(
        *("-P", "-m", "hkdnet_jax", "train", *flags),
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 1 and "config.scale is 7" in done.stderr
