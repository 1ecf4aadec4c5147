"""EDSR, RCAN and IMDN: parameters counted by hand, and NumPy on made state dicts."""

import jax
import numpy as np
import pytest
from baseline_fixtures import (
    edsr_body,
    edsr_state,
    enlarge,
    imdn,
    imdn_state,
    rcan_body,
    rcan_state,
)

from hkdnet_jax.baselines import conversion, edsr, rcan, registry
from hkdnet_jax.baselines.edsr import EDSR
from hkdnet_jax.baselines.imdn import IMDN
from hkdnet_jax.baselines.rcan import RCAN
from hkdnet_jax.baselines.weights import Weights, run, shapes
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.model_files import file_format


def count(network):
    leaves = jax.tree.leaves(shapes(network, inputs=1))
    return sum(int(np.prod(leaf.shape)) for leaf in leaves)


def image(seed=0, height=6, width=7):
    rng = np.random.default_rng(seed)
    return rng.uniform(0, 1, (height, width)).astype(np.float32)


def c3(inputs, outputs):
    return 9 * inputs * outputs + outputs


@pytest.mark.parametrize(
    ("blocks", "width", "rounded"), [(16, 64, 1.37e6), (32, 256, 40.7e6)]
)
def test_parameters_of_edsr(blocks, width, rounded):
    by_hand = c3(3, width) + (2 * blocks + 1) * c3(width, width)
    by_hand += c3(width, 4 * width) + c3(width, 3)
    assert count(EDSR(2, blocks, width)) == by_hand == pytest.approx(rounded, rel=1e-3)
    more = c3(width, 4 * width)
    assert count(EDSR(4, blocks, width)) == by_hand + more
    assert count(EDSR(3, blocks, width)) == by_hand - more + c3(width, 9 * width)


def test_parameters_of_rcan():
    gate = 64 * 4 + 4 + 4 * 64 + 64
    group = 20 * (2 * c3(64, 64) + gate) + c3(64, 64)
    by_hand = c3(3, 64) + 10 * group + c3(64, 64) + c3(64, 256) + c3(64, 3)
    assert count(RCAN(2)) == by_hand == pytest.approx(15.4e6, rel=4e-3)


def test_parameters_of_imdn():
    block = c3(64, 64) + 2 * c3(48, 64) + c3(48, 16) + 64 * 64 + 64
    block += 64 * 4 + 4 + 4 * 64 + 64
    by_hand = c3(3, 64) + 6 * block + 384 * 64 + 64 + c3(64, 64)
    for scale, rounded in ((2, 0.694e6), (3, 0.703e6), (4, 0.715e6)):
        want = by_hand + c3(64, 3 * scale**2)
        assert count(IMDN(scale)) == want == pytest.approx(rounded, rel=1e-3)


@pytest.mark.parametrize(("scale", "channels"), [(2, 3), (3, 1), (4, 3)])
def test_edsr_is_what_numpy_computes(scale, channels):
    state = edsr_state(scale, channels=channels)
    config, params = conversion.convert("edsr", state)
    assert config == {
        "kind": "edsr",
        "scale": scale,
        "blocks": 2,
        "width": 8,
        "residual_scale": 1.0,
        "channels": channels,
    }
    config.pop("kind")
    got = run(EDSR(**config), params, image())
    want = enlarge(state, image(), scale, edsr_body, channels)
    np.testing.assert_allclose(got.transpose(2, 0, 1), want, atol=1e-5)


def test_the_large_edsr_adds_a_tenth():
    state = edsr_state(2, blocks=1, width=256)
    config, _ = conversion.convert("edsr", state)
    assert config["residual_scale"] == 0.1
    config, params = conversion.convert("edsr", edsr_state(2))
    assert config.pop("kind") == "edsr"
    tenth = EDSR(**config | {"residual_scale": 0.1})

    def body(state, x):
        return edsr_body(state, x, 0.1)

    want = enlarge(edsr_state(2), image(), 2, body)
    np.testing.assert_allclose(
        run(tenth, params, image()).transpose(2, 0, 1), want, atol=1e-5
    )


@pytest.mark.parametrize(("scale", "channels"), [(2, 1), (3, 3)])
def test_rcan_is_what_numpy_computes(scale, channels):
    state = rcan_state(scale, channels=channels)
    config, params = conversion.convert("rcan", state)
    assert config.pop("kind") == "rcan"
    assert config["groups"] == 2 and config["blocks"] == 3 and config["reduction"] == 4
    got = run(RCAN(**config), params, image())
    want = enlarge(state, image(), scale, rcan_body, channels)
    np.testing.assert_allclose(got.transpose(2, 0, 1), want, atol=1e-5)


def test_imdn_is_what_numpy_computes():
    state = imdn_state(3)
    config, params = conversion.convert("imdn", state)
    assert config == {"kind": "imdn", "scale": 3, "channels": 3}
    got = run(IMDN(3), params, image())
    want = imdn(state, image().astype(np.float64), 3)
    np.testing.assert_allclose(
        got.transpose(2, 0, 1), want, atol=1e-5 * np.abs(want).max()
    )


def test_a_method_takes_the_first_channel_of_the_network_of_its_scale(tmp_path):
    for scale in (2, 3):
        model = conversion.convert("edsr", edsr_state(scale))
        file_format.save_model(tmp_path / f"edsr_x{scale}", *model)
    method = registry.find("average+edsr", Weights(tmp_path))
    ir, vis = image(1), image(2)
    mean = np.float32(2 / 3) * ir + np.float32(1 / 3) * vis
    for scale in (2, 3):
        want = enlarge(edsr_state(scale), mean, scale, edsr_body)[0]
        np.testing.assert_allclose(method(ir, vis, scale), want, atol=1e-5)
    np.testing.assert_allclose(method(ir, vis, 1), mean, atol=1e-6)
    with pytest.raises(UserError, match="edsr_x4 does not exist"):
        method(ir, vis, 4)


@pytest.mark.parametrize("kind", ["edsr", "rcan", "imdn"])
def test_what_does_not_fit_is_listed(kind):
    make = {"edsr": edsr_state, "rcan": rcan_state, "imdn": imdn_state}[kind]
    for other in {"edsr": edsr, "rcan": rcan}:
        if other != kind:
            with pytest.raises(UserError, match=f"not those of {other}"):
                conversion.convert(other, make(2))
    state = make(2)
    name = next(n for n in state if n.endswith("bias") and "mean" not in n)
    state[name] = state[name].astype(np.float64)
    state["extra"] = np.zeros(3, np.float32)
    with pytest.raises(UserError, match=f"unexpected: extra; wrong: {name} is"):
        conversion.convert(kind, state)
    state = make(2)
    state[name] = np.full_like(state[name], np.nan)
    with pytest.raises(UserError, match="not finite"):
        conversion.convert(kind, state)
    with pytest.raises(UserError, match="of scale 2, not 3: drop --scale 3"):
        conversion.convert(kind, make(2), scale=3)
