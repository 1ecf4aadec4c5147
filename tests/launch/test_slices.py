"""Borrowed TPU slices: how failures end, and that nothing is left.

A slice is deleted before the next one is made, and at the end.
"""

import re
import shlex
import signal
import subprocess
import sys

import pytest
from fake_tools import FLAGS, LAUNCH, TIMEOUT
from slice_fixtures import CODE_0, ENDED, GROUP, MISSING, RUN, SCRIPTS, TWO_RUNNING

both = pytest.mark.parametrize("borrow", SCRIPTS, indirect=True)


def _count(fakes, step):
    return fakes.steps().count(step)


def _nothing_left(fakes):
    steps = fakes.steps()
    made = [i for i, step in enumerate(steps) if step in ("create", "policy")]
    for here, after in zip(made, [*made[1:], len(steps)], strict=True):
        assert "delete" in steps[here:after]


@both
def test_no_quota_is_not_asked_again(borrow, fakes):
    done = borrow(answers={"create": "1 Quota limit for v6e has been exceeded."})
    assert done.returncode == 1 and _count(fakes, "create") == 1
    assert "Quota limit for v6e" in done.stderr and "asking again" in done.stderr
    _nothing_left(fakes)


@both
def test_no_quota_is_seen_later_too(borrow, fakes):
    done = borrow(state=["gone"], answers={"reason": "0 Quota 'CT6E' exceeded."})
    assert done.returncode == 1 and _count(fakes, "create") == 1
    assert "Quota 'CT6E' exceeded." in done.stderr
    _nothing_left(fakes)


def test_no_quota_for_a_host_that_vanished(fakes):
    """Compute Engine takes the request, and deletes the host when it fails."""
    fakes.answer(state=MISSING, reason="0 Quota 'CT6E' exceeded.")
    done = fakes.run("tpu_compute.sh", *FLAGS, **SCRIPTS["tpu_compute.sh"][1])
    assert done.returncode == 1 and _count(fakes, "create") == 1
    assert "Quota 'CT6E' exceeded." in done.stderr
    _nothing_left(fakes)


@both
def test_no_capacity_is_asked_again(borrow, fakes):
    failing = ["1 There is no more capacity in the zone."] * 2
    done = borrow(answers={"create": [*failing, "0 "]})
    assert done.returncode == 0, done.stderr
    assert _count(fakes, "create") == 3 and "attempt 3 of 10" in done.stderr
    _nothing_left(fakes)


def test_it_is_asked_only_so_often(borrow, fakes):
    done = borrow(answers={"create": "1 ZONE_RESOURCE_POOL_EXHAUSTED"}, TRIES="3")
    assert done.returncode == 1 and _count(fakes, "create") == 3
    assert "gave up after 3 attempts" in done.stderr
    _nothing_left(fakes)


def test_no_capacity_for_too_long(borrow, fakes):
    done = borrow(state=["queued"], WAIT="1s", POLL="1")
    assert done.returncode == 1
    assert "no capacity for x within 1 s" in done.stderr
    _nothing_left(fakes)


@both
def test_preempted_while_waiting(borrow, fakes):
    done = borrow(
        state=["queued", "gone", "ready"], answers={"reason": "0 It was preempted."}
    )
    assert done.returncode == 0, done.stderr
    assert "It was preempted." in done.stderr
    again = ["state", "create", "state", "state", "reason", "delete", "create", "state"]
    assert fakes.steps() == [*again, *RUN, "delete"]


@both
@pytest.mark.parametrize("seen", ["255 step 1\n", "0 step 1\nended with code 1\n"])
def test_preempted_while_running(borrow, fakes, seen):
    """The connection is lost, or the run fails because another host is gone."""
    done = borrow(state=["ready", "gone", "ready"], answers={"follow": [seen, ENDED]})
    assert done.returncode == 0, done.stderr
    assert "x was lost" in done.stderr
    lost = ["state", "create", "state", *RUN, "state", "reason", "delete"]
    assert fakes.steps() == [*lost, "create", "state", *RUN, "delete"]
    first = "step 1\nended with code 1\n" if "ended" in seen else "step 1\n"
    assert done.stdout == f"{first}step 1\nstep 2\n{CODE_0}"


