import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from PIL import Image

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.training import writers


def open_plain(workdir, start_step=0):
    return writers.Writer(workdir, start_step, tensorboard=False)


def read_rows(workdir):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line, parse_constant=refuse) for line in lines]


def run_python(code, *arguments):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
    )


def test_rows(tmp_path):
    writer = open_plain(tmp_path / "run")
    writer.scalars(1, {"loss": 0.1, "lr": np.float32(0.5)})
    # Readable at once: a kill later on loses nothing.
    assert read_rows(tmp_path / "run") == [{"step": 1, "loss": 0.1, "lr": 0.5}]
    writer.scalars(20, {"val/psnr": 30})
    writer.close()
    assert read_rows(tmp_path / "run")[1] == {"step": 20, "val/psnr": 30.0}


def test_numbers_that_are_not_finite_are_null(tmp_path):
    writer = open_plain(tmp_path)
    writer.scalars(1, {"a": float("nan"), "b": np.float32("inf"), "c": -0.0})
    writer.close()
    assert read_rows(tmp_path) == [{"step": 1, "a": None, "b": None, "c": -0.0}]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_row_on_a_full_disk_is_one_sentence(tmp_path):
    writer = open_plain(tmp_path)
    writer._rows.close()
    writer._rows._file = os.fdopen(os.open("/dev/full", os.O_WRONLY), "w")
    with pytest.raises(UserError, match="No space left on device") as caught:
        writer.scalars(1, {"x": 1.0})
    assert f"{tmp_path}/metrics.jsonl" in str(caught.value)
    assert "\n" not in str(caught.value)
    writer.close()


def test_a_resumed_run_drops_what_it_will_write_again(tmp_path):
    writer = open_plain(tmp_path)
    for step in (0, 5, 10, 15, 20):
        writer.scalars(step, {"x": step})
    writer.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 5, "x')  # killed in the middle of a line
    writer = open_plain(tmp_path, start_step=10)
    assert [row["step"] for row in read_rows(tmp_path)] == [0, 5, 10]
    writer.scalars(15, {"x": -15})
    writer.close()
    assert read_rows(tmp_path)[-2:] == [{"step": 10, "x": 10}, {"step": 15, "x": -15}]


def test_a_run_that_starts_anew_has_no_old_rows(tmp_path):
    writer = open_plain(tmp_path)
    writer.scalars(0, {"x": 1})
    writer.scalars(3, {"x": 1})
    writer.close()
    writer = open_plain(tmp_path)
    writer.scalars(0, {"x": 2})
    writer.close()
    assert read_rows(tmp_path) == [{"step": 0, "x": 2}]


def test_rows_are_dropped_atomically(tmp_path, monkeypatch):
    writer = open_plain(tmp_path)
    writer.scalars(1, {"x": 1})
    writer.scalars(2, {"x": 2})
    writer.close()

    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        open_plain(tmp_path, start_step=1)
    assert [row["step"] for row in read_rows(tmp_path)] == [1, 2]


