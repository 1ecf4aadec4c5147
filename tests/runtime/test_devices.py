"""The host's CPU, also where `JAX_PLATFORMS` names an accelerator only."""

import os
import subprocess
import sys

import jax
import numpy as np
from command_fixtures import make_pair

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
from hkdnet_jax import metrics
from hkdnet_jax.runtime import devices
assert list(backend.backends()) == ["accelerator"]
with jax.transfer_guard("disallow"):
    values = metrics.score(*np.load(sys.argv[1]), names=("AG", "CC"))
assert devices.cpu() not in jax.devices() and devices.cpu() is devices.cpu()
print(*(float(value).hex() for value in values.values()))
"""


def test_scores_are_computed_without_a_cpu_backend(tmp_path):
    images = np.stack([*make_pair(0), make_pair(1)[0]])
    np.save(tmp_path / "images.npy", images)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "images.npy")],
        env=os.environ | {"JAX_PLATFORMS": "accelerator"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    expected = metrics.score(*images, names=("AG", "CC"))
    got = [float.fromhex(value) for value in done.stdout.split()]
    assert got == [float(value) for value in expected.values()]


def test_the_cpu_is_jaxs_own_where_there_is_one():
    assert devices.cpu() is jax.local_devices(backend="cpu")[0]
