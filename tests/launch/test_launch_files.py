"""All files of launch/: linted, documented, with help; the images' recipe."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fake_tools import LAUNCH

ROOT = LAUNCH.parent
SCRIPTS = sorted(
    f
    for f in LAUNCH.rglob("*")
    if f.is_file() and f.read_bytes().startswith(b"#!/usr/bin/env bash")
)
STARTED = [f for f in SCRIPTS if f.name not in ("common.sh", "borrow.sh")]
DOCKER = LAUNCH / "docker"


def _tool(name):
    """A program of a package of requirements-dev.txt."""
    here = Path(sys.executable).parent / name
    return str(here) if here.exists() else shutil.which(name)


def test_the_scripts_were_found():
    assert {"tpu.sh", "slurm.sbatch", "run.sh", "common.sh", "borrow.sh"} <= {
        f.name for f in SCRIPTS
    }


def test_shellcheck_finds_nothing():
    done = subprocess.run(
        # `make lint` has it follow the values of variables too, which takes longer.
        [_tool("shellcheck"), "-x", "--extended-analysis=false", *SCRIPTS],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_hadolint_finds_nothing():
    done = subprocess.run(
        [_tool("hadolint"), "--no-color", DOCKER / "Dockerfile"],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("script", STARTED, ids=lambda f: f.name)
def test_a_script_explains_itself(script):
    done = subprocess.run(["bash", script, "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr
    assert script.name in done.stdout and "#SBATCH" not in done.stdout
    text = script.read_text()
    # Each setting that it reads from the environment is explained.
    read = set(re.findall(r"\$\{([A-Z][A-Z_]*):[-?]", text))
    unexplained = {n for n in read if not re.search(rf"\b{n}\b", done.stdout)}
    assert {n for n in unexplained if not n.startswith("SLURM_")} <= {"TMPDIR"}


@pytest.mark.parametrize("page", ["launch/README.md", "docs/launch.md"])
def test_every_script_is_in_the_documentation(page):
    text = (ROOT / page).read_text()
    for script in STARTED:
        assert str(script.relative_to(ROOT)) in text, script


# The Dockerfile.  It is never built here: there is no registry to take Python from.


def _instructions():
    """The instructions of each stage, by its name."""
    text = (DOCKER / "Dockerfile").read_text()
    lines = re.sub(r"\\\n", "", re.sub(r"^#.*\n", "", text, flags=re.M)).splitlines()
    stages = {}
    for line in filter(None, lines):
        word, rest = line.split(maxsplit=1)
        if word == "FROM":
            base, name = re.fullmatch(r"(\S+) AS (\w+)", rest).groups()
            stages[name] = [(word, base)]
        elif word != "ARG":
            stages[name].append((word, rest))
    return stages


@pytest.mark.parametrize(
    ("target", "lock"),
    [("cpu", None), ("cuda", "requirements-gpu.txt"), ("tpu", "requirements-tpu.txt")],
)
def test_an_image_runs_hkdnet_as_nobody_special(target, lock):
    stage = _instructions()[target]
    assert stage[0] == ("FROM", "packages")
    assert ("USER", "1000") in stage and ("ENTRYPOINT", '["hkdnet"]') in stage
    assert ("COPY", "configs configs") in stage, "a training reads them"
    installs = " ".join(rest for word, rest in stage if word == "RUN")
    assert "--no-deps /wheel/*.whl" in installs
    locks = re.findall(r"requirements-\w+\.txt", installs)
    assert locks == ([lock] if lock else [])
    assert not lock or ("COPY", f"{lock} ./") in stage
    base = _instructions()["packages"]
    files = "requirements.txt requirements-gcs.txt"
    assert ("COPY", f"{files} ./") in base
    (run,) = (rest for word, rest in base if word == "RUN" and "pip install" in rest)
    assert re.findall(r"requirements\S*\.txt", run) == files.split(), "for gs://"


def test_what_an_image_copies_is_sent_to_the_build():
    kept = [
        line.removeprefix("!")
        for line in (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
        if line.startswith("!")
    ]
    copied = [
        source
        for stage in _instructions().values()
        for word, rest in stage
        if word == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    ]
    assert set(copied) == set(kept)
    for source in copied:
        assert (ROOT / source).exists(), source
    assert {"README.md", "LICENSE"} <= set(kept), "the wheel needs them"
