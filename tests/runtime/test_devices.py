"""The host's CPU, also where `JAX_PLATFORMS` names an accelerator only."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from command_fixtures import make_pair, write

from hkdnet_jax import metrics
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


def test_scores_are_computed_without_a_cpu_backend(tmp_path):
    images = np.stack([*make_pair(0), make_pair(1)[0]])
    np.save(tmp_path / "images.npy", images)
    for folder, image in zip(("ir", "vis", "fused"), images, strict=True):
        write(tmp_path / folder / "a.png", image)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        env=os.environ | {"JAX_PLATFORMS": "accelerator"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    expected = metrics.score(*images, names=("AG", "CC"))
    expected = {name: float(value) for name, value in expected.items()}
    got = [float.fromhex(value) for value in done.stdout.splitlines()[0].split()]
    # Sums of NumPy's differ in the last bit between processes of other libraries.
    assert got == pytest.approx(list(expected.values()), rel=1e-14)
    saved = json.loads((tmp_path / "scores.json").read_text())["mean"]
    assert saved == pytest.approx(expected, rel=1e-14)


def test_the_cpu_is_jaxs_own_where_there_is_one():
    assert devices.cpu() is jax.local_devices(backend="cpu")[0]
