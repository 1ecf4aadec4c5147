"""Borrowed TPU slices: what is made, how failures end, and that nothing is left."""

import re
import shlex
import signal
import subprocess
import time

import pytest
from fake_tools import AWKWARD, LAUNCH, TIMEOUT, Fakes, dry_commands

MISSING = "1 ERROR: NOT_FOUND: the resource was not found"
CODE_0 = "ended with code 0\n"
ENDED = f"0 step 1\nstep 2\n{CODE_0}"
# How each script's cloud says in which state the slice is.
TPU = {"ready": "0 ACTIVE", "queued": "0 WAITING_FOR_RESOURCES", "gone": "0 SUSPENDED"}
HOST = {"ready": "0 x\tRUNNING", "queued": "0 x\tPENDING", "gone": "0 x\tTERMINATED"}
SCRIPTS = {
    "tpu.sh": (TPU, {"TPU": "x", "TYPE": "v6e-8", "ZONE": "us-east5-a"}),
    "tpu_compute.sh": (
        HOST,
        {"TPU": "x", "MACHINE": "ct6e-standard-8t", "PROJECT": "p", "ZONE": "z-1-a"},
    ),
}
GROUP = SCRIPTS["tpu_compute.sh"][1] | {
    "MACHINE": "ct6e-standard-4t",
    "TOPOLOGY": "2x4",
}
TWO_RUNNING = "0 x-b\tRUNNING\nx-a\tRUNNING\n"
RUN = ["send", "install", "start", "follow"]
MADE = ["state", "create", "state", *RUN, "delete"]


@pytest.fixture
def fakes(tmp_path):
    made = Fakes(tmp_path, ("gcloud", "git"))
    made.answer(follow=ENDED)
    return made


@pytest.fixture
def borrow(request, fakes):
    """A function that runs a script, whose cloud answers as told.

    What happens in the life of a slice is the same code for both: it is `tpu.sh`, but
    where a test asks for both.
    """
    script = getattr(request, "param", "tpu.sh")
    states, settings = SCRIPTS[script]

    def run(*arguments, state=("ready",), answers=None, **more):
        told = [MISSING, *(states.get(s, s) for s in state)]
        fakes.answer(state=told, **(answers or {}))
        return fakes.run(script, *arguments, **(settings | more))

    return run


both = pytest.mark.parametrize("borrow", SCRIPTS, indirect=True)


def _count(fakes, step):
    return fakes.steps().count(step)


def _bash_words(command):
    """The words of a command that bash reads from a text."""
    return shlex.split(command)


# What is made


@both
def test_it_is_made_used_and_deleted(borrow, fakes):
    done = borrow(AWKWARD)
    assert done.returncode == 0, done.stderr
    assert fakes.steps() == MADE
    assert done.stdout == f"step 1\nstep 2\n{CODE_0}"
    # Before anything is made, it is said for how long and how much.
    first = done.stderr.splitlines()[0]
    assert "at most 14400 s in all, which is 32 chip hours" in first
    assert "deletes" in first and "x is deleted." in done.stderr
    assert not list((fakes.folder / "tmp").iterdir())


@both
def test_a_dry_run_prints_the_commands_and_runs_none(borrow, fakes):
    done = borrow("--dry-run", AWKWARD)
    assert done.returncode == 0 and not fakes.calls()
    commands = dry_commands(done)
    printed = [words[0] for words in commands]
    assert printed[0] == "git" and set(printed[1:]) == {"gcloud"}
    # They are those of a run: nothing else is called when it is not dry.
    borrow(AWKWARD)
    wet = [call[1:] for call in fakes.calls()]
    same = [w for w in wet if w in commands]
    # But for a look at the checkout, and the packed code, named after the process.
    assert [w[0] for w in wet if w not in same] == ["git", "git", "gcloud"]


def _created(fakes, script, **settings):
    done = fakes.run(script, "--dry-run", "--x", **(SCRIPTS[script][1] | settings))
    assert done.returncode == 0, done.stderr
    return [words for words in dry_commands(done) if "create" in words]


@pytest.mark.parametrize(
    ("kind", "runtime", "chips"),
    [
        ("v4-16", "tpu-ubuntu2204-base", 8),
        ("v5litepod-16", "v2-alpha-tpuv5-lite", 16),
        ("v5p-16", "v2-alpha-tpuv5", 8),
        ("v6e-16", "v2-alpha-tpuv6e", 16),
    ],
)
def test_a_type_has_its_runtime_and_chips(fakes, kind, runtime, chips):
    settings = SCRIPTS["tpu.sh"][1] | {"TYPE": kind, "LIMIT": "1h"}
    done = fakes.run("tpu.sh", "--dry-run", "--x", **settings)
    (create,) = (w for w in dry_commands(done) if "create" in w)
    assert f"--runtime-version={runtime}" in create
    assert f"--accelerator-type={kind}" in create
    assert f"{chips} chips" in done.stderr and f"is {chips} chip hours" in done.stderr


