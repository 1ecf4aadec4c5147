"""The released network's tensors, filled by rule, and what PyTorch makes of them."""

import gzip
import json
import zlib
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parent / "golden" / "released"
# Of the rows and columns of an array, the golden files hold every n-th. A flipped
# pixel of the corner map reaches 5x5 pixels of encoder_v, so none can hide.
STRIDES = {
    "encoder_i": 4,
    "encoder_v": 4,
    "fused": 4,
    "decoder": 2,
    "image2": 1,
    "image3": 2,
    "image4": 3,
    "tail2": 8,
    "tail3": 8,
    "tail4": 8,
}


def shapes(part: str) -> dict[str, list[int]]:
    """Name -> shape of the tensors of `fusion`, `sr_x2`, `sr_x3` or `sr_x4`."""
    packed = (GOLDEN / "state_dict_shapes.json.gz").read_bytes()
    return json.loads(gzip.decompress(packed))[part]


def _fill(prefix: str, name: str, shape: list[int]) -> np.ndarray:
    seed = zlib.crc32((prefix + name).encode())
    z = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    match name.rpartition(".")[2]:
        case "num_batches_tracked":
            return np.zeros((), np.int64)
        case "running_var":
            return np.abs(z) + np.float32(0.5)
        case "gamma":
            return np.full(shape, 0.5, np.float32)
        case "weight" if len(shape) == 4:
            return z / np.float32(np.sqrt(np.prod(shape[1:])))
        case "weight":
            return 1 + np.float32(0.1) * z
    return np.float32(0.05) * z


def fusion_tensors() -> dict[str, np.ndarray]:
    """The state dict of the fusion part."""
    return {name: _fill("fu.", name, s) for name, s in shapes("fusion").items()}


def sr_tensors(scale: int) -> dict[str, np.ndarray]:
    """The state dict of the super-resolution part."""
    return {name: _fill("sr.", name, s) for name, s in shapes(f"sr_x{scale}").items()}


def tensors(scale: int) -> dict[str, np.ndarray]:
    """All tensors of a checkpoint by name."""
    return fusion_tensors() | sr_tensors(scale)


def golden(name: str) -> dict[str, np.ndarray]:
    """The arrays of `vectors` or `intact`."""
    with np.load(GOLDEN / f"{name}.npz") as opened:
        return dict(opened.items())


def thin(name: str, array) -> np.ndarray:
    """What the golden files hold of an NHWC array."""
    stride = STRIDES[name]
    return np.asarray(array)[:, ::stride, ::stride]
