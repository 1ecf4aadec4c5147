"""Borrowed TPU slices: what the scripts make, start and refuse."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import time

import pytest
from fake_tools import AWKWARD, FLAGS, LAUNCH, TIMEOUT, dry_commands
from slice_fixtures import CODE_0, GROUP, MADE, MISSING, SCRIPTS, TWO_RUNNING

both = pytest.mark.parametrize("borrow", SCRIPTS, indirect=True)


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
    # But for two looks at the checkout, and the packed code, named after the process.
    assert [w[0] for w in wet if w not in same] == ["git", "git", "git", "gcloud"]


def _created(fakes, script, **settings):
    done = fakes.run(script, "--dry-run", *FLAGS, **(SCRIPTS[script][1] | settings))
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
    done = fakes.run("tpu.sh", "--dry-run", *FLAGS, **settings)
    (create,) = (w for w in dry_commands(done) if "create" in w)
    assert f"--runtime-version={runtime}" in create
    assert f"--accelerator-type={kind}" in create
    assert f"{chips} chips" in done.stderr and f"is {chips} chip hours" in done.stderr


def test_chip_hours_are_rounded_up(fakes):
    settings = SCRIPTS["tpu.sh"][1] | {"TYPE": "v6e-1", "LIMIT": "61m"}
    done = fakes.run("tpu.sh", "--dry-run", *FLAGS, **settings)
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
    timer, *rest = shlex.split(metadata.removeprefix("--metadata=startup-script="))
    assert (timer, rest[:3]) == ("systemd-run", ["--on-active=7200", "bash", "-lc"])
    assert shlex.split(rest[3]) == [
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
    done = fakes.run("tpu_compute.sh", AWKWARD, *FLAGS, **GROUP)
    assert done.returncode == 0, done.stderr
    starts = [call for call in fakes.calls() if call[0] == "start"]
    for index, call in enumerate(starts):
        assert ("x-a", "x-b")[index] in call
        command = next(w for w in call if w.startswith("--command="))
        inner = re.search(r"bash -c (.*) </dev/null", command)[1]
        program = shlex.split(inner)[0].partition(" >run.log")[0]
        assert shlex.split(program) == [
            *(".venv/bin/python", "-m", "hkdnet_jax.main", AWKWARD, *FLAGS),
            *("--coordinator=x-a:12321", "--processes=2", f"--process={index}"),
        ]
    assert len(starts) == 2
    deleted = [call[5] for call in fakes.calls() if call[0] == "delete"]
    # What uses another thing goes before it.
    assert deleted == ["instance-groups", "instance-templates", "resource-policies"]


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
    done = fakes.run("tpu.sh", AWKWARD, *FLAGS, **settings)
    assert done.returncode == 0, done.stderr
    words = ["-m", "hkdnet_jax.main", AWKWARD, *FLAGS, "--coordinator=auto"]
    assert done.stdout == "".join(f"<{word}>\n" for word in words) + CODE_0


def test_the_training_is_told_to_save(fakes, host):
    states, settings = SCRIPTS["tpu.sh"]
    fakes.answer(state=[MISSING, states["ready"]])
    (host / "wait").touch()
    environment = fakes.environment(**settings, FAKE_HOST=str(host.parent))
    process = subprocess.Popen(
        ["bash", LAUNCH / "tpu.sh", *FLAGS],
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
        ("tpu.sh", {"TRIES": "few"}, "TRIES=few is not a whole number"),
        ("tpu.sh", {"POLL": "30s"}, "POLL=30s is not a whole number"),
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
    settings = SCRIPTS[script][1] | settings
    done = fakes.run(script, "--dry-run", *FLAGS, **settings)
    assert done.returncode != 0 and says in done.stderr
    assert not fakes.calls()


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--dryrun", *FLAGS), "`--dryrun` is neither an option of this script"),
        ((*FLAGS, "--dry-run"), "`--dry-run` is neither an option of this script"),
        ((*FLAGS, "--coordinator=auto"), "`--coordinator=auto` is neither"),
        ((*FLAGS, "configs/a.py"), "`configs/a.py` is neither"),
        ((FLAGS[1],), "--config=FILE is missing"),
        ((FLAGS[0],), "--workdir=FOLDER is missing"),
        ((FLAGS[0], "--workdir=runs/x2"), "give --workdir=gs://BUCKET/PATH"),
    ],
)
def test_a_wrong_flag_makes_nothing(fakes, script, flags, says):
    done = fakes.run(script, *flags, **SCRIPTS[script][1])
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1 and line.startswith("error: ") and says in line
    assert not fakes.calls()


def test_a_configuration_that_the_hosts_would_not_have(fakes):
    fakes.answer(git="1 ")
    done = fakes.run("tpu.sh", *FLAGS, **SCRIPTS["tpu.sh"][1])
    assert done.returncode == 1 and not fakes.steps()
    assert "error: configs/a.py is not among the committed files" in done.stderr
    (call,) = fakes.calls()
    assert call[-3:] == ["cat-file", "-e", "HEAD:configs/a.py"]


def test_a_tool_that_is_not_installed(tmp_path):
    (tmp_path / "dirname").symlink_to(shutil.which("dirname"))
    settings = SCRIPTS["tpu.sh"][1] | {"PATH": str(tmp_path)}
    done = subprocess.run(
        [shutil.which("bash"), LAUNCH / "tpu.sh", *FLAGS],
        env=os.environ | settings,
        capture_output=True,
        text=True,
    )
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1
    assert line.startswith("error: gcloud is not installed here")


def test_a_host_gets_the_locked_packages_and_those_of_its_bucket(borrow, fakes):
    borrow()
    (install,) = (" ".join(c) for c in fakes.calls() if c[0] == "install")
    files = re.findall(r"-r (\S+)", install)
    assert files == [f"requirements{x}.txt" for x in ("", "-tpu", "-gcs")]
    for file in (*files, re.search(r"--constraint (\S+)", install)[1]):
        assert (LAUNCH.parent / file).exists()