def test_chip_hours_are_rounded_up(fakes):
    settings = SCRIPTS["tpu.sh"][1] | {"TYPE": "v6e-1", "LIMIT": "61m"}
    done = fakes.run("tpu.sh", "--dry-run", "--x", **settings)
    assert "at most 3660 s in all, which is 2 chip hours" in done.stderr


def test_a_flex_start_slice_ends_by_itself(fakes):
    (create,) = _created(fakes, "tpu.sh", LIMIT="90m", WAIT="1h")
    assert create[:2] == ["gcloud", "alpha"]
    assert {"--provisioning-model=flex-start", "--max-run-duration=5400s"} <= {*create}
    assert "--valid-until-duration=3600s" in create


@pytest.mark.parametrize(
    ("model", "flag"),
    [("spot", "--spot"), ("reserved", "--reserved"), ("on-demand", "")],
)
def test_any_other_slice_is_told_to_delete_itself(fakes, model, flag):
    (create,) = _created(fakes, "tpu.sh", MODEL=model, LIMIT="2h")
    assert create[:3] == ["gcloud", "compute", "tpus"]
    assert not flag or flag in create
    metadata = next(w for w in create if w.startswith("--metadata=startup-script="))
    timer, *rest = _bash_words(metadata.removeprefix("--metadata=startup-script="))
    assert (timer, rest[:3]) == ("systemd-run", ["--on-active=7200", "bash", "-lc"])
    assert _bash_words(rest[3]) == [
        *("gcloud", "compute", "tpus", "queued-resources", "delete", "x"),
        *("--zone=us-east5-a", "--force", "--quiet"),
    ]
    assert "," not in metadata, "gcloud would take it for several"


@pytest.mark.parametrize("model", ["FLEX_START", "SPOT", "STANDARD"])
def test_a_host_ends_by_itself(fakes, model):
    (create,) = _created(fakes, "tpu_compute.sh", MODEL=model, LIMIT="2h")
    assert {
        f"--provisioning-model={model}",
        "--machine-type=ct6e-standard-8t",
        "--max-run-duration=7200s",
        "--instance-termination-action=DELETE",
    } <= {*create}
    waits = "--request-valid-for-duration=7200s" in create
    assert waits == (model == "FLEX_START")


def test_several_hosts_are_a_group_with_a_topology(fakes):
    policy, template, group = _created(fakes, "tpu_compute.sh", **GROUP)
    assert {"--accelerator-topology=2x4", "--region=z-1"} <= {*policy}
    assert "--instance-termination-action=DELETE" in template
    assert {
        "--template=projects/p/regions/z-1/instanceTemplates/x",
        "--workload-policy=projects/p/regions/z-1/resourcePolicies/x",
        "--target-size-policy-mode=bulk",
    } <= {*group}


def test_every_host_gets_its_number_and_the_coordinator(fakes):
    fakes.answer(state=[MISSING, TWO_RUNNING])
    done = fakes.run("tpu_compute.sh", AWKWARD, **GROUP)
    assert done.returncode == 0, done.stderr
    starts = [call for call in fakes.calls() if call[0] == "start"]
    for index, call in enumerate(starts):
        assert ("x-a", "x-b")[index] in call
        command = next(w for w in call if w.startswith("--command="))
        inner = re.search(r"bash -c (.*) </dev/null", command)[1]
        program = _bash_words(inner)[0].partition(" >run.log")[0]
        assert _bash_words(program) == [
            *(".venv/bin/python", "-m", "hkdnet_jax.main", AWKWARD),
            *("--coordinator=x-a:12321", "--processes=2", f"--process={index}"),
        ]
    assert len(starts) == 2
    deleted = [call[5] for call in fakes.calls() if call[0] == "delete"]
    # What uses another thing goes before it.
    assert deleted == ["instance-groups", "instance-templates", "resource-policies"]


# Failures.  A slice is deleted before the next one is made, and at the end.


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
    done = fakes.run("tpu_compute.sh", "--x", **SCRIPTS["tpu_compute.sh"][1])
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
    done = fakes.run("tpu_compute.sh", "--x", **GROUP)
    assert done.returncode == 0, done.stderr
    three = ["delete"] * 3
    assert fakes.steps()[:7] == ["state", "policy", "template", "group", *three]
    assert fakes.steps()[-3:] == three


def test_a_host_of_a_group_is_lost(fakes):
    one = "0 x-a\tRUNNING\n"
    fakes.answer(state=[MISSING, TWO_RUNNING, TWO_RUNNING, one, TWO_RUNNING])
    fakes.answer(follow=["255 step 1\n", ENDED])
    done = fakes.run("tpu_compute.sh", "--x", **GROUP)
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
    by_hand = _bash_words(re.search(r"`(.*)`", warning)[1])
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
        done = fakes.run(script, "--x", **settings)
        assert done.returncode == 1 and "x exists already" in done.stderr
    assert set(fakes.steps()) == {"state"}
    assert not list((fakes.folder / "tmp").iterdir())


