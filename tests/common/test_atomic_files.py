"""Files are complete or absent: long names, full disks, signals, threads."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from hkdnet_jax.common import atomic_files
from hkdnet_jax.common.atomic_files import write_atomically
from hkdnet_jax.common.errors import UserError


@pytest.mark.parametrize("name", ["a.png", "n" * 251 + ".png", "é" * 125 + ".tiff"])
def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path, name):
    assert len(os.fsencode(name)) <= 255
    for content in (b"one", b"two"):
        write_atomically(tmp_path / "new" / name, content)
        assert (tmp_path / "new" / name).read_bytes() == content
        assert os.listdir(tmp_path / "new") == [name]


def test_a_name_that_is_too_long_is_said(tmp_path):
    path = tmp_path / ("n" * 252 + ".png")
    with pytest.raises(UserError, match=r"too long\): choose a shorter name\."):
        write_atomically(path, b"")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free some disk space"),
        (errno.EACCES, "choose a folder that you may write to"),
    ],
)
def test_what_the_system_refuses(tmp_path, monkeypatch, number, remedy):
    def refuse(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(atomic_files.os, "fsync", refuse)
    says = rf"a\.png cannot be written \({os.strerror(number)}\): {remedy}\."
    with pytest.raises(UserError, match=says):
        write_atomically(tmp_path / "a.png", b"x")
    assert os.listdir(tmp_path) == []


def test_sigterm_waits_for_the_file(tmp_path):
    """Killed in the middle of a file, which is complete; nothing is hidden."""
    code = """
    import os, signal, sys
    from pathlib import Path
    from hkdnet_jax.common import atomic_files

    real = os.fsync
    def fsync(number):
        os.kill(os.getpid(), signal.SIGTERM)
        real(number)

    os.fsync = fsync
    atomic_files.write_atomically(Path(sys.argv[1], "a.png"), b"complete")
    atomic_files.write_atomically(Path(sys.argv[1], "b.png"), b"never")
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGTERM
    assert os.listdir(tmp_path) == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == b"complete"


def test_a_handler_of_somebody_else_stays(tmp_path):
    received = []

    def handler(number, frame):
        received.append(number)

    before = signal.signal(signal.SIGTERM, handler)
    try:
        write_atomically(tmp_path / "a.png", b"x")
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)
    write_atomically(tmp_path / "b.png", b"x")
    assert signal.getsignal(signal.SIGTERM) == before and not received


def test_threads_write_beside_each_other(tmp_path):
    def write(number):
        for _ in range(20):
            write_atomically(tmp_path / "same.png", bytes([number]) * 1000)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert os.listdir(tmp_path) == ["same.png"]
    assert len(set((tmp_path / "same.png").read_bytes())) == 1


def test_what_a_killed_writer_left_is_removed(tmp_path):
    killed = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"],
        capture_output=True,
        text=True,
        check=True,
    )
    (tmp_path / "samples").mkdir()
    parent = os.getppid() or 1
    left = [f".{int(killed.stdout)}-1.tmp", f"samples/.{os.getpid()}-7.tmp"]
    others = [f".{parent}-1.tmp", ".x-1.tmp", "1-1.tmp", ".notes.tmp", "a.png"]
    for name in left + others:
        (tmp_path / name).write_bytes(b"half")
    atomic_files.remove_remains(tmp_path)
    stay = {str(f.relative_to(tmp_path)) for f in tmp_path.rglob("*") if f.is_file()}
    assert stay == set(others)
