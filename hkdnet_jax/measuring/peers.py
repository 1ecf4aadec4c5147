"""Times other programs that fuse and enlarge a pair, beside a student of ours."""

import dataclasses
import importlib.util
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hkdnet_jax.common.errors import UserError, needs_extra
from hkdnet_jax.exported import onnx_file
from hkdnet_jax.measuring.exported import made_pair
from hkdnet_jax.measuring.measure import (
    Row,
    Settings,
    Size,
    in_turns,
    size_text,
    timed,
)
from hkdnet_jax.measuring.networks import random_model
from hkdnet_jax.model_files import call

_TORCH = (".pt", ".pth", ".ts")
_KINDS = f"an .onnx file, a TorchScript file ({', '.join(_TORCH)}), or FILE.py:NAME"
_CHANNEL_AXES = {"NCHW": 1, "NHWC": 3}
_MOST_REASON = 300  # characters of another program's error that are told
Run = Callable[[np.ndarray, np.ndarray], Any]


@dataclasses.dataclass(frozen=True)
class Peer:
    """A program that is ready to run.

    Attributes:
      name: what the table calls it.
      kind: `ours`, `onnx`, `torchscript` or `python`.
      run: maps two float32 [N, H, W, 1] arrays in [0, 1] to the fused pictures, in any
        layout of one channel, and returns when they are in host memory.  It raises a
        UserError if a program of others fails.
    """

    name: str
    kind: str
    run: Run


def measure_peers(specs: Sequence[str], settings: Settings, size: Size) -> list[Row]:
    """Times a student of ours with random weights, and other programs, in turns.

    All of them get the same float32 arrays in host memory, in the same process, and may
    use the same cores.

    Args:
      specs: see `open_peer`.
      settings: settings of the run.
      size: (height, width) of the inputs, in pixels.

    Returns:
      A row for each program, ours first: `measure.in_turns` and what the row is about.

    Raises:
      UserError: a program cannot be used, fails, or returns something else than
        pictures.
    """
    peers = [_ours(settings), *(open_peer(spec) for spec in specs)]
    pair = [np.repeat(image, settings.batch, axis=0) for image in made_pair(size)]
    first = [timed(partial(_checked, peer, pair, settings)) for peer in peers]
    about = {"size": size_text(size), "batch": settings.batch, "threads": cores()}
    runs = [partial(peer.run, *pair) for peer in peers]
    for run in runs:
        run()  # TorchScript optimises a program in its second call
    return [
        about | {"kind": peer.kind, "file": peer.name} | row
        for peer, row in zip(
            peers, in_turns(runs, first, settings.repeats), strict=True
        )
    ]


def cores() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def open_peer(spec: str) -> Peer:
    """Opens a program that takes an infrared and a visible image, in this order.

    Args:
      spec: path of an ONNX file whose two inputs are [N, 1, H, W] or [N, H, W, 1]; path
        of a TorchScript file that takes [N, 1, H, W] tensors; or FILE.py:NAME, a
        function that takes NumPy arrays [N, H, W, 1] and returns an array.  All are
        float32 in [0, 1].

    Raises:
      UserError: it is missing, damaged or of another kind, or what runs it is not
        installed.
    """
    kind, name, run = _opened(spec)
    return Peer(name, kind, _guarded(name, run))


def _opened(spec: str) -> tuple[str, str, Run]:
    """The kind of a program, its name in the table, and itself."""
    file, _, name = spec.rpartition(":")
    if file.endswith(".py") and name:
        return "python", spec, _function(Path(file), name)
    path = Path(spec)
    if path.suffix not in (onnx_file.SUFFIX, *_TORCH):
        raise UserError(f"{spec} is no program that can be timed: give {_KINDS}.")
    if not path.is_file():
        raise UserError(f"{spec} does not exist: give {_KINDS}.")
    if path.suffix == onnx_file.SUFFIX:
        return "onnx", path.name, _onnx(path)
    return "torchscript", path.name, _torchscript(path)


def _guarded(name: str, run: Run) -> Run:
    """A program that waits for its pictures, and raises UserError if it fails."""

    def guarded(*pair: np.ndarray) -> np.ndarray:
        try:
            return np.asarray(run(*pair))
        except Exception as error:
            # A program of others may fail in any way.
            raise UserError(
                f"{name} failed ({_reason(error)}): correct it, or give a --size and a "
                "--batch that it takes."
            ) from error

    return guarded


def _reason(error: Exception) -> str:
    """The kind of an error and the end of its message, in one line."""
    message = " ".join(str(error).split())[-_MOST_REASON:]
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def _ours(settings: Settings) -> Peer:
    model = random_model(settings)

    @jax.jit
    def fuse(ir: jax.Array, vis: jax.Array) -> jax.Array:
        return call.forward(model.network, model.params, ir, vis)

    name = f"{settings.preset} x{settings.scale}"
    return Peer(name, "ours", lambda *pair: np.asarray(fuse(*pair)))


def _function(file: Path, name: str) -> Run:
    if not file.is_file():
        raise UserError(f"{file} does not exist: give {_KINDS}.")
    spec = importlib.util.spec_from_file_location(f"peer_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(
            f"{file} cannot be loaded ({_reason(error)}): correct it."
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        raise UserError(f"{file} has no function {name}: give FILE.py:NAME.")
    return function


def _onnx(file: Path) -> Run:
    session = onnx_file.open_session(file)
    inputs = session.get_inputs()
    if len(inputs) != 2:
        raise UserError(
            f"{file} takes {len(inputs)} inputs: give a program of two, the infrared "
            "and the visible image."
        )
    layouts = [_layout(file, one.shape) for one in inputs]

    def run(*pair: np.ndarray) -> np.ndarray:
        named = {
            one.name: image.transpose(0, 3, 1, 2) if layout == "NCHW" else image
            for one, layout, image in zip(inputs, layouts, pair, strict=True)
        }
        return session.run(None, named)[0]

    return run


def _layout(file: Path, shape: Sequence[Any]) -> str:
    for layout, axis in _CHANNEL_AXES.items():
        if len(shape) == 4 and shape[axis] == 1:
            return layout
    raise UserError(
        f"{file} takes an array {list(shape)}: give a program of [N, 1, H, W] or "
        "[N, H, W, 1], with the 1 stated."
    )


def _torchscript(file: Path) -> Run:
    with needs_extra("A TorchScript file", "torch"):
        import torch
    torch.set_num_threads(cores())
    try:
        module = torch.jit.load(str(file), map_location="cpu").eval()
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"{file} is no TorchScript file ({reason}): write one by torch.jit.save."
        ) from error

    def run(*pair: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            images = [torch.from_numpy(x.transpose(0, 3, 1, 2)) for x in pair]
            return module(*images).numpy()

    return run


def _checked(peer: Peer, pair: Sequence[np.ndarray], settings: Settings) -> None:
    """Runs a program once; raises UserError unless pictures of one scale come out."""
    number, height, width, _ = pair[0].shape
    found = np.shape(peer.run(*pair))
    wanted = number * height * width * settings.scale**2
    if int(np.prod(found)) != wanted:
        raise UserError(
            f"{peer.name} returned an array {list(found)} for {number} of "
            f"{height}x{width}, not pictures of {settings.scale} times that side: give "
            "its --scale."
        )
