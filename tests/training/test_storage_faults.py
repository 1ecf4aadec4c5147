"""Checkpoints on storage that loses or changes bytes, fills up or cannot be written."""

import contextlib
import datetime
import json
import os
import shutil
import subprocess
import time

import jax
import numpy as np
import pytest
from soak import storage_faults
from soak.storage_faults import BEFORE, NEWEST, STOPPED, content, outcome

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.training import seal
from hkdnet_jax.training.checkpoint import Checkpoints

# Of futures that TensorStore leaves behind when it cannot read.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture
def saved(tmp_path):
    """A workdir with two checkpoints."""
    workdir = tmp_path / "run"
    storage_faults.save(workdir)
    return workdir


def _newest(workdir):
    return workdir / "checkpoints" / str(storage_faults.STEPS[-1])


def _edit(file, change):
    """Changes a JSON file by a function of its content, and keeps it valid JSON."""
    value = json.loads(file.read_text())
    change(value)
    file.write_text(json.dumps(value))


def test_a_damaged_checkpoint_is_never_trained_on(tmp_path):
    """The soak script does the same in hundreds of places."""
    seen = storage_faults.run(tmp_path, count=16, seed=1)
    assert seen[NEWEST] and seen[BEFORE], "both kinds of places were met"
    # Every file was also cut and removed: those that matter are noticed.
    assert seen[BEFORE] + seen[STOPPED] > 20


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("data/metadata", lambda data: data.update(next_index=25)),
        ("meta/metadata", lambda meta: meta["meta"].update(best=99.0)),
        ("meta/metadata", lambda meta: meta.pop("sha256")),
        ("meta/metadata", lambda meta: meta.update(version=1)),
    ],
)
def test_what_is_still_readable_but_not_what_was_saved(saved, file, change, capsys):
    _edit(_newest(saved) / file, change)
    assert outcome(saved) == BEFORE
    assert _newest(saved).with_name("2.damaged").is_dir()
    assert not _newest(saved).exists()
    # The run reaches the step anew, and its next start finds that.
    with contextlib.closing(Checkpoints(saved)) as checkpoints:
        checkpoints.save(2, *content(2))
    assert outcome(saved) == NEWEST


def test_an_array_of_another_run_is_noticed(saved, tmp_path, capfd):
    """Files that are whole, and even fit, but do not belong to the rest."""
    other = tmp_path / "other"
    with contextlib.closing(Checkpoints(other)) as checkpoints:
        checkpoints.save(2, content(7)[0], *content(2)[1:])
    shutil.rmtree(_newest(saved) / "state")
    shutil.copytree(_newest(other) / "state", _newest(saved) / "state")
    shape = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
        content(1)[0],
    )
    with contextlib.closing(Checkpoints(saved)) as checkpoints:
        assert checkpoints.restore(shape)[1:] == content(1)[1:]
        assert checkpoints.latest_step() == 1
    warning = capfd.readouterr().err
    assert (
        "checkpoints/2 is damaged: its content does not match its checksum; it is "
        "renamed to 2.damaged and not used." in warning
    )


def test_no_checkpoint_that_is_whole_is_one_sentence(saved):
    for step in ("1", "2"):
        _edit(saved / "checkpoints" / step / "data/metadata", lambda d: d.clear())
    with (
        contextlib.closing(Checkpoints(saved)) as checkpoints,
        pytest.raises(UserError, match=r"is whole \(damaged: 2, 1\)") as caught,
    ):
        checkpoints.restore(content(1)[0])
    assert "\n" not in str(caught.value)


def test_a_newer_version_s_checkpoint_is_left_alone(saved):
    newer = seal.VERSION + 1
    _edit(_newest(saved) / "meta/metadata", lambda meta: meta.update(version=newer))
    assert outcome(saved) == STOPPED
    assert _newest(saved).is_dir(), "it is not damaged"
    with (
        contextlib.closing(Checkpoints(saved)) as checkpoints,
        pytest.raises(UserError, match="saved by a newer version of this program"),
    ):
        checkpoints.restore(content(1)[0])


def test_a_checkpoint_of_before_the_seal_is_read(saved):
    meta = _newest(saved) / "meta/metadata"
    meta.write_text(json.dumps(content(2)[2]))
    assert outcome(saved) == NEWEST


