"""Terminals of any encoding, closed streams, pipes that nobody reads, full disks."""

import os
import subprocess
import sys
import textwrap

import pytest

from hkdnet_jax.common import streams

PROGRAM = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from hkdnet_jax.common.errors import exit_code

    def run():
        for _ in range(2000):
            print("SSIM \\u2191 \\u878d\\u5408 \\udcff")
            print("progress \\u2588", file=sys.stderr, flush=True)
        Path(sys.argv[1]).write_text("done")
        return 0

    sys.exit(exit_code(run))
    """
)


def run_program(done, wrapper=(), **options):
    command = [*wrapper, sys.executable, "-c", PROGRAM, str(done)]
    return subprocess.Popen(command, **options)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp1252", "iso8859-15"])
def test_every_character_can_be_printed(tmp_path, encoding):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    process = run_program(tmp_path / "done", env=environment, **pipes)
    out, err = process.communicate()
    assert process.returncode == 0
    first = out.decode(encoding).splitlines()[0]
    utf8 = encoding == "utf-8"
    assert first == (
        "SSIM ↑ 融合 \\udcff" if utf8 else "SSIM \\u2191 \\u878d\\u5408 \\udcff"
    )
    assert "Traceback" not in err.decode(encoding)


@pytest.mark.parametrize("name", ["stdout", "stderr"])
@pytest.mark.parametrize("kind", ["full", "unread", "closed"])
def test_the_work_is_done_whatever_becomes_of_a_stream(tmp_path, name, kind):
    number = {"stdout": 1, "stderr": 2}[name]
    other = {"stdout": "stderr", "stderr": "stdout"}[name]
    options = {other: subprocess.PIPE}
    if kind == "full":
        if not os.path.exists("/dev/full"):
            pytest.skip("this system has no /dev/full")
        options[name] = open("/dev/full", "wb")  # noqa: SIM115
    elif kind == "unread":
        reading, writing = os.pipe()
        os.close(reading)
        options[name] = os.fdopen(writing, "wb")
    else:
        closing = f'exec {number}>&-; exec "$@"'
        options["wrapper"] = ["sh", "-c", closing, "sh"]
    process = run_program(tmp_path / "done", **options)
    if name in options:
        options[name].close()
    said = process.communicate()[{"stdout": 0, "stderr": 1}[other]].decode()
    assert (tmp_path / "done").read_text() == "done"
    assert "Traceback" not in said and "Exception" not in said
    lost = name == "stdout" and kind != "closed"
    assert process.returncode == int(lost)
    assert ("error: standard output cannot be written to" in said) == lost


def test_the_streams_come_back():
    before = (sys.stdout, sys.stderr)
    with streams.guarded():
        assert sys.stdout is not before[0]
        assert streams.broken() is None
        assert sys.stdout.encoding == before[0].encoding
    assert (sys.stdout, sys.stderr) == before
