"""Slurm jobs: what they run, and how often they are put back into the queue."""

import os
import re
import shlex
import shutil
import subprocess

import pytest
from fake_tools import AWKWARD, FLAGS, LAUNCH, TIMEOUT, Fakes

SRUN = ["srun", "--kill-on-bad-exit=1"]
TRAIN = [".venv/bin/python", "-m", "hkdnet_jax.main"]
FUSE = [".venv/bin/python", "-m", "hkdnet_jax.fuse", "--skip-existing"]


@pytest.fixture
def fakes(tmp_path):
    made = Fakes(tmp_path, ("srun", "scontrol"))
    # Where sbatch is called: a checkout.
    (tmp_path / "checkout").mkdir()
    (tmp_path / "checkout" / "launch").symlink_to(LAUNCH)
    return made


@pytest.fixture
def sbatch(fakes):
    """A function in place of sbatch; returns the last attempt at each job."""

    def submit(script, *arguments, array=None, **settings):
        # Slurm runs a copy of the file, in a folder of its own.
        copy = fakes.folder / "slurm_script"
        shutil.copy(LAUNCH / script, copy)
        own = {"SLURM_SUBMIT_DIR": str(fakes.folder / "checkout"), "SLURM_JOB_ID": "42"}
        done = []
        for number in [None] if array is None else array:
            if number is not None:
                own["SLURM_ARRAY_TASK_ID"] = str(number)
                own["SLURM_ARRAY_TASK_COUNT"] = str(len(array))
                own["SLURM_ARRAY_TASK_MIN"] = str(array[0])
                own["SLURM_ARRAY_TASK_MAX"] = str(array[-1])
            for count in range(100):
                before = fakes.steps().count("scontrol")
                restarted = {"SLURM_RESTART_COUNT": str(count)} if count else {}
                done.append(
                    subprocess.run(
                        ["bash", copy, *arguments],
                        env=fakes.environment(**own, **settings, **restarted),
                        capture_output=True,
                        text=True,
                        timeout=TIMEOUT,
                    )
                )
                requeued = fakes.steps().count("scontrol") - before
                if not requeued or done[-1].returncode == 1:
                    break
        return done

    return submit


def _options(script):
    """The options that sbatch reads from a script, before its first command."""
    text = (LAUNCH / script).read_text().split("\nset -")[0]
    options = re.findall(r"^#SBATCH (\S+)$", text, flags=re.M)
    return dict(option.partition("=")[::2] for option in options)


@pytest.mark.parametrize("code", [0, 1])
def test_a_training_that_ended(sbatch, fakes, code):
    fakes.answer(srun=f"{code} ")
    (done,) = sbatch("slurm.sbatch", AWKWARD, *FLAGS)
    assert done.returncode == code, done.stderr
    (call,) = fakes.calls()
    words = [
        "srun",
        "--kill-on-bad-exit=1",
        *TRAIN,
        AWKWARD,
        *FLAGS,
        "--coordinator=auto",
    ]
    assert call[1:] == words


def test_a_training_that_was_stopped_is_put_back(sbatch, fakes):
    fakes.answer(srun=["143 ", "143 ", "0 "])
    done = sbatch("slurm.sbatch", *FLAGS)
    assert [d.returncode for d in done] == [143, 143, 0]
    assert [c[1:] for c in fakes.calls() if c[0] == "scontrol"] == [
        ["scontrol", "requeue", "42"]
    ] * 2


def test_it_is_put_back_only_so_often(sbatch, fakes):
    fakes.answer(srun="143 ")
    done = sbatch("slurm.sbatch", *FLAGS, RESTARTS="2")
    assert [d.returncode for d in done] == [143, 143, 1]
    assert "restarted 2 times already: submit it again" in done[-1].stderr


def test_it_cannot_be_put_back(sbatch, fakes):
    fakes.answer(srun="143 ", scontrol="1 Invalid job id specified")
    (done,) = sbatch("slurm.sbatch", *FLAGS)
    assert done.returncode == 1
    assert "could not be put back into the queue: submit it" in done.stderr


def test_an_array_fuses_shares(sbatch, fakes):
    done = sbatch("slurm_fuse.sbatch", "--ir", AWKWARD, array=range(3))
    assert [d.returncode for d in done] == [0, 0, 0]
    for number, call in enumerate(fakes.calls()):
        shard = f"--shard={number}/3"
        assert call[1:] == ["srun", *FUSE, shard, "--ir", AWKWARD]


def test_an_array_with_gaps_would_leave_pairs_out(sbatch, fakes):
    (done,) = sbatch("slurm_fuse.sbatch", "--ir", "a", array=[1])
    assert done.returncode == 1 and "every number from 0 on" in done.stderr
    assert not fakes.calls()


@pytest.mark.parametrize(
    ("script", "says"),
    [("slurm.sbatch", "start it with sbatch"), ("slurm_fuse.sbatch", "--array=0-7")],
)
def test_outside_of_slurm(fakes, script, says):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
    done = subprocess.run(
        ["bash", LAUNCH / script, *FLAGS],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and says in done.stderr


def test_a_dry_run_prints_what_a_job_runs(fakes):
    done = fakes.run("slurm.sbatch", "--dry-run", AWKWARD, *FLAGS)
    words = [
        "srun",
        "--kill-on-bad-exit=1",
        *TRAIN,
        AWKWARD,
        *FLAGS,
        "--coordinator=auto",
    ]
    assert shlex.split(done.stdout) == words
    done = fakes.run("slurm_fuse.sbatch", "--dry-run", AWKWARD)
    assert shlex.split(done.stdout) == ["srun", *FUSE, "--shard=0/1", AWKWARD]
    assert not fakes.calls()


def test_a_job_is_bounded_and_told_in_time(fakes):
    for script in ("slurm.sbatch", "slurm_fuse.sbatch"):
        options = _options(script)
        assert re.fullmatch(r"\d\d:00:00", options["--time"])
        assert "--requeue" in options
    # Two minutes before its end, to save.
    assert _options("slurm.sbatch")["--signal"] == "TERM@120"
