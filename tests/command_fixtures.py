"""Small models and pictures for the tests of commands; runs these in this process."""

import dataclasses

import jax
import numpy as np
from PIL import Image

from hkdnet_jax.model_files.model import param_shapes
from hkdnet_jax.models.presets import PRESETS

H, W = 17, 23  # odd; nearly every test uses this one size, which compiles once
TINY = dataclasses.replace(PRESETS["tiny"], width=4, reduction=2, sr_rcabs=1)
# What differs between the scales is the super-resolution part alone.
TINIEST = dataclasses.replace(TINY, dfag=False, cea=False)


def run(command, capfd, *args):
    """Exit code, stdout and the lines of stderr (without the progress bar) of main."""
    code = command.main([str(arg) for arg in args])
    out, err = capfd.readouterr()
    lines = [
        x for x in err.replace("\r", "\n").split("\n") if x.strip() and "%|" not in x
    ]
    assert "Traceback" not in err
    return code, out, lines


def fails(command, capfd, *args, says=()):
    """The one sentence, which holds `says`, of a command that must return 1."""
    code, out, errors = run(command, capfd, *args)
    assert (code, out, len(errors)) == (1, "", 1), (code, out, errors)
    assert errors[0].startswith("error: ") and errors[0].endswith(".")
    for words in says:
        assert str(words) in errors[0]
    return errors[0]


def random_params(network, seed=0):
    """Random parameters of every shape, without the seconds that compiling init takes.

    No parameter stays zero, so that every branch takes part in the output.
    """
    rng = np.random.default_rng(seed)

    def draw(leaf):
        fan_in = max(1, int(np.prod(leaf.shape[-4:-1])))
        return (rng.normal(size=leaf.shape) / fan_in**0.5).astype(np.float32)

    return jax.tree.map(draw, param_shapes(network))


def make_pair(seed=0, height=H, width=W):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    ir = 127 + 80 * np.sin(x / 3 + seed) + rng.normal(size=(height, width)) * 8
    vis = 127 + 80 * np.cos(y / 4 - seed) + rng.normal(size=(height, width)) * 8
    return ir.clip(0, 255).astype(np.uint8), vis.clip(0, 255).astype(np.uint8)


def write(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return path
