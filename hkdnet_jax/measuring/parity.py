"""Compares what this machine's devices compute with what its CPU computes.

On a machine without an accelerator both are the same, and every difference is 0.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from hkdnet_jax.common import arrays
from hkdnet_jax.common.errors import needs_extra
from hkdnet_jax.losses import quality
from hkdnet_jax.measuring.measure import Row, Settings
from hkdnet_jax.measuring.networks import random_params
from hkdnet_jax.model_files.model import param_shapes
from hkdnet_jax.models import attention
from hkdnet_jax.models.presets import PRESETS
from hkdnet_jax.models.student import Student
from hkdnet_jax.models.teacher import Teacher
from hkdnet_jax.ops import conv, harris, position_attention
from hkdnet_jax.runtime.precision import FULL

_SIDE = 32  # of the low-resolution images, in pixels
# Largest relative error of float32 sums in another order.
_ROUNDING = 1e-4
# Adam divides by the root of a gradient's mean square, which magnifies rounding.
_AFTER_ADAM = 1e-2
# bfloat16 keeps 8 bits; a network's error is that of its longest sum.
_BFLOAT16 = 5e-2


@dataclasses.dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
      name: what is computed.
      function: the computation, jitted on either side.
      arguments: its arguments, host arrays.
      tolerance: largest allowed difference, see `difference`.
      reference: the computation on the CPU, if it is another one.
    """

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    tolerance: float = _ROUNDING
    reference: Callable[..., Any] | None = None


def difference(a: Any, b: Any) -> float:
    """The largest |a - b| of an array over its largest |b|, maximised over two trees.

    It is infinite where one of them is not finite.
    """
    worst = 0.0
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            return float("inf")
        scale = max(float(np.max(np.abs(y))), 1e-30)
        worst = max(worst, float(np.max(np.abs(x - y))) / scale)
    return worst


def measure_parity(presets: Sequence[str], dtypes: Sequence[str]) -> Iterator[Row]:
    """Compares each operation, the networks and the train steps.

    Args:
      presets: students to compare; the train steps are those of the first.
      dtypes: types of the students' arithmetic.

    Yields:
      For each case `case`, `difference`, `tolerance` and `ok`; where a computation
      cannot run at all, `difference` is None and `error` says why.
    """
    cpu, device = jax.devices("cpu")[0], jax.devices()[0]
    for case in _cases(presets, dtypes):
        row: Row = {"case": case.name, "tolerance": case.tolerance}
        try:
            got = _on(device, case.function, case.arguments)
            want = _on(cpu, case.reference or case.function, case.arguments)
        # A kernel that the platform lacks, or that its compiler refuses.
        except Exception as error:
            reason = str(error).strip().splitlines()[0] if str(error) else repr(error)
            yield row | {"difference": None, "ok": False, "error": reason}
            continue
        found = difference(got, want)
        yield row | {"difference": found, "ok": found <= case.tolerance}


def _on(device: jax.Device, function: Callable[..., Any], arguments: Any) -> Any:
    with jax.default_device(device):
        return jax.device_get(jax.jit(function)(*jax.device_put(arguments, device)))


def _normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def _images(seed: int, batch: int, side: int) -> np.ndarray:
    """Smooth images with some noise, float32 [batch, side, side, 1] in [0, 1]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    a, b = rng.uniform(2, 9, (2, batch, 1, 1))
    waves = 0.5 + 0.4 * np.sin(a * x) * np.cos(b * y)
    noise = rng.normal(0, 0.02, (batch, side, side))
    return np.clip(waves + noise, 0, 1).astype(np.float32)[..., None]


def _with_gradients(function: Callable[..., jax.Array]) -> Callable[..., Any]:
    def both(*args: jax.Array) -> Any:
        output, pull_back = jax.vjp(function, *args)
        return output, pull_back(jnp.cos(output))

    return both


def _cases(presets: Sequence[str], dtypes: Sequence[str]) -> Iterator[Case]:
    yield from _operations()
    yield from _networks({"teacher": Teacher(0.3, 1.0)}, "float32")
    for dtype in dtypes:
        students = {
            f"student {preset}": Student(PRESETS[preset], 2, jnp.dtype(dtype))
            for preset in presets
        }
        yield from _networks(students, dtype)
    with needs_extra("Comparing train steps", "train"):
        from hkdnet_jax.measuring import train_step
    for dtype in dtypes:
        tolerance = _AFTER_ADAM if dtype == "float32" else 2 * _BFLOAT16
        for phase in (1, 2):
            settings = Settings(presets[0], scale=2, batch=2, repeats=1, dtype=dtype)
            step, arguments = train_step.example(settings, (_SIDE, _SIDE), phase)
            name = f"train step of phase {phase}, {dtype}"
            yield Case(name, step, arguments, tolerance)


def _operations() -> Iterator[Case]:
    square = _normal(0, 512, 512)
    product = functools.partial(jnp.matmul, precision=FULL)
    yield Case("matrix product", product, (square, square))
    x, kernel = _normal(1, 2, _SIDE, _SIDE, 32), _normal(2, 3, 3, 32, 32)
    yield Case(
        "3x3 convolution, both passes", _with_gradients(conv.conv3x3), (x, kernel)
    )
    reflect = _with_gradients(conv.conv3x3_reflect)
    yield Case("3x3 convolution with reflection", reflect, (x, kernel))
    image, large = _images(3, 2, _SIDE), _images(4, 2, 2 * _SIDE)
    # Eq. 8 compares with a threshold, where rounding may decide.
    yield Case("Harris response", harris.harris_response, (image,))
    yield Case("reduction", functools.partial(arrays.degrade, scale=2), (large,))
    enlarge = functools.partial(arrays.resize_bicubic, scale=2)
    yield Case("bicubic enlargement", enlarge, (image,))
    yield Case("SSIM and its gradient", jax.value_and_grad(_ssim), (image, image**2))
    channel = functools.partial(attention.channel_attention, softmax="row")
    yield Case("channel attention, both passes", _with_gradients(channel), (x,))
    yield from _attentions(x)


def _ssim(a: jax.Array, b: jax.Array) -> jax.Array:
    return quality.ssim(a, b).mean()


def _attentions(x: np.ndarray) -> Iterator[Case]:
    def attend(kind: str, dtype: str = "float32") -> Callable[..., Any]:
        def apply(features: jax.Array) -> jax.Array:
            out = position_attention.position_attention(
                features.astype(dtype), "row", kind
            )
            return out.astype(jnp.float32)

        return _with_gradients(apply)

    x = 0.1 * x
    reference = attend("materialized")
    name = "position attention, {}, both passes"
    yield Case(name.format("blocked"), attend("blocked"), (x,), reference=reference)
    if position_attention.has_kernel("cudnn"):
        kernel = attend("cudnn", "bfloat16")
        yield Case(name.format("cudnn"), kernel, (x,), _BFLOAT16, reference)
    if position_attention.has_kernel("flash"):
        yield Case(name.format("flash"), attend("flash"), (x,), _BFLOAT16, reference)


def _networks(networks: Mapping[str, nn.Module], dtype: str) -> Iterator[Case]:
    ir, vis = _images(5, 2, _SIDE), _images(6, 2, _SIDE)
    tolerance = _ROUNDING if dtype == "float32" else _BFLOAT16
    for name, network in networks.items():

        def forward(params: Any, ir: jax.Array, vis: jax.Array, network=network):
            return network.apply({"params": params}, ir, vis)[0]

        arguments = random_params(param_shapes(network)), ir, vis
        yield Case(f"{name}, {dtype}", forward, arguments, tolerance)
