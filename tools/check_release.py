"""Checks a release: builds it, fuses with it where it is alone, audits what it brings.

    make release-check

Builds wheel and sdist, fuses a pair with each in an empty environment, writes a list of
all packages that the wheel brings (a CycloneDX SBOM, dist/*.cdx.json), and looks up
known vulnerabilities of everything in the lock.  Needs the network or a package mirror,
as pip does.  What a machine cannot check is printed at the end, for the person who
releases.
"""

import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements-lock.txt"
BIN = Path(sys.executable).parent
BY_HAND = (
    "CHANGELOG.md: [Unreleased] has become the version, with its date",
    "pyproject.toml and CITATION.cff have the version",
    "the tests passed at both ends of the ranges, see CONTRIBUTING.md",
    "make test passed with HKDNET_DATA set, and make docs",
)
NOT_AUDITED = (
    "known vulnerabilities: pip-audit found some, or could not reach its service (see "
    "above); SECURITY.md explains every finding that stays"
)


def run(*command: object, **options: object) -> int:
    """Runs a command, and returns its exit code."""
    print("+", *command, flush=True)
    # S603: every command is written here, and there is no shell.
    done = subprocess.run([str(part) for part in command], **options)  # noqa: S603
    return done.returncode


def call(*command: object, **options: object) -> None:
    """Runs a command, and ends this program with its exit code if it fails."""
    if code := run(*command, **options):
        sys.exit(f"error: {command[0]} failed with exit code {code}.")


def check(package: Path, home: Path) -> Path:
    """Installs a file into an empty environment, and fuses a pair far from here.

    Returns:
      The environment's Python.
    """
    venv.create(home / "env", with_pip=True)
    binaries = home / "env/bin"
    call(binaries / "python", "-m", "pip", "install", "--quiet", package)
    rng = np.random.default_rng(0)
    for name in ("ir", "vis"):
        pixels = rng.integers(0, 256, (33, 47), np.uint8)
        Image.fromarray(pixels).save(home / f"{name}.png")
    files = ["--ir", home / "ir.png", "--vis", home / "vis.png"]
    call(binaries / "hkdnet", "--version")
    for scale in (1, 2, 3, 4):
        out = home / f"x{scale}.png"
        call(
            *(binaries / "hkdnet", "fuse", *files, "--out", out, "--scale", scale),
            cwd=home,
        )
        with Image.open(out) as image:
            if image.size != (47 * scale, 33 * scale):
                sys.exit(f"error: {out} is {image.size[0]}x{image.size[1]}.")
    return binaries / "python"


def write_sbom(python: Path, out: Path) -> None:
    """Writes the packages of an environment, with their licences, as CycloneDX."""
    out.parent.mkdir(exist_ok=True)
    about = ["--pyproject", ROOT / "pyproject.toml", "--output-file", out]
    call(BIN / "cyclonedx-py", "environment", python, *about)
    print(f"Wrote {out}.")


def audit() -> bool:
    """Looks up known vulnerabilities of every version in the lock; True if none."""
    flags = ["--disable-pip", "--require-hashes", "--strict", "--progress-spinner=off"]
    return run(BIN / "pip-audit", "--requirement", LOCK, *flags) == 0


def main() -> None:
    """Builds, checks, and prints what is left."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for file in ("CITATION.cff", "CHANGELOG.md"):
        if version not in (ROOT / file).read_text():
            print(f"note: {file} does not name {version}.")
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder) / "dist"
        call(sys.executable, "-m", "build", "--outdir", built, ROOT)
        for package in sorted(built.iterdir()):
            home = Path(folder) / package.name.replace(".", "_")
            home.mkdir()
            python = check(package, home)
            print(f"{package.name}: fuses at every scale.")
        write_sbom(python, ROOT / "dist" / f"hkdnet-jax-{version}.cdx.json")
    left = BY_HAND if audit() else (*BY_HAND, NOT_AUDITED)
    print("\nLeft to do by hand:", *left, sep="\n- [ ] ")


if __name__ == "__main__":
    main()
