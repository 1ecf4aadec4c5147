"""DenseFuse and CNN fusion: against NumPy on made weights."""

import cv2
import numpy as np
import pytest
from baseline_fixtures import cnn_arrays, cnn_patches, densefuse, densefuse_state

from hkdnet_jax.baselines import cnn_fusion, conversion, registry
from hkdnet_jax.baselines.weights import Weights, run, shapes
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.model_files import file_format


def images(seed, *shape):
    rng = np.random.default_rng(seed)
    return rng.uniform(0, 1, (2, *shape)).astype(np.float32)


def saved(tmp_path, kind, arrays):
    file_format.save_model(tmp_path / kind, *conversion.convert(kind, arrays))
    return Weights(tmp_path)


# --- DenseFuse ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "rule"), [("densefuse", "addition"), ("densefuse_l1", "l1")]
)
def test_densefuse_is_what_numpy_computes(tmp_path, name, rule):
    state = densefuse_state()
    ir, vis = images(1, 9, 11)
    got = registry.FUSIONS[name](saved(tmp_path, "densefuse", state))(ir, vis)
    want = densefuse(state, ir, vis, rule)
    assert got.shape == (9, 11) and got.dtype == np.float32 and want.max() > 0.05
    np.testing.assert_allclose(got, want, atol=2e-5 * want.max())


def test_densefuse_has_the_parameters_of_the_paper():
    _, params = conversion.convert("densefuse", densefuse_state())
    leaves = [
        x.size for part in params.values() for c in part.values() for x in c.values()
    ]
    by_hand = sum(9 * i * o + o for i, o in [(1, 16), (16, 16), (32, 16), (48, 16)])
    by_hand += sum(9 * i * o + o for i, o in [(64, 64), (64, 32), (32, 16), (16, 1)])
    assert sum(leaves) == by_hand == 74_193


# --- CNN fusion ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def arrays():
    return cnn_arrays()


def test_cnn_network_is_what_numpy_computes(arrays):
    config, params = conversion.convert("cnn", arrays)
    assert config == {"kind": "cnn"}
    ir, vis = images(2, 17, 20)  # an odd side, which the pooling pads
    got = run(cnn_fusion.SiameseNetwork(), params, ir, vis)[..., 0]
    want = cnn_patches(arrays, ir, vis)
    assert got.shape == (2, 3) and np.ptp(want) > 0.01
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_patches_are_averaged_where_they_overlap():
    patches = np.random.default_rng(0).uniform(size=(3, 4))
    shape = (19, 22)  # the pooling made 10 x 11 of it
    total, count = np.zeros((20, 22)), np.zeros((20, 22))
    for i, row in enumerate(patches):
        for j, value in enumerate(row):
            total[2 * i : 2 * i + 16, 2 * j : 2 * j + 16] += value
            count[2 * i : 2 * i + 16, 2 * j : 2 * j + 16] += 1
    want = (total / count)[:19]
    np.testing.assert_allclose(cnn_fusion.spread(patches, shape), want)


def test_pyramids_agree_with_opencv_inside():
    # OpenCV's borders are other ones, its filter is the same.
    image = images(3, 40, 48)[0].astype(np.float64)
    small = cnn_fusion._reduce(image)
    np.testing.assert_allclose(small[1:-1, 1:-1], cv2.pyrDown(image)[1:-1, 1:-1])
    large = cnn_fusion._expand(small, image.shape)
    np.testing.assert_allclose(large[4:-4, 4:-4], cv2.pyrUp(small)[4:-4, 4:-4])
    # Up to its border an even ramp stays one.
    flat = cnn_fusion._expand(np.full((3, 4), 7.0), (5, 7))
    np.testing.assert_allclose(flat, np.full((5, 7), 7.0))


def test_merging_by_rule():
    ir, vis = images(4, 21, 32)
    ones, half = np.ones(ir.shape), np.full(ir.shape, 0.5)
    # A pyramid is undone exactly: equal images are similar at every level.
    np.testing.assert_allclose(cnn_fusion.merge(ir, ir, half), ir, atol=1e-6)
    scaled = cnn_fusion.merge(ir, 0.8 * ir, ones)
    np.testing.assert_allclose(scaled, ir, atol=1e-6)
    np.testing.assert_allclose(
        cnn_fusion.merge(ir, 0.8 * ir, half), 0.9 * ir, atol=1e-6
    )
    # Images of opposite sign are unlike at every level: the stronger one wins.
    np.testing.assert_allclose(cnn_fusion.merge(ir, -0.3 * ir, half), ir, atol=1e-6)
    np.testing.assert_allclose(cnn_fusion.merge(-0.3 * vis, vis, half), vis, atol=1e-6)


def test_cnn_fusion_of_small_images(tmp_path, arrays):
    fuse = registry.FUSIONS["cnn"](saved(tmp_path, "cnn", arrays))
    ir, vis = images(5, 16, 17)
    assert fuse(ir, vis).shape == (16, 17)
    with pytest.raises(UserError, match="cannot fuse 15x16 pixels: both sides need 16"):
        fuse(ir[:, :15], vis[:, :15])


def test_shapes_are_those_of_the_files(arrays):
    want = shapes(cnn_fusion.SiameseNetwork(), 2)
    assert want["kernel"].shape == (8, 8, 512, 2)
    assert conversion.convert("cnn", arrays)[1]["kernel"].shape == (8, 8, 512, 2)
