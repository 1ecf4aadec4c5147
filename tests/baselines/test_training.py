"""Training of compared systems: their losses by hand, one step, and a whole run."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import correlate1d
from skimage.metrics import peak_signal_noise_ratio
from train_fixtures import random_batch, read_rows

from configs import baseline
from hkdnet_jax import main
from hkdnet_jax.baselines import cnn_fusion, registry, training
from hkdnet_jax.baselines.weights import Weights, shapes
from hkdnet_jax.common.arrays import to_float
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.model_files import file_format
from hkdnet_jax.ops import conv
from hkdnet_jax.ops.filters import gaussian
from hkdnet_jax.runtime import sharding
from hkdnet_jax.training.config import BASELINES
from hkdnet_jax.training.config_check import check_config
from hkdnet_jax.training.workdir import check_workdir

SMALL = 1.5e6  # parameters at most
# Attributes of smaller networks, whose steps compile faster.
REDUCED = {
    "edsr": {"blocks": 1, "width": 8},
    "rcan": {"groups": 1, "blocks": 1, "width": 16, "reduction": 2},
    "cen": {"blocks": 1},
}


@pytest.fixture(scope="module", autouse=True)
def plain_gradients():
    """Leaves out Winograd's weight gradients, which take long to compile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conv, "_MANY_CHANNELS", 2**30)
        yield


def config_of(variant):
    config = baseline.get_config(variant)
    config.mesh.data = 1
    config.train.batch_size = 4
    if variant == "densefuse":
        config.data.crop = 32
    if variant == "cen":
        config.data.crop = 48
        config.train.batch_size = 1
        config.optim.lr = 5e-5  # at its own rate it needs the warm-up
    config.data.scenes, config.data.val_scenes = 4, 2
    config.data.val_crop = 16 * config.scale
    config.optim.warmup_steps = 0
    config.lock()
    return config


def test_every_system_has_its_recipe():
    assert tuple(training.RECIPES) == BASELINES
    with pytest.raises(ValueError, match="'huge' is not one of"):
        config_of("huge")


@pytest.mark.parametrize("variant", baseline.VARIANTS)
def test_a_step_moves_every_parameter_and_lowers_the_loss(variant, monkeypatch):
    config = config_of(variant)
    check_config(config)
    recipe = training.RECIPES[config.baseline]
    sizes = shapes(recipe.build(config.scale), recipe.inputs)
    number = sum(int(np.prod(x.shape)) for x in jax.tree.leaves(sizes))
    assert number < (2e6 if variant == "cen" else SMALL)
    reduced = REDUCED.get(config.baseline, {})
    small = dataclasses.replace(
        recipe, build=lambda scale: recipe.build(scale).clone(**reduced)
    )
    monkeypatch.setitem(training.RECIPES, config.baseline, small)
    run = training.BaselineRun(config)
    state = run.init_state()
    before = jax.device_get(state.params)
    batch = random_batch(0, config.train.batch_size, config.data.crop)
    batch = sharding.put_batch(batch, run.mesh)
    step = run.train_step(1)
    losses = []
    for _ in range(6):
        state, scalars = step(state, run.frozen, batch)
        losses.append(float(scalars["loss"]))
    assert np.mean(losses[-2:]) < np.mean(losses[:2])
    after = jax.device_get(state.params)
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert (old != new).any()


def test_what_a_validation_of_an_enlargement_measures():
    config = config_of("edsr_x2")
    run = training.BaselineRun(config)
    params = jax.device_get(run.init_state().params)
    batch = random_batch(1, 2, 32)
    mask = np.array([1, 0], np.float32)
    totals, pictures = run.make_val_step()(params, {}, batch | {"mask": mask})
    assert float(totals["count"]) == 1
    wants = []
    for kind in ("ir", "vis"):
        image = batch[kind][0, :, :, 0]
        low = Image.fromarray(image).resize((16, 16), Image.Resampling.BILINEAR)
        unit = np.asarray(low, np.float32) / 255
        bicubic = Image.fromarray(unit).resize((32, 32), Image.Resampling.BICUBIC)
        true = image / 255
        clipped = np.clip(np.asarray(bicubic, np.float64), 0, 1)
        wants.append(peak_signal_noise_ratio(true, clipped, data_range=1))
        got = float(totals[f"psnr_bicubic_{kind}"])
        assert got == pytest.approx(wants[-1], abs=1e-3)
        output = run._network.apply({"params": params}, unit[None, :, :, None])
        want = np.clip(np.asarray(output)[0, :, :, 0], 0, 1)
        np.testing.assert_allclose(pictures[kind][0, :, :, 0], 255 * want, atol=0.51)
        psnr = peak_signal_noise_ratio(true, want.astype(np.float64), data_range=1)
        assert float(totals[f"psnr_{kind}"]) == pytest.approx(psnr, abs=1e-3)
    assert float(totals["psnr_bicubic"]) == pytest.approx(np.mean(wants), abs=1e-3)


