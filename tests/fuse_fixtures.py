"""Models with random weights, what their networks make, and pairs for them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from command_fixtures import TINIEST, TINY, make_pair, random_params, write

from hkdnet_jax.model_files import file_format
from hkdnet_jax.models.student import Student
from hkdnet_jax.models.teacher import Teacher


def network_of(scale):
    if scale == 1:
        return Teacher(alpha=0.5)
    return Student(TINY if scale == 2 else TINIEST, scale)


def config_of(scale):
    if scale == 1:
        return {"kind": "teacher", "alpha": 0.5, "damping": 0.0}
    fields = dataclasses.asdict(network_of(scale).config)
    return {"kind": "student", "scale": scale, "model": fields}


def save_models(root):
    """Scale -> directory of a model with random weights."""
    directories = {scale: root / f"x{scale}" for scale in (1, 2, 3, 4)}
    for scale, directory in directories.items():
        params = random_params(network_of(scale), seed=scale)
        file_format.save_model(directory, config_of(scale), params)
    return directories


def pair_flags(root):
    """Writes one pair of files; returns the arguments --ir --vis that name it."""
    ir, vis = make_pair()
    ir = write(root / "in" / "cam_ir.png", ir)
    vis = write(root / "in" / "cam_vis.png", vis)
    return ["--ir", str(ir), "--vis", str(vis)]


def folder_flags(root):
    """Writes folders of the pairs a, b and c; returns the arguments --ir --vis."""
    for seed, stem in enumerate("abc"):
        ir, vis = make_pair(seed)
        write(root / "ir" / f"{stem}.png", ir)
        write(root / "vis" / f"{stem}.png", vis)
    return ["--ir", str(root / "ir"), "--vis", str(root / "vis")]


def raw_output(directory, scale, ir, vis):
    """The network applied to float [H, W] images in [0, 1], without hkdnet_jax.fuse."""
    _, params = file_format.load_model(directory)
    ir, vis = (jnp.asarray(x, jnp.float32)[None, :, :, None] for x in (ir, vis))
    return jitted_apply(scale)(params, ir, vis)[0, :, :, 0]


@functools.cache
def jitted_apply(scale):
    return jax.jit(lambda p, a, b: network_of(scale).apply({"params": p}, a, b)[0])
