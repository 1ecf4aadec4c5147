"""The self-ensemble: its mean over eight views, in arrays, in models and in `fuse`."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from command_fixtures import make_pair, run
from fuse_fixtures import pair_flags
from PIL import Image

from hkdnet_jax import fuse
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.model_files.call import _forward
from hkdnet_jax.model_files.ensemble import symmetric_mean
from hkdnet_jax.model_files.model import Model


def pair(h=5, w=8):
    images = np.random.default_rng(0).random((2, 3, h, w, 1))
    return images.astype(np.float32)


def enlarged(x, scale):
    return jnp.repeat(jnp.repeat(x, scale, axis=1), scale, axis=2)


@pytest.mark.parametrize(("h", "w"), [(5, 8), (6, 6), (1, 3)])
def test_a_fusion_without_a_direction_is_left_as_it_is(h, w):
    ir, vis = pair(h, w)

    def local(ir, vis):
        return enlarged(0.75 * ir + 0.25 * vis * vis, 2)

    mean = symmetric_mean(local, ir, vis)
    np.testing.assert_allclose(mean, local(ir, vis), rtol=0, atol=2e-7)


def views(x):
    """The eight views of [N, H, W, 1], by NumPy's own turns."""
    turned = [np.rot90(x, k, axes=(1, 2)) for k in range(4)]
    return turned + [np.flip(x, 2) for x in turned]


def undone(images):
    """The images of the eight views as they were before."""
    images = images[:4] + [np.flip(x, 2) for x in images[4:]]
    return [np.rot90(x, -(i % 4), axes=(1, 2)) for i, x in enumerate(images)]


def test_views_are_undone():
    ir, _ = pair()
    for back in undone(views(ir)):
        np.testing.assert_array_equal(back, ir)


def test_the_mean_is_over_all_eight_views():
    ir, vis = pair()

    def slanted(ir, vis):
        rows, columns = (jnp.arange(n, dtype=jnp.float32) for n in ir.shape[1:3])
        weight = (rows[:, None] ** 2 + 0.3 * columns[None] ** 3)[None, :, :, None]
        sums = jnp.cumsum(weight * ir, axis=2)
        return enlarged(sums - weight * jnp.roll(vis, 1, 1), 3)

    each = [np.asarray(slanted(*p)) for p in zip(views(ir), views(vis), strict=True)]
    expected = np.mean(undone(each), axis=0)
    mean = symmetric_mean(slanted, ir, vis)
    assert mean.shape == (3, 15, 24, 1)
    np.testing.assert_allclose(mean, expected, rtol=1e-4, atol=1e-3)
    assert np.abs(mean - slanted(ir, vis)).max() > 1


def test_a_network_s_picture_is_the_mean_of_its_pictures(models):
    model = Model.load(models[2])
    ir, vis = (
        np.float32(x / 255)[None, ..., None] for x in make_pair(height=16, width=16)
    )
    given = zip(views(ir), views(vis), strict=True)
    each = [np.asarray(_forward(model.network, model.params, *pair)) for pair in given]
    expected = np.mean(undone(each), axis=0)
    ensemble = model.ensembled()
    picture = _forward(ensemble.network, ensemble.params, ir, vis)
    np.testing.assert_allclose(picture, expected, atol=1e-4 * np.abs(each).max())
    assert np.abs(picture - each[0]).max() > 0.01
    assert ensemble.scale == 2
    with pytest.raises(ValueError, match="nor for an ensemble"):
        ensemble(ir[0, ..., 0], vis[0, ..., 0], pad_to=(20, 20))


def test_a_scale_that_is_no_whole_number_is_refused(models):
    """Its sides are rounded, and a mirrored picture is rounded at the other side."""
    model = dataclasses.replace(Model.load(models[2]), scale=2.5)
    with pytest.raises(UserError, match=r"whole scale, not 2\.5: give 2, 3 or 4"):
        model.ensembled()


def test_fuse_takes_the_mean(models, tmp_path, capfd):
    flags, out = pair_flags(tmp_path), tmp_path / "out.png"
    code, _, errors = run(
        fuse, capfd, *flags, "--out", out, "--model", models[2], "--tta"
    )
    assert (code, errors) == (0, [])
    ir, vis = (np.asarray(Image.open(flags[i])) for i in (1, 3))
    expected = Model.load(models[2]).ensembled()(ir, vis)
    difference = np.asarray(Image.open(out)).astype(int) - expected
    assert np.abs(difference).max() <= 1
