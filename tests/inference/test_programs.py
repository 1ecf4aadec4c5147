"""Compiled forward passes: over devices, in batches, within a limit of memory."""

import functools

import jax
import numpy as np
import pytest
from command_fixtures import TINY, random_params

from hkdnet_jax.inference import programs
from hkdnet_jax.model_files.model import Model
from hkdnet_jax.models.presets import PRESETS
from hkdnet_jax.models.student import Student
from hkdnet_jax.ops.extent import Extent, stack
from hkdnet_jax.runtime import memory
from hkdnet_jax.runtime.sharding import DATA, HEIGHT


@pytest.fixture(scope="module")
def model():
    network = Student(TINY, 2)
    return Model(network, random_params(network), 2)


def pairs(count, height, width):
    return np.random.default_rng(0).random((2, count, height, width, 1), np.float32)


def one_by_one(model, ir, vis):
    """The network, jitted, on one device and one pair at a time."""
    forward = jax.jit(model.network.apply)
    batches = zip(ir[:, None], vis[:, None], strict=True)
    outputs = [forward({"params": model.params}, *batch)[0] for batch in batches]
    return np.concatenate(outputs)


@pytest.mark.parametrize(
    ("size", "count", "batch", "mesh"),
    [
        ((128, 20), 1, 1, {DATA: 1, HEIGHT: 4}),  # one image: its rows
        ((66, 20), 1, 1, {DATA: 1, HEIGHT: 2}),  # 3 parts would be too low
        ((65, 20), 1, 1, {DATA: 1, HEIGHT: 1}),  # 5 * 13
        ((16, 20), 2, 2, {DATA: 2, HEIGHT: 1}),
        ((16, 20), 7, 8, {DATA: 4, HEIGHT: 1}),  # one place stays empty
    ],
)
def test_devices_share_the_work_and_nothing_changes(model, size, count, batch, mesh):
    program = programs.choose(model, size, count, jax.devices())
    assert (program.batch, dict(program.mesh.shape)) == (batch, mesh)
    ir, vis = pairs(count, *size)
    fused = np.asarray(program.run(model.params, ir, vis))
    expected = one_by_one(model, ir, vis)
    assert fused.shape == (count, 2 * size[0], 2 * size[1], 1)
    np.testing.assert_allclose(fused, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("sizes", "mesh"),
    [
        ([(50, 17)], {DATA: 1, HEIGHT: 2}),
        ([(50, 17), (64, 20), (33, 20)], {DATA: 3, HEIGHT: 1}),
    ],
)
def test_devices_share_padded_images(model, sizes, mesh):
    shape, devices = (64, 20), jax.devices()[: max(2, len(sizes))]
    program = programs.choose(model, shape, len(sizes), devices, padded=True)
    assert dict(program.mesh.shape) == mesh
    alone = [pairs(1, *size) for size in sizes]
    sides = [[ir[0] for ir, _ in alone], [vis[0] for _, vis in alone]]
    arrays = (stack(images, shape) for images in sides)
    fused = np.asarray(program.run(model.params, *arrays, Extent.of(sides[0])))
    assert fused.shape == (len(sizes), 128, 40, 1)
    for image, (h, w), (ir, vis) in zip(fused, sizes, alone, strict=True):
        (expected,) = one_by_one(model, ir, vis)
        np.testing.assert_allclose(image[: 2 * h, : 2 * w], expected, rtol=0, atol=1e-5)


def test_small_images_fill_a_batch_and_large_ones_do_not(model, monkeypatch):
    monkeypatch.setattr(programs, "_PIXELS_AT_ONCE", 64 * 64)
    device = jax.devices()[:1]
    batches = {
        (size, count): next(programs._candidates(size, count, device))[0]
        for size in ((16, 16), (32, 64), (64, 65))
        for count in (1, 3, 100)
    }
    assert batches == {
        **{((16, 16), 1): 1, ((16, 16), 3): 3, ((16, 16), 100): 16},
        **{((32, 64), 1): 1, ((32, 64), 3): 2, ((32, 64), 100): 2},
        **{((64, 65), 1): 1, ((64, 65), 3): 1, ((64, 65), 100): 1},
    }


def test_a_device_of_several_takes_a_third_of_the_memory():
    network = Student(PRESETS["lite"], 2)
    shapes = programs._shapes(random_params(network))
    whole, split = (
        programs._compile(network, shapes, (512, 512), 1, mesh)
        for _, mesh in (
            next(programs._candidates((512, 512), 1, devices))
            for devices in (jax.devices()[:1], jax.devices())
        )
    )
    assert split.mesh.shape[HEIGHT] == 4
    one, each = (
        program.compiled.memory_analysis().argument_size_in_bytes
        + memory.program_bytes(program.compiled)
        for program in (whole, split)
    )
    assert each < 0.4 * one
    # On CPUs all take it of the same memory.
    assert split.needed() == pytest.approx(4 * 1.15 * each, rel=1e-3)
    assert whole.needed() == pytest.approx(1.15 * one, rel=1e-3)


def test_the_budget_is_what_is_left(monkeypatch):
    device = jax.devices()[0]
    monkeypatch.setattr(memory, "rss", lambda: 300)
    monkeypatch.setattr(memory, "free", lambda device: 5000)
    assert programs.budget(device) == 5000
    assert [programs.budget(device, limit) for limit in (1000, 200)] == [700, 0]


def test_a_smaller_program_is_chosen_where_memory_is_short(model):
    compile_ = functools.partial(
        programs._compile, model.network, programs._shapes(model.params), (16, 20)
    )
    first, second = (
        compile_(batch, mesh)
        for batch, mesh in list(programs._candidates((16, 20), 8, jax.devices()))[:2]
    )
    assert (first.batch, second.batch) == (8, 4)
    assert first.needed() > second.needed()

    def choose(free, beside=0):
        return programs.choose(model, (16, 20), 8, jax.devices(), free, beside)

    assert choose(first.needed()).batch == 8
    assert choose(first.needed() + 10, beside=11).batch == 4
    assert choose(first.needed() - 1).batch == 4
    last = compile_(*list(programs._candidates((16, 20), 8, jax.devices()))[-1])
    with pytest.raises(programs.DoesNotFit) as problem:
        choose(last.needed() - 1)
    assert problem.value.needed == last.needed()
    assert problem.value.free == last.needed() - 1


def test_a_program_is_compiled_once(model):
    first = programs.choose(model, (16, 20), 1, jax.devices())
    assert programs.choose(model, (16, 20), 1, jax.devices()) is first
    other = Model(model.network, random_params(model.network, seed=1), 2)
    assert programs.choose(other, (16, 20), 1, jax.devices()) is first
    ir, vis = pairs(1, 16, 20)
    outputs = [np.asarray(first.run(m.params, ir, vis)) for m in (model, other)]
    assert abs(outputs[0] - outputs[1]).max() > 1e-3