def test_blurred_patches_of_the_cnn():
    images = to_float(random_batch(3, 5, 32)["ir"])
    times = jnp.array([1, 2, 3, 4, 5])
    sharp, blurred = cnn_fusion._sharp_and_blurred(images, times)
    np.testing.assert_array_equal(sharp, images[:, 8:24, 8:24])
    for i, image in enumerate(np.asarray(images, np.float64)):
        for _ in range(i + 1):
            for axis in (0, 1):
                image = correlate1d(image, gaussian(7, 2.0), axis, mode="mirror")
        np.testing.assert_allclose(blurred[i], image[8:24, 8:24], atol=1e-6)


def test_a_network_that_knows_the_sharp_patch_has_no_loss():
    batch = random_batch(4, 6, 32)
    images = [to_float(batch[kind]) for kind in ("ir", "vis")]

    class Knows:
        """Calls the patch with more contrast sharp."""

        @staticmethod
        def apply(params, first, second):
            del params
            contrast = [x.std(axis=(1, 2), keepdims=True) for x in (first, second)]
            return (contrast[0] > contrast[1]).astype(jnp.float32)

    recipe = cnn_fusion.RECIPE
    loss, terms = recipe.loss(Knows, {}, *images, jax.random.key(0))
    assert float(loss) == pytest.approx(0, abs=1e-5) and float(terms["accuracy"]) == 1
    values, _ = recipe.validate(Knows, {}, *images)
    np.testing.assert_array_equal(values["accuracy"], np.ones(6))


def test_a_run_is_a_folder_of_weights_and_the_next_scale_starts_from_it(
    tmp_path, capfd
):
    workdir = tmp_path / "edsr_x2"
    flags = ["--config=configs/baseline.py:edsr_x2", f"--workdir={workdir}"]
    small = {
        "mesh.data": 1,
        "train.batch_size": 2,
        "train.epochs": 2,
        "data.samples_per_epoch": 4,
        "data.scenes": 4,
        "data.val_scenes": 2,
        "data.val_crop": 32,
        "checkpoint_every_steps": 2,
        "tensorboard": False,
        "log_every_steps": 1,
    }
    flags += [f"--config.{key}={value}" for key, value in small.items()]
    assert main.main(flags) == 0
    assert [row["step"] for row in read_rows(workdir) if "val/psnr" in row] == [4]
    assert main.main([*flags, "--config.train.epochs=3"]) == 0
    assert read_rows(workdir)[-1]["step"] == 6  # it went on
    method = registry.find("average+edsr", Weights(tmp_path))
    images = np.random.default_rng(0).uniform(0, 1, (2, 12, 10)).astype(np.float32)
    assert method(*images, 2).shape == (24, 20)

    config = config_of("edsr_x3")
    with config.unlocked():
        config.init_from = str(workdir)
    _, start = file_format.load_model(workdir)
    params = jax.device_get(training.BaselineRun(config).init_state().params)
    for name, tree in start.items():
        same = jax.tree.map(lambda a, b: np.array_equal(a, b), tree, params[name])
        assert all(jax.tree.leaves(same)) == (name != "upsampler")
    with pytest.raises(UserError, match="holds a run with another model"):
        check_workdir(config, workdir, training.BaselineRun)
    with config.unlocked():
        config.baseline = "rcan"
    with pytest.raises(UserError, match="holds no rcan of this run's size"):
        training.BaselineRun(config).init_state()
    capfd.readouterr()
    code = main.main([*flags, "--config.val_metrics=paper"])
    assert code == 1 and "a baseline's run computes none" in capfd.readouterr().err
