"""Whole networks on images that fill only part of their arrays."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpy_reference as ref
import pytest

from hkdnet_jax.model_files.model import param_shapes
from hkdnet_jax.models.attention import channel_attention, dual_frequency_weights
from hkdnet_jax.models.presets import PRESETS
from hkdnet_jax.models.student import Student
from hkdnet_jax.models.teacher import Teacher
from hkdnet_jax.ops.extent import Extent, stack

TINY = PRESETS["tiny"]
SHAPE = (20, 24)
SIZES = ((20, 24), (9, 13), (17, 8))


def random_params(network):
    return ref.random_params(param_shapes(network), 7)


@functools.cache
def pairs():
    """Infrared and visible images of SIZES, [h, w, 1] in [0, 1]."""
    rng = np.random.default_rng(0)
    return [
        [rng.random((*size, 1)).astype(np.float32) for size in SIZES] for _ in range(2)
    ]


def together(network, params):
    """What a network makes of all pairs in one padded batch."""
    extent = Extent.of(pairs()[0])
    arrays = (stack(images, SHAPE) for images in pairs())
    forward = jax.jit(network.apply)
    return np.asarray(forward({"params": params}, *arrays, extent)[0])


def assert_each(got, want, scale, rtol):
    for array, (h, w), alone in zip(got, SIZES, want, strict=True):
        image = array[: scale * h, : scale * w]
        assert image.shape == alone.shape
        assert np.abs(image - alone).max() < rtol * np.abs(alone).max()


# The random weights make pictures of about 5 times the range of a trained network's.
@pytest.mark.parametrize(
    ("network", "scale"),
    [
        (Teacher(0.5, damping=0.02), 1),
        (Teacher(0.5, damping=0.02, context=3.0), 1),
        (Student(TINY, 2), 2),
        (Student(dataclasses.replace(TINY, skip_context=1.5), 2), 2),
    ],
    ids=["teacher", "vivid teacher", "x2", "vivid x2"],
)
def test_an_image_is_fused_as_if_it_were_alone(network, scale):
    params = random_params(network)
    forward = jax.jit(network.apply)
    alone = [
        np.asarray(forward({"params": params}, ir[None], vis[None])[0])[0]
        for ir, vis in zip(*pairs(), strict=True)
    ]
    assert_each(together(network, params), alone, scale, rtol=3e-6)


@pytest.mark.parametrize(
    ("preset", "scale", "readings"),
    [
        ("tiny", 3, {}),
        ("tiny", 4, {"dfa_softmax": "spatial", "position_pool": 1}),
        ("tiny", 2, {"dfa_softmax": "width", "position_softmax": "joint"}),
        ("lite", 2, {}),
    ],
)
def test_every_scale_and_reading_against_numpy(preset, scale, readings):
    config = dataclasses.replace(PRESETS[preset], **readings)
    network = Student(config, scale)
    params = random_params(network)
    alone = [
        ref.student(params, ir[None], vis[None], config, scale)[0][0]
        for ir, vis in zip(*pairs(), strict=True)
    ]
    assert_each(together(network, params), alone, scale, rtol=1e-4)


@pytest.mark.parametrize("mode", ["spatial", "width", "channel"])
def test_dual_frequency_weights(mode):
    rng = np.random.default_rng(1)
    d1, d2 = ([rng.normal(size=(*size, 3)) for size in SIZES] for _ in range(2))
    a, b = (jnp.asarray(stack(x, SHAPE), jnp.float32) for x in (d1, d2))
    got = dual_frequency_weights(a * b, mode, Extent.of(d1))
    want = [
        ref.dual_frequency_weights(a[None], b[None], mode)[0]
        for a, b in zip(d1, d2, strict=True)
    ]
    assert_each(got, want, 1, rtol=1e-5)


@pytest.mark.parametrize("mode", ["row", "joint"])
def test_channel_attention(mode):
    rng = np.random.default_rng(2)
    x = [rng.normal(size=(*size, 3)) for size in SIZES]
    array = jnp.asarray(stack(x, SHAPE), jnp.float32)
    got = channel_attention(array, mode, extent=Extent.of(x))
    want = [ref.channel_attention(one[None], mode)[0] for one in x]
    assert_each(got, want, 1, rtol=1e-5)
