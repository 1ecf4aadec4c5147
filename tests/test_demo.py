"""The command that serves the web page: its flags, and what it says if it cannot."""

import re
import socket
import subprocess
import sys

import pytest
from command_fixtures import fails
from web_fixtures import fetched

from hkdnet_jax import demo


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--port", "70000"], "--port 70000 must be from 0 to 65535"),
        (["--max-upload", "0"], "--max-upload 0 must be more than 0"),
        (["--max-pixels", "-2"], "--max-pixels -2 must be more than 0"),
        (["--max-queue", "0"], "--max-queue 0 must be more than 0"),
        (["--max-pairs", "0"], "--max-pairs 0 must be more than 0"),
        (["--time-limit", "nan"], "--time-limit nan must be more than 0"),
        (["--host", "no.such.host.invalid"], "no.such.host.invalid is no address"),
    ],
)
def test_flags_that_cannot_be_used(capfd, flags, says):
    fails(demo, capfd, *flags, says=[says])


def test_a_port_in_use(capfd):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        fails(demo, capfd, "--port", port, says=[f"Port {port} of 127.0.0.1"])


def test_help_names_the_defaults(capsys):
    with pytest.raises(SystemExit) as ended:
        demo.main(["--help"])
    printed = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 0 and "example: python -m hkdnet_jax.demo" in printed
    for words in ("(default: 127.0.0.1)", "(default: 7860)", "may have (default: 50)"):
        assert words in printed


def test_a_model_that_is_none(capfd):
    says = ["nowhere does not exist"]
    fails(demo, capfd, "--port", 0, "--model", "nowhere", says=says)


def test_a_signal_ends_it_and_it_leaves_nothing(tmp_path, monkeypatch):
    """Also Ctrl-C ends it: `test_readme.py`."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    process = subprocess.Popen(
        [sys.executable, "-m", "hkdnet_jax.demo", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    address = re.search(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())[0]
    # The socket listens before the server does: an answer says that it has begun.
    assert fetched(address, "", timeout=300)[0] == 200
    assert list(tmp_path.glob("hkdnet*"))
    process.terminate()
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0 and "Traceback" not in err
    # Gradio itself makes an empty folder for a part of it that is off.
    left = {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*")}
    assert left <= {"gradio"}
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
