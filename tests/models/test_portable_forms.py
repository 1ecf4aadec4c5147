"""The portable form of each network equals the usual one, from the same parameters."""

import dataclasses

import jax
import numpy as np
import pytest
from command_fixtures import TINY, random_params

from hkdnet_jax.exported import onnx_file
from hkdnet_jax.exported.running import open_file
from hkdnet_jax.model_files.model import Model
from hkdnet_jax.models.student import Student
from hkdnet_jax.models.teacher import Teacher
from hkdnet_jax.released import network as released

# Together, every reading that the form has code of its own for.
LITERAL = dataclasses.replace(
    TINY,
    dfa_softmax="spatial",
    position_softmax="joint",
    channel_softmax="joint",
    position_pool=1,
    branch_rcabs=2,
)
PLAIN = dataclasses.replace(
    TINY, dfag=False, stand_in_rcabs=2, cea=False, global_skip=False, sr_groups=2
)
PLAIN_SKIP = dataclasses.replace(PLAIN, global_skip=True)
NETWORKS = {
    "student x2": Student(TINY, 2),
    "student x2, vivid": Student(dataclasses.replace(PLAIN_SKIP, skip_context=1.5), 2),
    "student x4, plain": Student(PLAIN, 4),
    "teacher": Teacher(alpha=0.3, damping=1.0),
    "teacher, vivid": Teacher(alpha=0.3, damping=1.0, context=2.0),
}


def assert_equal_forms(network, size=(2, 17, 23, 1)):
    """Returns the model, the inputs and the picture."""
    params = random_params(network)
    ir, vis = np.random.default_rng(1).random((2, *size), np.float32)

    def fuse(network):
        return jax.jit(lambda *args: network.apply(*args))({"params": params}, ir, vis)

    (usual, out), (portable, others) = fuse(network), fuse(network.clone(portable=True))
    assert portable.shape == usual.shape
    assert out.keys() == others.keys()
    for name, want in {"image": usual, **out}.items():
        got = {"image": portable, **others}[name]
        error = np.max(np.abs(np.asarray(got) - want)) / np.max(np.abs(want))
        assert error < 1e-5, (name, error)
    return Model(network, params, getattr(network, "scale", 1)), (ir, vis), usual


def assert_onnx_is_equal(model, pair, image, tmp_path):
    """In onnxruntime; the programs of `tests/exported` are those of plain networks."""
    pytest.importorskip("jax2onnx", reason="see requirements-onnx.txt")
    file = tmp_path / "x.onnx"
    file.write_bytes(onnx_file.convert(model, "float32", {}))
    fused = open_file(file).run(*pair)
    np.testing.assert_allclose(fused, np.clip(image, 0, 1), atol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_forms_are_equal(name):
    assert_equal_forms(NETWORKS[name])


def test_the_paper_s_readings_in_every_form(tmp_path):
    found = assert_equal_forms(Student(LITERAL, 3))
    assert_onnx_is_equal(*found, tmp_path)


def test_the_released_network_in_every_form(monkeypatch, tmp_path):
    small = dataclasses.replace(
        released.SIZES, width=8, branch_rcabs=1, dfabs=1, decoder=(8,), sr_groups=1
    )
    sizes = dataclasses.replace(small, sr_rcabs=2, reduction=4)
    monkeypatch.setattr(released, "SIZES", sizes)
    found = assert_equal_forms(released.Released(2), size=(1, 17, 13, 1))
    assert_onnx_is_equal(*found, tmp_path)
