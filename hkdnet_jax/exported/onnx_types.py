"""ONNX programs simplified, in float16 and in int8; inputs and outputs stay float32."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data_pipelines import scenes
from hkdnet_jax.exported import program

if TYPE_CHECKING:
    import onnx

# Sums over an image, and what is made of them, would leave the range of float16.
# `Cast` makes numbers of sizes, and a picture may have more than 65504 pixels.
_FLOAT32_OPERATORS = (
    "Cast",
    "Div",
    "Einsum",
    "Exp",
    "Loop",
    "MatMul",
    "ReduceL1",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceSum",
    "Softmax",
)
CALIBRATION_SCENES = 16
_CALIBRATION_SIZE = (96, 128)  # height, width


def folded(graph: "onnx.ModelProto") -> "onnx.ModelProto":
    """Computes ahead what does not depend on the inputs, with standard operators.

    Kernels are then constants, which can be quantised.
    """
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    basic = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.graph_optimization_level = basic
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "folded.onnx")
        content, cpu = graph.SerializeToString(), ["CPUExecutionProvider"]
        onnxruntime.InferenceSession(content, options, providers=cpu)
        graph = onnx.load(options.optimized_model_filepath)
    # onnxruntime lists every set of operators that it knows.
    standard = [one for one in graph.opset_import if one.domain == ""]
    del graph.opset_import[:]
    graph.opset_import.extend(standard)
    return graph


def to_float16(graph: "onnx.ModelProto") -> "onnx.ModelProto":
    """Computes in float16, but for sums over the image and softmax."""
    from onnxruntime.transformers import float16

    kept = [*float16.DEFAULT_OP_BLOCK_LIST, *_FLOAT32_OPERATORS]
    return float16.convert_float_to_float16(
        graph, keep_io_types=True, op_block_list=kept
    )


def to_int8(graph: "onnx.ModelProto") -> "onnx.ModelProto":
    """Quantises the convolutions between features statically, by made scenes.

    Weights are int8 per output channel, activations uint8 with a range for each tensor,
    the smallest and largest value over CALIBRATION_SCENES scenes.  Convolutions from or
    to one channel stay float32, because these hold the levels of a picture.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "int8.onnx"
        quantize_static(
            graph,
            file,
            _reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=_with_pictures(graph),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return onnx.load(file)


def _with_pictures(graph: "onnx.ModelProto") -> list[str]:
    """Names of the convolutions from or to one channel, or with unknown kernels."""
    shapes = {x.name: tuple(x.dims) for x in graph.graph.initializer}
    return [
        node.name
        for node in graph.graph.node
        if node.op_type == "Conv" and 1 in shapes.get(node.input[1], (1,))[:2]
    ]


def _reader():
    """A CalibrationDataReader of the scenes."""
    from onnxruntime.quantization import CalibrationDataReader

    class Scenes(CalibrationDataReader):
        def __init__(self):
            self.batches = _calibration_batches()

        def get_next(self):
            return next(self.batches, None)

    return Scenes()


def _calibration_batches() -> Iterator[dict[str, np.ndarray]]:
    for index in range(CALIBRATION_SCENES):
        pair = scenes.render(0, index, *_CALIBRATION_SIZE)
        yield {
            name: (image / np.float32(255))[None, :, :, None]
            for name, image in zip(program.INPUTS, pair, strict=True)
        }