@pytest.mark.parametrize("line", ["", "3", "[]", '{"x": 1}', '{"step": null}', "\x00"])
def test_lines_that_are_no_rows_are_dropped(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_text(f'{line}\n{{"step": 4}}\n')
    open_plain(tmp_path, start_step=4).close()
    assert read_rows(tmp_path) == [{"step": 4}]


def test_a_place_that_cannot_be_written_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        open_plain(tmp_path / "file")


def test_pictures(tmp_path):
    rng = np.random.default_rng(0)
    gray = rng.integers(0, 256, (5, 7), np.uint8)
    color = rng.integers(0, 256, (6, 4, 3), np.uint8)
    writer = open_plain(tmp_path)
    writer.images(100, {"ir": gray, "val/0 fused": color})
    writer.close()
    folder = tmp_path / "samples" / "step_00000100"
    assert sorted(os.listdir(folder)) == ["ir.png", "val_0 fused.png"]
    for name, expected in (("ir.png", gray), ("val_0 fused.png", color)):
        with Image.open(folder / name) as image:
            np.testing.assert_array_equal(np.asarray(image), expected)


@pytest.mark.parametrize(
    "bad", [np.zeros((4, 4)), np.zeros((4, 4, 4), np.uint8), np.zeros(4, np.uint16)]
)
def test_arrays_that_are_no_pictures_are_refused(tmp_path, bad):
    writer = open_plain(tmp_path)
    with pytest.raises(
        ValueError, match=r"must be HxW or HxWx3 of dtype uint8.*, not 4"
    ):
        writer.images(1, {"x": bad})
    writer.close()
    assert not (tmp_path / "samples").exists()


def test_a_disabled_writer_writes_nothing(tmp_path):
    writer = writers.Writer(tmp_path / "run", enabled=False)
    writer.scalars(1, {"x": 1})
    writer.images(1, {"x": np.zeros((2, 2), np.uint8)})
    writer.close()
    assert not (tmp_path / "run").exists()


def test_tensorboard_files_hold_the_same(tmp_path):
    code = """
        import os, sys
        import numpy as np
        from hkdnet_jax.training import writers
        os.environ.pop("TF_CPP_MIN_LOG_LEVEL", None)
        writer = writers.Writer(sys.argv[1])
        assert "TF_CPP_MIN_LOG_LEVEL" not in os.environ  # it would silence XLA too
        writer.scalars(1, {"train/loss": 0.5})
        writer.scalars(2, {"train/loss": float("nan")})
        writer.images(2, {"gray": np.arange(12, dtype=np.uint8).reshape(3, 4),
                          "color": np.full((2, 5, 3), 9, np.uint8)})
        os._exit(0)  # as a kill would: what was written must be there
    """
    done = run_python(code, tmp_path)
    assert (done.stdout, done.stderr) == ("", "")  # TensorFlow chatters by default

    from tensorboard.backend.event_processing import event_accumulator
    from tensorboard.util import tensor_util

    events = event_accumulator.EventAccumulator(
        str(tmp_path / "tensorboard"), size_guidance={"tensors": 0}
    )
    events.Reload()
    loss = [
        (event.step, float(tensor_util.make_ndarray(event.tensor_proto)))
        for event in events.Tensors("train/loss")
    ]
    assert loss[0] == (1, 0.5)
    assert loss[1][0] == 2
    assert np.isnan(loss[1][1])
    for name, size in (("gray", (4, 3)), ("color", (5, 2))):
        (event,) = events.Tensors(name)
        width, height, *pictures = tensor_util.make_ndarray(event.tensor_proto)
        assert event.step == 2
        assert (int(width), int(height)) == size
        assert len(pictures) == 1
    assert len(read_rows(tmp_path)) == 2
    assert (tmp_path / "samples" / "step_00000002" / "gray.png").exists()


def test_without_tensorflow_the_run_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    writer = writers.Writer(tmp_path)
    writer.scalars(1, {"x": 1})
    writer.images(1, {"x": np.zeros((2, 2), np.uint8)})
    writer.close()
    assert read_rows(tmp_path) == [{"step": 1, "x": 1}]
    warning = capsys.readouterr().err
    assert warning.startswith("Warning: no TensorBoard files are written")
    assert warning.count("\n") == 1
    assert not (tmp_path / "tensorboard").exists()


def test_tensorflow_is_imported_only_for_tensorboard(tmp_path):
    code = """
        import sys
        from hkdnet_jax.training import writers
        writers.Writer(sys.argv[1], tensorboard=False).close()
        print([m for m in ("tensorflow", "tensorboard", "clu") if m in sys.modules])
    """
    assert run_python(code, tmp_path).stdout == "[]\n"


def test_run_info(tmp_path):
    config = {"model": {"width": 8, "scale": 3}, "seed": 0}
    writers.write_run_info(tmp_path / "run", {"old": 1}, ["old"])
    writers.write_run_info(tmp_path / "run", config, ["TFRT_CPU_0", "TFRT_CPU_1"])
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == config
    text = (tmp_path / "run" / "environment.json").read_text()
    environment = json.loads(text)
    assert environment["devices"] == ["TFRT_CPU_0", "TFRT_CPU_1"]
    assert environment["python"] == platform.python_version()
    assert environment["platform"]
    for name in ("jax", "flax", "numpy", "orbax-checkpoint"):
        assert environment["packages"][name] == importlib.metadata.version(name)
    assert "git" in environment
    assert len(os.listdir(tmp_path / "run")) == 2


@pytest.fixture
def git(tmp_path, monkeypatch):
    """A new checkout at tmp_path/repo with one committed file pkg/a.py."""
    if not shutil.which("git"):
        pytest.skip("git is not installed")
    for name in [n for n in os.environ if n.startswith("GIT_")]:
        monkeypatch.delenv(name)
    repo = tmp_path / "repo"
    (repo / "pkg").mkdir(parents=True)
    (repo / "pkg" / "a.py").write_text("a")

    def run(*arguments):
        identity = ["-c", "user.name=Me", "-c", "user.email=me@example.org"]
        command = ["git", "-C", str(repo), *identity, *arguments]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        return result.stdout.strip()

    run("init")
    run("add", ".")
    run("commit", "--no-verify", "-m", "x")
    return run


def test_git_revision(tmp_path, git):
    repo = tmp_path / "repo"
    revision = git("rev-parse", "HEAD")
    assert len(revision) == 40
    (repo / "notes.txt").write_text("untracked files say nothing about the code")
    clean = {"revision": revision, "dirty": False}
    assert writers.git_revision(repo / "pkg") == clean
    (repo / "pkg" / "a.py").write_text("changed")
    assert writers.git_revision(repo / "pkg") == {"revision": revision, "dirty": True}


def test_no_git_revision(tmp_path, git, monkeypatch):
    inside = tmp_path / "repo" / ".venv" / "lib"  # an installed copy: not tracked
    inside.mkdir(parents=True)
    (inside / "a.py").write_text("a")
    assert writers.git_revision(inside) is None
    (tmp_path / "outside").mkdir()
    assert writers.git_revision(tmp_path / "outside") is None
    monkeypatch.setenv("PATH", "")
    assert writers.git_revision(tmp_path / "repo" / "pkg") is None