def test_a_run_that_was_told_to_stop_by_the_cloud_goes_on(borrow, fakes):
    saved = "0 saved\nended with code 143\n"
    done = borrow(answers={"follow": [saved, ENDED]})
    assert done.returncode == 0, done.stderr
    assert _count(fakes, "create") == 2
    _nothing_left(fakes)


def test_a_lost_connection_is_made_again(borrow, fakes):
    rest = f"0 step 3\n{CODE_0}"
    done = borrow(answers={"follow": ["255 step 1\nstep 2\n", rest]})
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"step 1\nstep 2\nstep 3\n{CODE_0}"
    assert (_count(fakes, "create"), _count(fakes, "start")) == (1, 1)
    follows = [" ".join(c) for c in fakes.calls() if c[0] == "follow"]
    assert [re.search(r"tail -n \+(\d+)", f)[1] for f in follows] == ["1", "3"]


def test_no_connection_any_more(borrow, fakes):
    done = borrow(answers={"follow": "255 "})
    assert done.returncode == 1 and _count(fakes, "follow") == 10
    assert "lost ten times in a row" in done.stderr
    assert fakes.steps()[-2:] == ["stop", "delete"], "the run is asked to save"


def test_a_new_host_that_refuses_ssh_at_first(borrow, fakes):
    done = borrow(answers={"send": ["255 ", "0 "], "install": ["1 no route", "0 "]})
    assert done.returncode == 0, done.stderr
    assert (_count(fakes, "send"), _count(fakes, "install")) == (2, 2)


def test_hosts_that_cannot_be_set_up(borrow, fakes):
    done = borrow(answers={"install": "1 no network"})
    assert done.returncode == 1 and _count(fakes, "install") == 5
    assert "no network" in done.stderr and "cannot be set up" in done.stderr
    _nothing_left(fakes)


def test_a_training_that_fails_is_not_repeated(borrow, fakes):
    failed = "0 error: config.x is 3.\nended with code 1\n"
    done = borrow(answers={"follow": failed, "tails": "0 error of host 2\n"})
    assert done.returncode == 1 and _count(fakes, "create") == 1
    assert "ended with code 1" in done.stderr and "error of host 2" in done.stderr
    _nothing_left(fakes)


def test_a_part_was_made(fakes):
    """The group cannot be made, after its policy and its template were."""
    fakes.answer(state=[MISSING, TWO_RUNNING], group=["1 no capacity", "0 "])
    done = fakes.run("tpu_compute.sh", *FLAGS, **GROUP)
    assert done.returncode == 0, done.stderr
    three = ["delete"] * 3
    assert fakes.steps()[:7] == ["state", "policy", "template", "group", *three]
    assert fakes.steps()[-3:] == three


def test_a_host_of_a_group_is_lost(fakes):
    one = "0 x-a\tRUNNING\n"
    fakes.answer(state=[MISSING, TWO_RUNNING, TWO_RUNNING, one, TWO_RUNNING])
    fakes.answer(follow=["255 step 1\n", ENDED])
    done = fakes.run("tpu_compute.sh", *FLAGS, **GROUP)
    assert done.returncode == 0, done.stderr
    assert _count(fakes, "group") == 2
    _nothing_left(fakes)


def test_deleting_is_tried_again(borrow, fakes):
    done = borrow(answers={"delete": ["1 backend error", "1 backend error", "0 "]})
    assert done.returncode == 0 and _count(fakes, "delete") == 3
    assert "WARNING" not in done.stderr


