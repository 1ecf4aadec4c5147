"""Damages a run's newest checkpoint in many places, and restores it each time.

    python tests/soak/storage_faults.py --flips 400

Whatever is done to the newest of two checkpoints, a restore brings back what was saved
in it, to the last bit; or what was saved in the one before it, with a warning; or it
stops with one sentence. Anything else is an error. The suite runs the same with fewer
flips (tests/training/test_storage_faults.py).
"""

import argparse
import collections
import contextlib
import io
import itertools
import logging
import random
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.training.checkpoint import Checkpoints

NEWEST, BEFORE, STOPPED = "the newest", "the one before", "a sentence"
STEPS = (1, 2)
# A fault: its name, and a function that damages a step's folder.
Fault = tuple[str, Callable[[Path], None]]


def content(step: int) -> tuple[dict[str, Any], dict, dict]:
    """The state, position in the data and meta that stand in a step's checkpoint."""
    # Noise, so that the larger array gets a file of its own.
    noise = np.random.default_rng(step).normal(size=9000)
    state = {
        "params": {"kernel": jnp.asarray(noise, jnp.float32), "bias": jnp.full(8, 0.1)},
        "step": jnp.int32(step),
    }
    meta = {"best": 31.25 + step, "frozen": "0" * 64, "config": {"scale": 3}}
    return state, {"next_index": 12 * step, "epoch": 0}, meta


def save(workdir: Path) -> None:
    """Writes the checkpoints of `STEPS`."""
    with contextlib.closing(Checkpoints(workdir)) as checkpoints:
        for step in STEPS:
            checkpoints.save(step, *content(step))


def outcome(workdir: Path) -> str:
    """Restores, and returns which of the three allowed things happened.

    Raises:
      AssertionError: none of them.
    """
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        content(1)[0],
    )
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        try:
            with contextlib.closing(Checkpoints(workdir)) as checkpoints:
                restored = checkpoints.restore(shapes)
                step = checkpoints.latest_step()
        except UserError as error:
            assert "\n" not in str(error) and str(error).endswith("."), error
            return STOPPED
    expected = content(step)
    jax.tree.map(np.testing.assert_array_equal, restored[0], expected[0])
    assert restored[1:] == expected[1:], restored[1:]
    if step == STEPS[-1]:
        return NEWEST
    assert "and not used" in said.getvalue(), "nothing was said"
    return BEFORE


def flips(folder: Path, count: int, seed: int) -> Iterator[Fault]:
    """Faults that change a byte at a random place, of every file in turn."""
    drawn = random.Random(seed)
    for name in itertools.islice(itertools.cycle(_files(folder)), count):
        place = drawn.randrange((folder / name).stat().st_size)
        mask = drawn.randrange(1, 256)

        def flip(step: Path, name=name, place=place, mask=mask) -> None:
            changed = bytearray((step / name).read_bytes())
            changed[place] ^= mask
            (step / name).write_bytes(changed)

        yield f"byte {place} of {name} changed by {mask:#04x}", flip


def losses(folder: Path) -> Iterator[Fault]:
    """Faults that cut every file short, empty it, and remove it."""
    for name in _files(folder):
        size = (folder / name).stat().st_size
        for length in {0, 1, size // 2, size - 1}:

            def cut(step: Path, name=name, length=length) -> None:
                (step / name).write_bytes((step / name).read_bytes()[:length])

            yield f"{name} cut to {length} of {size} bytes", cut

        yield f"{name} removed", lambda step, name=name: (step / name).unlink()


def _files(folder: Path) -> list[str]:
    """The files in a folder that are not empty."""
    found = (file for file in folder.rglob("*") if file.is_file())
    return sorted(str(f.relative_to(folder)) for f in found if f.stat().st_size)


def run(folder: Path, count: int, seed: int = 0) -> collections.Counter[str]:
    """Damages a checkpoint in `folder` in every way; counts what a restore did.

    Args:
      folder: an empty folder, which is filled.
      count: number of changed bytes.
      seed: of their places.
    """
    saved, seen = folder / "saved", collections.Counter()
    save(saved)
    newest = saved / "checkpoints" / str(STEPS[-1])
    faults = itertools.chain(flips(newest, count, seed), losses(newest))
    for number, (name, damage) in enumerate(faults):
        workdir = folder / str(number)
        shutil.copytree(saved, workdir)
        damage(workdir / "checkpoints" / str(STEPS[-1]))
        try:
            seen[outcome(workdir)] += 1
        except Exception as error:
            raise AssertionError(f"{name}: {error}") from error
        shutil.rmtree(workdir)
    return seen


def main() -> None:
    """Runs the script."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--flips", type=int, default=400, help="bytes to change")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # of futures that TensorStore leaves behind
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax's, of its metadata
    with tempfile.TemporaryDirectory() as folder:
        seen = run(Path(folder), arguments.flips, arguments.seed)
    for name, number in seen.items():
        print(f"{number} times: {name}")
    print(f"{seen.total()} faults, and never anything else")


if __name__ == "__main__":
    sys.exit(main())
