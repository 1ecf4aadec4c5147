"""Fuses two gray pictures with an exported program; needs jax, numpy and flatbuffers.

    python fuse_stablehlo.py lite_x2.stablehlo ir.npy vis.npy fused.npy

ir.npy and vis.npy hold uint8 [H, W], and so will fused.npy, at the program's scale.
"""

import sys
from pathlib import Path

import jax
import jax.export
import numpy as np

program, ir, vis, out = sys.argv[1:]
fuse = jax.jit(jax.export.deserialize(bytearray(Path(program).read_bytes())).call)
pair = [np.load(file)[None, :, :, None] / np.float32(255) for file in (ir, vis)]
fused = np.asarray(fuse(*pair))[0, :, :, 0]
np.save(out, np.rint(255 * fused).astype(np.uint8))