def test_what_cannot_be_deleted_is_said(borrow, fakes):
    done = borrow(answers={"delete": "1 backend error"})
    assert done.returncode == 1, "even though the run is complete"
    assert _count(fakes, "delete") == 5
    warning = next(x for x in done.stderr.splitlines() if x.startswith("WARNING"))
    assert "may still run and be paid for" in warning
    by_hand = shlex.split(re.search(r"`(.*)`", warning)[1])
    assert by_hand == next(c[1:] for c in fakes.calls() if c[0] == "delete")


def test_no_second_slice_while_the_first_cannot_be_deleted(borrow, fakes):
    done = borrow(state=["gone"], answers={"delete": "1 backend error"})
    assert done.returncode == 1 and _count(fakes, "create") == 1
    assert "WARNING" in done.stderr


@both
def test_what_is_gone_already_is_deleted(borrow, fakes):
    assert borrow(answers={"delete": MISSING}).returncode == 0
    assert _count(fakes, "delete") == 1


@pytest.mark.parametrize("state", ["ready", "queued"])
def test_what_somebody_else_made_is_left_alone(fakes, state):
    for script, (states, settings) in SCRIPTS.items():
        fakes.answer(state=states[state])
        done = fakes.run(script, *FLAGS, **settings)
        assert done.returncode == 1 and "x exists already" in done.stderr
    assert set(fakes.steps()) == {"state"}
    assert not list((fakes.folder / "tmp").iterdir())


def test_what_somebody_else_makes_meanwhile_is_left_alone(borrow, fakes):
    done = borrow(answers={"create": "1 ALREADY_EXISTS: x already exists"})
    assert done.returncode == 1 and "not made by this script" in done.stderr
    assert fakes.steps() == ["state", "create"]


def test_a_cloud_that_does_not_answer(fakes):
    fakes.answer(state="1 could not reach the server")
    done = fakes.run("tpu.sh", *FLAGS, **SCRIPTS["tpu.sh"][1])
    assert done.returncode == 1 and "gcloud auth login" in done.stderr
    assert fakes.steps() == ["state"]


def test_a_cloud_that_answers_no_more(borrow, fakes):
    done = borrow(state=["1 could not reach the server"])
    assert done.returncode == 1 and "not answered ten times" in done.stderr
    assert fakes.steps()[-1] == "delete"


def test_the_time_is_used_up(borrow, fakes):
    done = borrow(answers={"follow": "hang"}, LIMIT="1s")
    assert done.returncode == 1 and "the time is used up" in done.stderr
    assert fakes.steps()[-2:] == ["stop", "delete"]


# Tests may run with signals ignored, which a child inherits; and a process that runs
# JAX had better not fork.
IGNORING_NOTHING = """
import os, signal, sys
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGPIPE, signal.SIGTERM):
    signal.signal(number, signal.SIG_DFL)
os.execvp("bash", ["bash", *sys.argv[1:]])
"""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_the_script_is_stopped(fakes, number, code):
    states, settings = SCRIPTS["tpu.sh"]
    fakes.answer(state=[MISSING, states["ready"]], follow="hang")
    process = subprocess.Popen(
        [sys.executable, "-c", IGNORING_NOTHING, LAUNCH / "tpu.sh", *FLAGS],
        env=fakes.environment(**settings),
        stderr=subprocess.PIPE,
        text=True,
    )
    fakes.wait_until_it_hangs()
    process.send_signal(number)
    _, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == code, errors
    assert fakes.steps()[-2:] == ["stop", "delete"]


def test_its_terminal_is_closed(fakes):
    """Then nobody reads what it says any more, and it gives the slice back."""
    states, settings = SCRIPTS["tpu.sh"]
    fakes.answer(state=[MISSING, states["ready"]], follow="hang")
    process = subprocess.Popen(
        [sys.executable, "-c", IGNORING_NOTHING, LAUNCH / "tpu.sh", *FLAGS],
        env=fakes.environment(**settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    fakes.wait_until_it_hangs()
    process.stdout.close()
    process.stderr.close()
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=TIMEOUT) == 129
    assert fakes.steps()[-2:] == ["stop", "delete"]
