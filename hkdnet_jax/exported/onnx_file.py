"""Programs as ONNX, which onnxruntime runs anywhere, from C++ to a browser."""

import contextlib
import logging
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import jax.numpy as jnp

from hkdnet_jax.common.errors import UserError, needs_extra
from hkdnet_jax.exported import onnx_types, program
from hkdnet_jax.model_files.model import Model

if TYPE_CHECKING:
    import onnx
    import onnxruntime

SUFFIX = ".onnx"
# The first opset with the operators that are used; onnxruntime has it since 1.14.
OPSET = 18
DTYPES = ("float32", "float16", "int8")
_FORMAT = "hkdnet-jax-onnx-1"


def convert(model: Model, dtype: str, about: Mapping[str, str]) -> bytes:
    """Returns a model's program as an ONNX file without external data.

    Args:
      model: the model.
      dtype: one of DTYPES: the arithmetic, see `onnx_types`.  Inputs and output are
        float32 in any case.
      about: metadata for people and other programs.

    Raises:
      UserError: a package of the extra is missing, or the converter lacks an operation
        of the network.
    """
    return finish(to_graph(model), dtype, {**about, "scale": str(model.scale)})


def to_graph(model: Model) -> "onnx.ModelProto":
    """Converts a model to ONNX in float32.

    Raises:
      UserError: see `convert`.
    """
    with needs_extra("ONNX", "onnx"), _functions_kept():
        import jax2onnx
        import onnx
        import onnxruntime  # noqa: F401  for onnx_types
    try:
        with _quietly(), _functions_kept():
            graph = jax2onnx.to_onnx(
                program.function(model),
                [program.images()] * len(program.INPUTS),
                model_name=f"hkdnet_x{model.scale}",
                opset=OPSET,
                input_names=program.INPUTS,
                output_names=[program.OUTPUT],
            )
        graph = onnx_types.folded(graph)
        onnx.checker.check_model(graph, full_check=True)
    except Exception as error:
        # The converter fails in many ways on what it lacks.
        reason = re.split(r"\.\s|\.$|\n", str(error).strip())[0]
        raise UserError(
            f"This network cannot be converted to ONNX ({type(error).__name__}: "
            f"{reason}): export it with --format stablehlo."
        ) from error
    return graph


def finish(graph: "onnx.ModelProto", dtype: str, about: Mapping[str, str]) -> bytes:
    """Gives a graph of `to_graph` its arithmetic and its metadata; see `convert`."""
    with needs_extra("ONNX", "onnx"):
        import onnx
        import onnxruntime  # noqa: F401  for onnx_types
    retyped = {"float16": onnx_types.to_float16, "int8": onnx_types.to_int8}
    if dtype in retyped:
        with _quietly():
            graph = retyped[dtype](graph)
    del graph.metadata_props[:]  # paths of the libraries' own files, and so on
    onnx.helper.set_model_props(graph, {**about, "format": _FORMAT, "dtype": dtype})
    return graph.SerializeToString()


def read(file: Path) -> tuple["onnxruntime.InferenceSession", dict[str, str]]:
    """Opens a program that `convert` made on the CPU; also returns its metadata.

    Raises:
      UserError: see `open_session`, or the file holds another program.
    """
    session = open_session(file)
    metadata = dict(session.get_modelmeta().custom_metadata_map)
    if metadata.get("format") != _FORMAT:
        raise UserError(
            f"{file} is the ONNX file of another program: give one that hkdnet export "
            "wrote."
        )
    return session, metadata


def open_session(file: Path) -> "onnxruntime.InferenceSession":
    """Opens any ONNX file on the CPU, with a thread for each core of this process.

    Raises:
      UserError: the file is damaged or not ONNX, or onnxruntime is not installed.
    """
    with needs_extra("ONNX", "onnx"):
        import onnxruntime
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # an error is an exception anyway
    if hasattr(os, "sched_getaffinity"):
        # It would start threads for the cores, too, that this process may not use.
        options.intra_op_num_threads = len(os.sched_getaffinity(0))
    try:
        return onnxruntime.InferenceSession(
            file.read_bytes(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        # onnxruntime has an exception for each of its codes, of no public base.
        raise UserError(
            f"{file} is damaged, not ONNX, or needs a newer onnxruntime "
            f"({type(error).__name__}): export the model again."
        ) from error


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Drops the libraries' warnings about what they leave out or would do better."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def _functions_kept() -> Iterator[None]:
    """Puts back the functions of `jax.numpy` that jax2onnx replaces for good.

    Its own `cumsum` takes fewer arguments, and would stay in the user's process.
    """
    before = dict(vars(jnp))
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(jnp, name, value)
