"""The host's CPU, also where `JAX_PLATFORMS` names an accelerator only."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
from command_fixtures import make_pair, write

from hkdnet_jax.runtime import devices

# To jax a second client under another name is a platform of its own, and so this is a
# machine whose accelerator is all that jax may use.  The transfer guard is that of the
# training loop, whose validation scores pictures too.
PROGRAM = """
import sys
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import backend
from jaxlib import xla_client
backend.register_backend_factory("accelerator", xla_client.make_cpu_client)
assert jnp.ones(3).sum() == 3  # by now jax has looked for its devices
from hkdnet_jax import evaluate, metrics
from hkdnet_jax.runtime import devices
assert list(backend.backends()) == ["accelerator"]
images = np.load("images.npy")
with jax.transfer_guard("disallow"):
    values = metrics.score(*images, names=("AG", "CC"))
assert devices.cpu() not in jax.devices() and devices.cpu() is devices.cpu()
print(*(float(value).hex() for value in values.values()), flush=True)
args = "--ir ir --vis vis --fused fused --metrics AG,CC --out scores.json"
sys.exit(evaluate.main(args.split()))
"""


# The same scores with jax's own CPU, in a fresh process too: the last bit of a sum may
# depend on what a process has loaded.
PLAIN = """
import numpy as np
from hkdnet_jax import metrics
values = metrics.score(*np.load("images.npy"), names=("AG", "CC"))
print(*(float(value).hex() for value in values.values()))
"""


def _run(program, folder, platform):
    """The numbers in the first line that a program prints."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env=os.environ | {"JAX_PLATFORMS": platform},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return [float.fromhex(value) for value in done.stdout.splitlines()[0].split()]


def test_scores_are_computed_without_a_cpu_backend(tmp_path):
    images = np.stack([*make_pair(0), make_pair(1)[0]])
    np.save(tmp_path / "images.npy", images)
    for folder, image in zip(("ir", "vis", "fused"), images, strict=True):
        write(tmp_path / folder / "a.png", image)
    expected = _run(PLAIN, tmp_path, "cpu")
    assert _run(PROGRAM, tmp_path, "accelerator") == expected
    mean = json.loads((tmp_path / "scores.json").read_text())["mean"]
    assert mean == dict(zip(("AG", "CC"), expected, strict=True))


def test_the_cpu_is_jaxs_own_where_there_is_one():
    assert devices.cpu() is jax.local_devices(backend="cpu")[0]
