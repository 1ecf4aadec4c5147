"""The host's CPU as a device, even if jax was told to use only an accelerator."""

import functools
import threading
from typing import Any

import jax
from jax.extend import backend

from hkdnet_jax.common.errors import UserError, install_command

_LOCK = threading.Lock()


def check() -> None:
    """Checks that jax finds a device, as it looks for them at its first use.

    Raises:
      UserError: JAX_PLATFORMS names a platform that this machine, or this installation
        of jax, does not have.
    """
    try:
        jax.devices()
    # An installation without CUDA asserts that it does not know such devices.
    except (RuntimeError, AssertionError) as error:
        platforms = jax.config.jax_platforms
        detail = str(error).partition("\n")[0].rstrip(".") or "no such backend"
        raise UserError(
            f"JAX_PLATFORMS={platforms} names no device that jax can use ({detail}): "
            f"unset it to use what is there, or run {install_command('gpu')} for CUDA."
        ) from error


def cpu() -> jax.Device:
    """Returns the first of the host's CPU devices, whatever the default devices are.

    `JAX_PLATFORMS=cuda` (or `tpu`) leaves jax without a CPU backend. Adding `cpu` to
    that setting would be too late once jax has looked for its devices, and would turn a
    missing accelerator from an error into a slow run on the CPU. So the setting stays
    as it is, and the CPU gets a client that jax does not count among its backends;
    programs run on it because their arguments are committed to the device.

    Returns:
      A device for `jax.device_put`; the same one in every call and thread.
    """
    with _LOCK:  # threads that score concurrently must share one client's programs
        client = backend.backends().get("cpu") or _own_client()
    return client.local_devices()[0]


@functools.cache
def _own_client() -> Any:
    # Imported only here: it is not part of jaxlib's public API, and few runs need it.
    from jaxlib import xla_client

    return xla_client.make_cpu_client()
