"""Times the operations that take most of the time: attention and convolutions."""

from collections.abc import Callable, Mapping
from functools import partial
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from hkdnet_jax.measuring import flops
from hkdnet_jax.measuring.fresh import Skipped
from hkdnet_jax.measuring.measure import (
    Row,
    Settings,
    Size,
    compiled,
    exponent,
    process_row,
    size_text,
    statistics,
    timed,
)
from hkdnet_jax.models.blocks import RCAB, ChannelGate, ResidualGroup
from hkdnet_jax.models.presets import PRESETS
from hkdnet_jax.ops.conv import LAYOUT, Conv3x3
from hkdnet_jax.ops.position_attention import position_attention
from hkdnet_jax.runtime import memory
from hkdnet_jax.runtime.precision import FULL

IMPLEMENTATIONS = ("materialized", "blocked")
FORWARD, BOTH = PASSES = ("forward", "forward+backward")
Params = Mapping[str, Any]
Function = Callable[..., Any]
OURS = ("ours-scanned", "ours-unrolled")
XLA = "xla-unrolled"
_MATMUL_SIDE = 3072  # side of the square matrices of the product used for comparison


def _normal(seed: int, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    values = np.random.default_rng(seed).normal(size=shape)
    return jnp.asarray(values, dtype)


def _with_gradients(function: Function) -> Function:
    """A function (gradient of the output, *args) -> (output, gradients of all args)."""

    def both(gradient: jax.Array, *args: Any) -> Any:
        output, pull_back = jax.vjp(function, *args)
        return output, pull_back(gradient)

    return both


def measure_attention(
    settings: Settings, size: Size, implementation: str, passes: str
) -> list[Row]:
    """Times the position attention over all N = H * W positions.

    Args:
      settings: settings of the run; the preset's width is the number of channels, and
        the scale is not used.
      size: (H, W) of the features, in pixels.
      implementation: `materialized` or `blocked`.
      passes: `forward`, or `forward+backward` for both in one program.

    Returns:
      One row. `program_bytes` is the memory that the compiler plans beyond the input
      (on a CPU without the memory inside fused operations); `rss_above_baseline_bytes`
      is the peak of the process's memory during the calls, minus its memory before
      them.

    Raises:
      Skipped: the program takes more memory than is free.
    """
    shape = (settings.batch, *size, PRESETS[settings.preset].width)
    args = [_normal(seed, shape, settings.dtype) for seed in range(2)]
    args = args if passes == BOTH else args[:1]
    program, compile_seconds = compiled(_attention(implementation, passes), *args)
    # On a CPU, fused operations use memory that the compiler's plan does not list.
    affinity = 4 * settings.batch * (size[0] * size[1]) ** 2
    least = affinity if implementation == "materialized" else 0
    _check_memory(max(least, memory.program_bytes(program)))

    peaks = [memory.peak_rss()]
    memory.restart_peak()
    baseline = memory.rss()
    jax.block_until_ready(program(*args))
    seconds = [timed(partial(program, *args)) for _ in range(settings.repeats)]
    peaks.append(memory.peak_rss())

    row = {
        "size": size_text(size),
        "batch": settings.batch,
        "implementation": implementation,
        "passes": passes,
        "positions": size[0] * size[1],
        **statistics(seconds),
        "compile_seconds": compile_seconds,
        # Operations of the definition: recomputation in a block does not count.
        "gflops": _gflops(_attention("materialized", passes), args, seconds),
        "program_bytes": memory.program_bytes(program),
        "rss_above_baseline_bytes": None if baseline is None else peaks[1] - baseline,
    }
    known = None not in peaks
    return [row | process_row() | {"peak_rss_bytes": max(peaks) if known else None}]


def _attention(implementation: str, passes: str) -> Function:
    attend = partial(position_attention, implementation=implementation)
    return _with_gradients(attend) if passes == BOTH else attend


def _check_memory(needed: int) -> None:
    free = memory.free(jax.devices()[0])
    if free is not None and needed > free:
        raise Skipped(
            f"it takes at least {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are "
            "free."
        )


def _gflops(function: Function, args: Any, seconds: list[float]) -> float:
    return flops.count(function, *args) / median(seconds) / 1e9


def attention_fits(rows: list[Row]) -> list[Row]:
    """Fits exponents p of time and memory ~ N**p for each implementation and passes.

    An exponent is None if there are fewer than two sizes, or a figure is missing or 0.
    """
    fits = []
    kinds = dict.fromkeys((row["implementation"], row["passes"]) for row in rows)
    for kind in kinds:
        group = [row for row in rows if (row["implementation"], row["passes"]) == kind]
        fit = dict(zip(("implementation", "passes"), kind, strict=True))
        for key in ("seconds", "program_bytes", "rss_above_baseline_bytes"):
            positions = [row["positions"] for row in group]
            values = [row[key] for row in group]
            fit[f"{key.removesuffix('_bytes')}_exponent"] = exponent(positions, values)
        fits.append(fit)
    return fits


def measure_conv(settings: Settings, size: Size) -> list[Row]:
    """Times a residual group (RCABs and a 3x3 convolution) against XLA's convolutions.

    `ours-scanned` is the group as the networks have it, `ours-unrolled` the same blocks
    one after the other, and `xla-unrolled` the same with XLA's own convolutions and
    their gradients; `matmul` is a large matrix product.  They run in turns, so that
    other work of the machine affects all of them alike.

    Args:
      settings: settings of the run; the preset gives the width and the number of RCABs
        in a group of the super-resolution part, and the scale is not used.
      size: (H, W) of the features, in pixels.

    Returns:
      One row for `matmul`, and two rows for each of the others: the forward pass, and
      both passes in one program.  `share_of_matmul` compares the rates of operations.
      The rows of ours also have `speedup_over_xla`, relative to `xla-unrolled`, and
      `difference_to_xla`: the largest |ours - XLA's| of an array over its largest
      |XLA's|, maximised over the outputs and gradients.  The memory of the process is
      that of all programs together.
    """
    calls = _conv_calls(settings, size)
    built = {key: compiled(function, *args) for key, (function, args) in calls.items()}
    runs = {key: partial(built[key][0], *args) for key, (_, args) in calls.items()}
    outputs = {key: run() for key, run in runs.items()}
    seconds = {key: [] for key in runs}
    for _ in range(settings.repeats):
        for key, run in runs.items():
            seconds[key].append(timed(run))

    rows, process = [], process_row()
    for way, passes in runs:
        key, reference = (way, passes), (XLA, passes) if way in OURS else (way, passes)
        program, compile_seconds = built[key]
        row = {
            "size": size_text(size),
            "batch": settings.batch,
            "way": way,
            "passes": passes,
            **statistics(seconds[key]),
            "compile_seconds": compile_seconds,
            # Operations of direct convolutions, whichever algorithm computes them.
            "gflops": _gflops(*calls[reference], seconds[key]),
            "program_bytes": memory.program_bytes(program),
        }
        row["share_of_matmul"] = row["gflops"] / (rows or [row])[0]["gflops"]
        if way in OURS:
            row["speedup_over_xla"] = median(seconds[reference]) / row["seconds"]
            row["difference_to_xla"] = _difference(outputs[key], outputs[reference])
        rows.append(row | process)
    return rows


def _conv_calls(
    settings: Settings, size: Size
) -> dict[tuple[str, str], tuple[Function, tuple]]:
    """Functions and arguments by variant and passes; the matrix product comes first."""
    config, dtype = PRESETS[settings.preset], jnp.dtype(settings.dtype)
    shape = (settings.batch, *size, config.width)
    x, gradient = (_normal(seed, shape, dtype) for seed in range(2))
    group = ResidualGroup(config.sr_rcabs, config.reduction, dtype)
    shapes = jax.eval_shape(group.init, jax.random.key(0), x)["params"]
    params = jax.tree.map(lambda p: 0.03 * _normal(2, p.shape, p.dtype), shapes)
    square = _normal(3, (_MATMUL_SIDE, _MATMUL_SIDE), dtype)

    matmul = partial(jnp.matmul, precision=FULL)
    calls: dict = {("matmul", FORWARD): (matmul, (square, square))}
    for name, variant in _variants(group).items():
        calls[name, FORWARD] = (variant, (params, x))
        calls[name, BOTH] = (_with_gradients(variant), (gradient, params, x))
    return calls


def _variants(group: ResidualGroup) -> dict[str, Function]:
    """Functions (parameters, features) -> features, all of which compute the same."""
    rcab, gate = (kind(group.reduction, group.dtype) for kind in (RCAB, ChannelGate))

    def our_conv(params: Params, x: jax.Array) -> jax.Array:
        return Conv3x3(x.shape[-1], dtype=group.dtype).apply({"params": params}, x)

    def xla_rcab(params: Params, x: jax.Array) -> jax.Array:
        y = _xla_conv(params["conv1"], x)
        y = _xla_conv(params["conv2"], nn.relu(y))
        return x + gate.apply({"params": params["gate"]}, y)

    def unrolled(block: Function, conv: Function) -> Function:
        def run(params: Params, x: jax.Array) -> jax.Array:
            y = x
            for index in range(group.rcabs):
                y = block(_slice(params["rcabs"]["rcab"], index), y)
            return x + conv(params["conv"], y)

        return run

    return {
        OURS[0]: lambda params, x: group.apply({"params": params}, x),
        OURS[1]: unrolled(
            lambda params, x: rcab.apply({"params": params}, x), our_conv
        ),
        XLA: unrolled(xla_rcab, _xla_conv),
    }


def _slice(params: Params, index: int) -> Params:
    return jax.tree.map(lambda leaf: leaf[index], params)


def _xla_conv(params: Params, x: jax.Array) -> jax.Array:
    kernel, bias = (params[name].astype(x.dtype) for name in ("kernel", "bias"))
    y = lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=LAYOUT, precision=FULL
    )
    return y + bias[None, None, None, :]


def _difference(ours: Any, theirs: Any) -> float:
    """The largest of max |a - b| / max |b| over the arrays a, b of two trees."""
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    return max(_relative_error(np.float64(a), np.float64(b)) for a, b in pairs)


def _relative_error(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.max(np.abs(a - b)) / max(np.max(np.abs(b)), 1e-30))