def test_a_clock_that_jumps_back_changes_nothing(tmp_path, monkeypatch):
    """The newest checkpoint is that of the largest step, whatever its date."""
    back = 365 * 24 * 3600

    class Earlier(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return super().now(tz) - datetime.timedelta(seconds=back)

    with contextlib.closing(Checkpoints(tmp_path)) as checkpoints:
        checkpoints.save(1, *content(1))
        checkpoints.wait()
        with monkeypatch.context() as patch:
            now, now_ns = time.time, time.time_ns
            patch.setattr(time, "time", lambda: now() - back)
            patch.setattr(time, "time_ns", lambda: now_ns() - back * 10**9)
            patch.setattr(datetime, "datetime", Earlier)
            for step in (2, 3):
                checkpoints.save(step, *content(step))
            checkpoints.wait()
    for step in ("2", "3"):
        os.utime(tmp_path / "checkpoints" / step, (0, 0))
    with contextlib.closing(Checkpoints(tmp_path)) as checkpoints:
        assert checkpoints.latest_step() == 3
        checkpoints.save(4, *content(4))
    kept = {folder.name for folder in (tmp_path / "checkpoints").iterdir()}
    assert kept == {"3", "4"}


def test_a_workdir_that_has_moved_goes_on(saved, tmp_path):
    moved = tmp_path / "elsewhere" / "renamed"
    moved.parent.mkdir()
    saved.rename(moved)
    assert outcome(moved) == NEWEST


@contextlib.contextmanager
def _small_disk(folder):
    """A file system of 3 MiB at `folder`."""
    command = ["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a file system can be mounted by root alone")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _noise(seed):
    """A state of 1.4 MB that does not compress."""
    values = np.random.default_rng(seed).normal(size=350_000)
    return {"w": jax.numpy.asarray(values, np.float32)}


def test_a_full_disk_and_one_that_is_read_only(tmp_path, capfd):
    with _small_disk(tmp_path):
        checkpoints = Checkpoints(tmp_path)
        for step in (1, 2):
            checkpoints.save(step, _noise(step), {}, {})
            checkpoints.wait()
        checkpoints.save(3, _noise(3), {}, {})
        with pytest.raises(UserError, match="No space left on device") as caught:
            checkpoints.wait()
        checkpoints.close()
        assert "\n" not in str(caught.value)
        assert "Traceback" not in capfd.readouterr().err

        # What was begun is removed, and the one before it is whole.
        with contextlib.closing(Checkpoints(tmp_path)) as checkpoints:
            assert checkpoints.latest_step() == 2
            shape = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
                _noise(2),
            )
            state = checkpoints.restore(shape)[0]
            np.testing.assert_array_equal(state["w"], _noise(2)["w"])
            remount = ["mount", "-o", "remount,ro", str(tmp_path)]
            subprocess.run(remount, check=True)
            with pytest.raises(UserError, match="Read-only file system"):
                checkpoints.save(4, _noise(4), {}, {})
                checkpoints.wait()
            assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(28, "No space left on device"), "free some disk space"),
        (OSError(13, "Permission denied", "x"), "that you may use it"),
        (
            ValueError(
                "RESOURCE_EXHAUSTED: Failed to write \"w\" [os_error_code='28']"
            ),
            "No space left on device): free some disk space",
        ),
        (ValueError("PERMISSION_DENIED: Error writing w"), "you may use it"),
    ],
)
def test_a_save_that_fails_is_one_sentence(tmp_path, monkeypatch, error, says):
    """What the file system and TensorStore raise, where nothing can be mounted."""
    with contextlib.closing(Checkpoints(tmp_path)) as checkpoints:

        def fail(*_, **__):
            raise error

        monkeypatch.setattr(checkpoints._manager, "save", fail)
        with pytest.raises(UserError) as caught:
            checkpoints.save(1, *content(1))
    assert says in str(caught.value) and "\n" not in str(caught.value)
    assert f"{tmp_path}/checkpoints" in str(caught.value)


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (PermissionError(13, "Permission denied", "x"), UserError),
        (OSError(5, "Input/output error"), UserError),
        (ValueError("UNAVAILABLE: Error reading w: no such host"), UserError),
        (ValueError("Error reading w [os_error_code='116']"), UserError),
        (MemoryError(), MemoryError),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED"), jax.errors.JaxRuntimeError),
    ],
)
def test_storage_that_cannot_be_reached_is_not_damage(
    saved, monkeypatch, error, raised
):
    """Whole checkpoints would be renamed, and a run begun anew far back."""
    with contextlib.closing(Checkpoints(saved)) as checkpoints:

        def fail(*_, **__):
            raise ValueError("in a thread of orbax") from error

        def plain(*_, **__):
            raise error

        for function in (fail, plain) if isinstance(error, ValueError) else (plain,):
            monkeypatch.setattr(checkpoints._manager, "restore", function)
            with pytest.raises(raised) as caught:
                checkpoints.restore(content(1)[0])
            if raised is UserError:
                assert "checkpoints/2 cannot be read" in str(caught.value)
    names = {folder.name for folder in (saved / "checkpoints").iterdir()}
    assert names == {"1", "2"}


def test_a_bug_in_a_save_is_not_the_storage_s(tmp_path, monkeypatch):
    with contextlib.closing(Checkpoints(tmp_path)) as checkpoints:

        def fail(*_, **__):
            raise ValueError("not a number of steps")

        monkeypatch.setattr(checkpoints._manager, "save", fail)
        with pytest.raises(ValueError, match="not a number of steps"):
            checkpoints.save(1, *content(1))


def test_the_seal_tells_apart_what_has_equal_bytes():
    """A name, a shape and a dtype are part of what is sealed."""
    zeros = np.zeros(4, np.float32)
    states = [
        {"a": zeros},
        {"b": zeros},
        {"a": zeros.reshape(2, 2)},
        {"a": zeros.astype(np.int32)},
        {"a": zeros.astype(jax.numpy.bfloat16)},
        {"a": np.float32(0)},
    ]
    sums = {seal.sealed(state, {}, {})["sha256"] for state in states}
    assert len(sums) == len(states)
    tree = {"x": {"y": zeros}, "w": (zeros, zeros + 1)}
    stored = json.loads(json.dumps(seal.sealed(tree, {"i": (1, 2)}, {"m": 1.5})))
    assert seal.opened(tree, {"i": [1, 2]}, stored) == {"m": 1.5}
    with pytest.raises(ValueError, match="does not match"):
        seal.opened(tree, {"i": [2, 1]}, stored)