def test_what_somebody_else_makes_meanwhile_is_left_alone(borrow, fakes):
    done = borrow(answers={"create": "1 ALREADY_EXISTS: x already exists"})
    assert done.returncode == 1 and "not made by this script" in done.stderr
    assert fakes.steps() == ["state", "create"]


def test_a_cloud_that_does_not_answer(fakes):
    fakes.answer(state="1 could not reach the server")
    done = fakes.run("tpu.sh", "--x", **SCRIPTS["tpu.sh"][1])
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


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_the_script_is_stopped(fakes, number, code):
    states, settings = SCRIPTS["tpu.sh"]
    fakes.answer(state=[MISSING, states["ready"]], follow="hang")
    process = subprocess.Popen(
        ["bash", LAUNCH / "tpu.sh", "--x"],
        env=fakes.environment(**settings),
        stderr=subprocess.PIPE,
        text=True,
        # Python's own tests may run with SIGINT ignored, which a child would inherit.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    fakes.wait_until_it_hangs()
    process.send_signal(number)
    _, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == code, errors
    assert fakes.steps()[-2:] == ["stop", "delete"]


# The commands for the hosts, run by a real shell


@pytest.fixture
def host(fakes):
    """A folder in place of a host, where a made-up Python stands for the training."""
    program = fakes.folder / "host" / "hkdnet-jax" / ".venv" / "bin" / "python"
    program.parent.mkdir(parents=True)
    program.write_text(
        "#!/usr/bin/env bash\n"
        "trap 'echo saved; exit 143' TERM\n"
        'printf "<%s>\\n" "$@"\n'
        "[[ ! -e wait ]] || { touch waiting; for i in {1..600}; do sleep 0.1; done; }\n"
    )
    program.chmod(0o755)
    return fakes.folder / "host" / "hkdnet-jax"


def test_the_training_gets_its_arguments_and_its_log_is_printed(fakes, host):
    states, settings = SCRIPTS["tpu.sh"]
    fakes.answer(state=[MISSING, states["ready"]])
    settings = settings | {"FAKE_HOST": str(host.parent)}
    done = fakes.run("tpu.sh", AWKWARD, **settings)
    assert done.returncode == 0, done.stderr
    words = ["-m", "hkdnet_jax.main", AWKWARD, "--coordinator=auto"]
    assert done.stdout == "".join(f"<{word}>\n" for word in words) + CODE_0


def test_the_training_is_told_to_save(fakes, host):
    states, settings = SCRIPTS["tpu.sh"]
    fakes.answer(state=[MISSING, states["ready"]])
    (host / "wait").touch()
    environment = fakes.environment(**settings, FAKE_HOST=str(host.parent))
    process = subprocess.Popen(
        ["bash", LAUNCH / "tpu.sh"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + TIMEOUT
    while not (host / "waiting").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 143, errors
    assert (host / "run.code").read_text() == "143\n"
    assert "saved" in (host / "run.log").read_text()
    assert fakes.steps()[-1] == "delete"


# Wrong settings


@pytest.mark.parametrize(
    ("script", "settings", "says"),
    [
        ("tpu.sh", {"TPU": ""}, "TPU: name the slice"),
        ("tpu.sh", {"ZONE": ""}, "ZONE: name its zone"),
        ("tpu.sh", {"TYPE": "v9-8"}, "TYPE=v9-8 is none of"),
        ("tpu.sh", {"TPU": "My_TPU"}, "the name My_TPU must be"),
        ("tpu.sh", {"LIMIT": "4"}, "4 is not a duration"),
        ("tpu.sh", {"LIMIT": "8d"}, "more than 7d"),
        ("tpu.sh", {"MODEL": "cheap"}, "MODEL=cheap is none of"),
        ("tpu_compute.sh", {"PROJECT": ""}, "PROJECT: name the project"),
        ("tpu_compute.sh", {"MACHINE": "n2-standard-8"}, "is no TPU machine type"),
        ("tpu_compute.sh", {"TOPOLOGY": "two"}, "is no topology such as"),
        ("tpu_compute.sh", {"TOPOLOGY": "2x4"}, "has 8 chips, which is not several"),
        ("tpu_compute.sh", {"MODEL": "cheap"}, "MODEL=cheap is none of"),
        ("tpu_compute.sh", {"MODEL": "RESERVATION_BOUND"}, "name the reservation"),
    ],
)
def test_a_wrong_setting_is_named(fakes, script, settings, says):
    done = fakes.run(script, "--dry-run", **(SCRIPTS[script][1] | settings))
    assert done.returncode != 0 and says in done.stderr
    assert not fakes.calls()
