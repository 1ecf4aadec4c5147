"""GPU nodes over ssh: what runs there, and that nothing goes on unannounced."""

import re
import shlex
import signal
import subprocess

import pytest
from fake_tools import AWKWARD, FLAGS, LAUNCH, TIMEOUT, Fakes, dry_commands

SETTINGS = {"HOSTS": "one two", "FOLDER": "the folder"}


@pytest.fixture
def fakes(tmp_path):
    return Fakes(tmp_path, ("ssh",))


def _program(command):
    """The program of a command for a node, after the note of its process."""
    words = shlex.split(command)
    assert words[:3] == ["cd", "the folder", "&&"]
    return words[words.index("exec") + 1 :]


def test_every_node_gets_its_number_and_the_coordinator(fakes):
    done = fakes.run("gpu.sh", AWKWARD, *FLAGS, **SETTINGS)
    assert done.returncode == 0, done.stderr
    calls = sorted(fakes.calls(), key=lambda call: call[-2])
    for index, call in enumerate(calls):
        assert call[-2] == ("one", "two")[index]
        assert _program(call[-1]) == [
            *(".venv/bin/python", "-m", "hkdnet_jax.main", AWKWARD, *FLAGS),
            *("--coordinator=one:12321", "--processes=2", f"--process={index}"),
        ]
    assert len(calls) == 2


def test_a_dry_run_prints_the_same(fakes):
    done = fakes.run("gpu.sh", "--dry-run", AWKWARD, *FLAGS, **SETTINGS)
    commands = dry_commands(done)
    assert done.returncode == 0 and not fakes.calls()
    fakes.run("gpu.sh", AWKWARD, *FLAGS, **SETTINGS)
    assert sorted(commands) == sorted(call[1:] for call in fakes.calls())


def test_a_node_keeps_to_the_limit_by_itself(fakes):
    done = fakes.run("gpu.sh", "--dry-run", *FLAGS, **SETTINGS, LIMIT="2h")
    words = ["timeout", "--preserve-status", "--signal=TERM"]
    for command in dry_commands(done):
        program = _program(command[-1])
        assert program[:3] == words
        # The seconds that the script has taken so far are part of the limit.
        assert 7200 - TIMEOUT < int(program[3]) <= 7200
    assert "at most 7200 s" in done.stderr


def test_a_node_that_fails_ends_the_others(fakes):
    fakes.answer(start=["3 error: config.x is 3.", "hang"])
    process = fakes.run("gpu.sh", *FLAGS, **SETTINGS)
    assert process.returncode == 3
    steps = fakes.steps()
    assert steps.count("start") == 2 and steps.count("stop") == 2


def test_a_lost_connection_starts_all_again(fakes):
    # The other node's process ends after the connection is lost, which must not be
    # taken for the end of a new one.
    fakes.answer(start=["lost", "until-stopped", "0 ", "0 "])
    done = fakes.run("gpu.sh", *FLAGS, **SETTINGS)
    assert done.returncode == 0, done.stderr
    # The old processes are ended before the new ones start.
    assert fakes.steps() == ["start"] * 2 + ["stop"] * 2 + ["start"] * 2


def test_connections_are_lost_only_so_often(fakes):
    fakes.answer(start="lost")
    done = fakes.run("gpu.sh", *FLAGS, **SETTINGS, TRIES="2")
    assert done.returncode == 1 and "lost 2 times" in done.stderr
    assert fakes.steps().count("start") == 4


def test_a_process_that_may_still_run_is_named(fakes):
    fakes.answer(start="lost", stop=["0 ", "255 "])
    done = fakes.run("gpu.sh", *FLAGS, **SETTINGS)
    assert done.returncode == 1 and fakes.steps().count("start") == 2
    warning = next(x for x in done.stderr.splitlines() if x.startswith("WARNING"))
    host = re.search(r"the process on (one|two) may still run", warning)[1]
    tool, where, command = shlex.split(re.search(r"`(.*)`", warning)[1])
    assert (tool, where) == ("ssh", host) and "kill -TERM" in command


def test_a_saved_run_keeps_its_code(fakes):
    fakes.answer(start="143 ")
    assert fakes.run("gpu.sh", *FLAGS, **SETTINGS).returncode == 143
    assert fakes.steps().count("start") == 2


def test_the_script_is_stopped(fakes):
    fakes.answer(start="hang")
    process = subprocess.Popen(
        ["bash", LAUNCH / "gpu.sh", *FLAGS],
        env=fakes.environment(**SETTINGS),
        stderr=subprocess.PIPE,
    )
    fakes.wait_until_it_hangs()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=TIMEOUT)
    assert process.returncode == 143
    assert fakes.steps().count("stop") == 2


def test_a_process_is_told_to_save(fakes, tmp_path):
    """The command that ends a node's process, run by a real shell."""
    done = fakes.run("gpu.sh", "--dry-run", *FLAGS, HOSTS="one", FOLDER=str(tmp_path))
    (command,) = (c[-1] for c in dry_commands(done))
    note = re.search(r">(/tmp/\S+\.pid)", command)[1]
    fakes.answer(start="1 ")
    fakes.run("gpu.sh", *FLAGS, HOSTS="one", FOLDER=str(tmp_path))
    (stop,) = (c[-1] for c in fakes.calls() if c[0] == "stop")
    own = tmp_path / "pid"
    saving = "trap 'exit 143' TERM; echo; while :; do sleep 0.1; done"
    process = subprocess.Popen(["bash", "-c", saving], stdout=subprocess.PIPE)
    process.stdout.readline()  # now it listens to the signal
    own.write_text(f"{process.pid}\n")
    stopping = subprocess.Popen(["bash", "-c", stop.replace(note, str(own))])
    assert process.wait(TIMEOUT) == 143
    assert stopping.wait(TIMEOUT) == 0 and not own.exists()
    process.stdout.close()
    # Nothing to end is no failure.
    again = subprocess.run(["bash", "-c", stop.replace(note, str(own))])
    assert again.returncode == 0


def test_a_missing_setting_is_named(fakes):
    done = fakes.run("gpu.sh", *FLAGS, HOSTS="")
    assert done.returncode != 0 and "HOSTS: name" in done.stderr and not fakes.calls()


def test_a_wrong_flag_starts_nothing(fakes):
    done = fakes.run("gpu.sh", *FLAGS, "--dry-run", **SETTINGS)
    assert done.returncode == 1 and "`--dry-run` is neither" in done.stderr
    # A shared folder of the nodes stays when the run is over.
    local = ("--config=configs/a.py", "--workdir=/shared/run")
    assert fakes.run("gpu.sh", "--dry-run", *local, **SETTINGS).returncode == 0
    assert not fakes.calls()
