"""Checks a release: builds wheel and sdist, and fuses with each where it is alone.

    make release-check

Needs the network or a package mirror, as pip does. What a machine cannot check is
printed at the end, for the person who releases.
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
BY_HAND = (
    "CHANGELOG.md: [Unreleased] has become the version, with its date",
    "pyproject.toml and CITATION.cff have the version",
    "the tests passed at both ends of the ranges, see CONTRIBUTING.md",
    "make test passed with HKDNET_DATA set, and make docs",
)


def call(*command: object, **options: object) -> None:
    """Runs a command, and ends this program with its exit code if it fails."""
    print("+", *command, flush=True)
    done = subprocess.run([str(part) for part in command], **options)
    if done.returncode:
        sys.exit(f"error: {command[0]} failed with exit code {done.returncode}.")


def check(package: Path, home: Path) -> None:
    """Installs a file into an empty environment, and fuses a pair far from here."""
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
            check(package, home)
            print(f"{package.name}: fuses at every scale.")
    print("\nLeft to do by hand:", *BY_HAND, sep="\n- [ ] ")


if __name__ == "__main__":
    main()
