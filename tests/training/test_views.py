"""What a student of every factor sees in training, and that it learns from it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from train_fixtures import (
    create_state,
    optimizer_of,
    random_batch,
    random_params,
    student_config,
)

from configs import student_any
from hkdnet_jax import pretrained
from hkdnet_jax.common.arrays import to_float
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.model_files import file_format
from hkdnet_jax.model_files.model import Model
from hkdnet_jax.models.teacher import Teacher
from hkdnet_jax.training import networks, steps, val_steps, views
from hkdnet_jax.training.config_check import check_values
from hkdnet_jax.training.networks import describe_network, load_start


def any_config(teacher_dir):
    """`student_config` with the upsampler and the crops of `student_any:tiny`."""
    config = student_config(teacher_dir)
    config.model.upsampler = "continuous"
    config.data.crop, config.data.val_crop = 64, 72
    return config


def crops(seed, number=2):
    return tuple(to_float(x) for x in random_batch(seed, number, 64).values())


@pytest.fixture(scope="module")
def drawn():
    """Views of a pair at some steps, with a teacher, and the pair."""
    teacher = Teacher(0.3, 1.0)
    config, pair = any_config("unused"), crops(0)
    view = jax.jit(lambda key: views.view(config, key, pair))
    keys = jax.random.split(jax.random.key(1), 12)
    return teacher, pair, [jax.device_get(view(key)) for key in keys]


def test_factors_and_windows_are_drawn(drawn):
    _, _, seen = drawn
    units = [int(view.window.units) for view in seen]
    assert len(set(units)) == 12 and min(units) < 22_000 and max(units) > 33_000
    for view in seen:
        ends = [int(at) + 24 for at in view.window[:2]]
        assert max(ends) <= (16 * view.window.units + 5000) // 10_000
        assert view.taken[0].shape == (2, 16, 16, 1)
    assert len({(int(v.window.top), int(v.window.left)) for v in seen}) > 6


def test_the_small_images_are_pils(drawn):
    _, pair, seen = drawn
    for view in seen:
        scale = view.window.units / 10_000
        for image, low in zip(pair, view.clean, strict=True):
            levels = np.round(255 * np.asarray(image[0, :, :, 0])).astype(np.uint8)
            box = (0, 0, 16 * scale, 16 * scale)
            want = Image.fromarray(levels).resize((16, 16), Image.BILINEAR, box=box)
            got = np.round(255 * low[0, :, :, 0])
            # In Pillow's box the last pixels lack what lies beyond it.
            off = np.abs(got - np.asarray(want))[:-1, :-1]
            assert off.max() <= 1 and off.mean() < 0.03


def test_the_label_is_a_part_of_the_whole_pairs(drawn):
    teacher, pair, seen = drawn
    image = jnp.zeros((1, 8, 8, 1))
    shapes = jax.eval_shape(teacher.init, jax.random.key(0), image, image)["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(0, 0.1, x.shape), jnp.float32), shapes
    )
    fuse = jax.jit(teacher.apply)
    whole, _ = fuse({"params": params}, *pair)
    for view in seen[:4]:
        assert view.high[0].shape == (2, 42, 42, 1)
        part = view.cut(fuse({"params": params}, *view.high)[0])
        top, left = map(int, view.window[:2])
        want = whole[:, top : top + 24, left : left + 24]
        np.testing.assert_allclose(part, want, atol=1e-5 * np.abs(want).max())


def test_enlarging_for_the_window(drawn):
    *_, seen = drawn
    view = seen[0]
    ramp = np.broadcast_to(np.arange(16.0)[:, None], (16, 16))[None, :, :, None]
    large = view.enlarge(jnp.asarray(ramp, jnp.float32))
    scale = view.window.units / 10_000
    at = (view.window.top + np.arange(24) + 0.5) / scale - 0.5
    inner = (at > 1) & (at < 14)  # where a cubic reproduces a line
    np.testing.assert_allclose(large[0, inner, 3, 0], at[inner], atol=1e-4)


def test_it_learns_all_factors(tiny_teacher):
    """Steps at drawn factors bring the pictures closer at each whole scale."""
    config = any_config(tiny_teacher)
    config.model.global_skip = False  # which alone would give the picture away
    config.loss.phi = 0.1
    config.optim.lr = 4e-3
    model = Model.load(pretrained.locate("teacher", 1))
    state = create_state(config, jax.jit(lambda: networks.init_params(config))())
    step = steps.train_step(config, optimizer_of(config), model.network, 2)
    step = jax.jit(step, donate_argnums=0)
    validate = jax.jit(val_steps.student_val_step(config, model.network))
    batch, others = random_batch(0, 2, 64), random_batch(3, 1, 72)

    def judge(params):
        values, _ = validate(params, model.params, others | {"mask": jnp.ones(1)})
        return {k: float(v) for k, v in values.items()}

    before = judge(state.params)
    for number in range(1, 81):  # an optimizer's phase 1 is one step long
        state = state.replace(step=jnp.int32(number))
        state, _ = step(state, model.params, batch)
    after = judge(state.params)
    for scale in (2, 3, 4):
        assert after[f"psnr_x{scale}"] > before[f"psnr_x{scale}"] + 3
    mean = np.mean([after[f"psnr_x{scale}"] for scale in (2, 3, 4)])
    assert after["psnr"] == pytest.approx(mean, abs=1e-3)


def test_a_run_starts_from_a_student_of_one_scale(tmp_path, tiny_teacher):
    config = student_config(tiny_teacher)
    params = random_params(config, 5)
    own = {name: params[name] for name in ("fusion", "sr")}
    file_format.save_model(tmp_path, describe_network(config), own)
    wanted = random_params(any_config(tiny_teacher), 6)
    start = load_start(tmp_path, wanted)
    assert start["sr"].keys() == wanted["sr"].keys()
    assert start["sr"]["upsampler"].keys() == {"filters"}
    again = tmp_path / "any"
    kept = {name: wanted[name] for name in ("fusion", "sr")}
    file_format.save_model(again, describe_network(any_config(tiny_teacher)), kept)
    assert load_start(again, wanted)["sr"].keys() == wanted["sr"].keys()


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("crop", 66, "divisible by 4, the largest factor"),
        ("crop", 60, "at least 64 pixels"),
        ("val_crop", 64, "divisible by 12"),
        ("degradation", "camera", "learns from clean pairs alone"),
    ],
)
def test_what_does_not_fit_all_factors(key, value, says):
    config = student_any.get_config("tiny")
    config.data[key] = value
    with pytest.raises(UserError, match=rf"config\.data\.{key} is .*{says}"):
        check_values(config)
