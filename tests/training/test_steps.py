"""Training and validation steps: what they train, see, report, and on what devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from train_fixtures import (
    create_state,
    optimizer_of,
    random_batch,
    random_params,
    shapes_of,
    student_config,
    teacher_config,
)

from configs import student_x2
from hkdnet_jax.common import arrays
from hkdnet_jax.measuring.slices import abstract_arguments
from hkdnet_jax.models.teacher import Teacher
from hkdnet_jax.runtime import sharding
from hkdnet_jax.training import networks, steps, val_steps, views
from hkdnet_jax.training.run import Run

SIZE = 32  # of the high-resolution crops
TEACHER = Teacher(alpha=0.5)


@pytest.fixture(scope="module")
def frozen():
    """A teacher's parameters."""
    return jax.device_put(random_params(teacher_config(), 0))


@pytest.fixture(scope="module")
def fuse():
    """The teacher's forward."""
    return jax.jit(TEACHER.apply)


@pytest.fixture(scope="module")
def student():
    """The forward of the student of `student_config`."""
    return jax.jit(networks.build_student(student_config("unused")).apply)


def _assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def _largest_change(a, b):
    changes = jax.tree.map(lambda x, y: float(jnp.max(jnp.abs(x - y))), a, b)
    return jax.tree.leaves(changes)


# Randomness


def test_flips_are_a_function_of_seed_and_step_and_the_same_for_both():
    config = teacher_config()
    ramp = np.arange(64 * 5 * 7, dtype=np.uint8).reshape(64, 5, 7, 1)
    batch = {"ir": ramp, "vis": ramp // 2}
    augmented = jax.jit(lambda step, batch: steps.augmented(config, step, batch))
    seen = []
    for step in (3, 3, 4):
        ir, vis = (np.asarray(x) for x in augmented(jnp.int32(step), batch))
        np.testing.assert_allclose(vis, np.floor(ir * 255 / 2 + 1e-3) / 255, atol=1e-6)
        seen.append(ir)
    np.testing.assert_array_equal(seen[0], seen[1])
    assert np.any(seen[0] != seen[2])
    config.seed += 1
    other = jax.jit(lambda step: steps.augmented(config, step, batch))(jnp.int32(3))
    assert np.any(seen[0] != np.asarray(other[0]))


def test_each_sample_is_flipped_in_one_of_four_ways():
    config = teacher_config()
    one = np.arange(35, dtype=np.uint8).reshape(1, 5, 7, 1)
    batch = {key: np.repeat(one, 400, axis=0) for key in ("ir", "vis")}
    ir, _ = steps.augmented(config, jnp.int32(0), batch)
    got = np.round(np.asarray(ir) * 255).astype(np.uint8)
    ways = [one[0], one[0, ::-1], one[0, :, ::-1], one[0, ::-1, ::-1]]
    counts = [sum(np.array_equal(g, way) for g in got) for way in ways]
    assert sum(counts) == 400
    assert min(counts) > 60  # 100 each on average, 8.7 the standard deviation


# What a phase trains


def _shapes(config):
    """Shapes of parameters and of the state."""
    params = shapes_of(config)
    return params, jax.eval_shape(lambda params: create_state(config, params), params)


def _student_program(config, frozen, phase):
    """The shapes of the state, and the jaxpr of a phase's step."""
    _, state = _shapes(config)
    step = steps.student_train_step(config, optimizer_of(config), TEACHER, phase)
    batch = random_batch(0, 2, SIZE)
    return state, jax.make_jaxpr(step)(state, frozen, batch).jaxpr


def _uses(jaxpr, variables):
    """Whether an equation reads one of some input variables."""
    wanted = {id(v) for v in variables}
    return any(id(v) in wanted for eqn in jaxpr.eqns for v in eqn.invars)


def test_the_program_of_phase_1_holds_no_super_resolution(frozen):
    config = student_x2.get_config("tiny")
    state, program = _student_program(config, frozen, phase=1)
    paths = [jax.tree_util.keystr(p) for p, _ in jax.tree.leaves_with_path(state)]
    groups = {"fusion": [], "sr": [], "adapter": []}
    for i, path in enumerate(paths):
        if path.startswith(".params"):
            groups[path.split("'")[1]].append(i)
    resting, moving = groups["sr"] + groups["adapter"], groups["fusion"]
    assert len(resting) > 20
    assert not _uses(program, [program.invars[i] for i in resting])
    # They leave as they came: the very same variables.
    for i in resting:
        assert program.outvars[i] is program.invars[i]
    assert all(program.outvars[i] is not program.invars[i] for i in moving)
    # The same question about phase 2 shows that it can be answered with yes.
    _, program = _student_program(config, frozen, phase=2)
    assert _uses(program, [program.invars[i] for i in resting])


def test_no_state_holds_the_teacher():
    config = student_x2.get_config("tiny")
    params, state = _shapes(config)
    assert set(params) == {"fusion", "sr", "adapter"}
    assert set(state.params) == set(params)
    paths = [jax.tree_util.keystr(p) for p, _ in jax.tree.leaves_with_path(state)]
    assert not any("encoder" in path for path in paths)
    # Parameters, two moments, and the counters: two a group (Adam's and the mask's),
    # three of skipped steps, the schedule's and the state's.
    sizes = [sum(x.size for x in jax.tree.leaves(tree)) for tree in (params, state)]
    assert sizes[1] == 3 * sizes[0] + 2 * len(params) + 5


def test_a_student_as_wide_as_the_teacher_needs_no_adapter():
    config = student_x2.get_config()
    params = jax.eval_shape(lambda: networks.init_params(config))
    assert set(params) == {"fusion", "sr"}
    upsampled = jnp.ones((1, 2, 2, 64))
    assert steps.adapt(config, params, upsampled) is upsampled


def test_without_phi_features_are_neither_made_nor_compared(frozen):
    """Gone are the adapter and the teacher's pass over the low-resolution pair."""
    config = student_x2.get_config("tiny")
    config.loss.phi = 0.0
    state, program = _student_program(config, frozen, phase=2)
    assert set(state.params) == {"fusion", "sr"}
    teachers = program.invars[len(jax.tree.leaves(state)) :]
    kernel = teachers[1]
    assert kernel.aval.shape == frozen["decoder"]["conv1"]["kernel"].shape
    # Only the label's pass reads it; with features there are two.
    readers = [eqn for eqn in program.eqns if any(v is kernel for v in eqn.invars)]
    assert len(readers) == 1


@pytest.fixture(scope="module")
def taken(frozen):
    """State before, after a step of phase 1, after one more of phase 2; scalars."""
    config = student_config("unused")
    state = create_state(config, jax.device_put(random_params(config, 1)))
    states, all_scalars = [state], []
    for phase in (1, 2):
        step = jax.jit(
            steps.student_train_step(config, optimizer_of(config), TEACHER, phase)
        )
        state, scalars = step(state, frozen, random_batch(0, 4, SIZE))
        states.append(state)
        all_scalars.append(scalars)
    return states, all_scalars


def test_phase_1_moves_only_the_fusion_part(taken):
    (start, first, _), (scalars, _) = taken
    for group in ("sr", "adapter"):
        _assert_equal(first.params[group], start.params[group])
    moved = _largest_change(first.params["fusion"], start.params["fusion"])
    assert min(moved) > 0
    assert max(moved) < 1.1 * 1e-3  # Adam's first step is the learning rate
    assert "loss_image" not in scalars


def test_phase_2_moves_everything(taken):
    (_, first, second), (_, scalars) = taken
    for group in ("fusion", "sr", "adapter"):
        moved = _largest_change(second.params[group], first.params[group])
        assert min(moved) > 0, group
    assert second.step == 2
    assert {"loss", "loss_image", "loss_feature", "grad_norm", "lr"} <= scalars.keys()


def _enlarged(features):
    """Twice the size, by Pillow's bicubic interpolation of each channel."""
    size = 2 * features.shape[2], 2 * features.shape[1]
    planes = np.moveaxis(np.asarray(features), -1, 1)
    made = [
        [np.asarray(Image.fromarray(plane).resize(size, Image.BICUBIC)) for plane in x]
        for x in planes
    ]
    return np.moveaxis(np.stack(made), 1, -1)


def test_without_the_skip_the_features_are_the_teachers():
    config = student_config("unused")
    config.model.global_skip = False
    rng = np.random.default_rng(0)
    label = {f"decoder{i}": rng.normal(size=(1, 4, 4, 2)) for i in (1, 3)}
    seen = views.View((), (), (), config.scale)
    third, first = steps.features_to_add(config, label, {}, seen)
    assert third is label["decoder3"] and first is label["decoder1"]


def test_the_losses_are_those_of_the_paper(taken, frozen, fuse, student):
    """Eq. 22 and 23, put together here from the networks' outputs."""
    (start, first, _), (scalars1, scalars2) = taken
    config = student_config("unused")

    def inputs(step):
        ir, vis = steps.augmented(config, jnp.int32(step), random_batch(0, 4, SIZE))
        return (ir, vis), (arrays.degrade(ir, 2), arrays.degrade(vis, 2))

    def distance(a, b):
        return np.abs(np.asarray(a) - np.asarray(b)).mean(dtype=np.float64)

    _, low = inputs(step=0)
    _, label = fuse({"params": frozen}, *low)
    _, out = student({"params": _inner(start.params)}, *low)
    eq22 = distance(0.5 * label["decoder3"], out["decoded"])  # loss.fused_scale
    np.testing.assert_allclose(scalars1["loss"], eq22, rtol=1e-5)

    high, low = inputs(step=1)
    image_t, label = fuse({"params": frozen}, *high)
    image_s, out = student({"params": _inner(first.params)}, *low)
    adapter = first.params["adapter"]["conv"]
    kernel = np.asarray(adapter["kernel"]).reshape(-1, 64)
    adapted = np.asarray(out["upsampled"]) @ kernel + np.asarray(adapter["bias"])
    # The student of the tests has the global skip.
    _, low_label = fuse({"params": frozen}, *low)
    features = 0.0
    for name, made in (("decoder3", out["tail"]), ("decoder1", adapted)):
        lacking = np.asarray(label[name]) - _enlarged(low_label[name])
        features += distance(lacking, made)
    np.testing.assert_allclose(scalars2["loss_feature"], features, rtol=1e-5)
    np.testing.assert_allclose(
        scalars2["loss"], distance(image_t, image_s) + features, rtol=1e-5
    )


def _inner(params):
    """What belongs to the student itself."""
    return {key: params[key] for key in ("fusion", "sr")}


def test_the_teacher_trains_on_both_kinds_of_image(frozen):
    """A step sees the IR or the VIS of a pair, each for about half of the pairs."""
    config = teacher_config()
    config.loss.mu = 0.0
    # A teacher of zeros gives 0, so that its pixel loss is the image's mean square,
    # which tells IR (all 1.0) from VIS (all 0.0).
    params = jax.tree.map(jnp.zeros_like, frozen)
    batch = {
        "ir": np.full((64, 16, 16, 1), 255, np.uint8),
        "vis": np.zeros((64, 16, 16, 1), np.uint8),
    }
    step = jax.jit(steps.teacher_train_step(config, optimizer_of(config)))
    shares = []
    for number in (0, 1):
        state = create_state(config, params).replace(step=jnp.int32(number))
        _, scalars = step(state, {}, batch)
        shares.append(float(scalars["loss_pixel"]))
    assert shares[0] != shares[1]
    assert all(0.25 < share < 0.75 for share in shares)


# Devices


def _three_steps(config, devices, frozen, phase):
    """Parameters and scalars after three steps on a mesh, through `Run`'s own jit."""
    config.mesh.data = devices
    run = Run(config)
    run.frozen = jax.device_put(frozen, run.replicated)
    state = jax.device_put(
        create_state(config, random_params(config, 1)), run.replicated
    )
    history = []
    for number in range(3):
        batch = sharding.put_batch(random_batch(number, 8, SIZE), run.mesh)
        assert batch["ir"].addressable_shards[0].data.shape[0] == 8 // devices
        state, scalars = run.train_step(phase)(state, run.frozen, batch)
        history.append(jax.device_get(scalars))
    for leaf in jax.tree.leaves(state):
        assert leaf.sharding.is_fully_replicated
        assert len(leaf.sharding.device_set) == devices
    return jax.device_get(state.params), history


@pytest.mark.parametrize(
    ("name", "phase"), [("student", 1), ("student", 2), ("teacher", 1)]
)
def test_four_devices_train_as_one(name, phase, frozen, tiny_teacher):
    """Batch statistics, flips and gradients must be those of the global batch."""
    results = []
    for devices in (1, 4):
        if name == "teacher":
            config, weights = teacher_config(), {}
            config.optim.clip_norm = 10.0
        else:
            config, weights = student_config(tiny_teacher), frozen
            # Modules of the fusion part, which phase 1 trains alone.
            config.model.cea = config.model.dfag = phase == 1
        results.append(_three_steps(config, devices, weights, phase))
    (params1, history1), (params4, history4) = results
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5),
        params1,
        params4,
    )
    for row1, row4 in zip(history1, history4, strict=True):
        for key in row1:
            np.testing.assert_allclose(row1[key], row4[key], rtol=1e-3, err_msg=key)


# Validation


def _masked(batch, mask):
    return batch | {"mask": np.asarray(mask, np.float32)}


def test_validation_does_not_count_padding(frozen):
    step = jax.jit(val_steps.teacher_val_step(teacher_config()))
    batch = random_batch(0, 4, SIZE)
    sums, _ = step(frozen, {}, _masked(batch, [1, 1, 0, 0]))
    other = {k: np.concatenate([v[:2], 255 - v[2:]]) for k, v in batch.items()}
    sums_other, _ = step(frozen, {}, _masked(other, [1, 1, 0, 0]))
    assert sums["count"] == 2
    _assert_equal(sums, sums_other)
    everything, _ = step(frozen, {}, _masked(batch, [1, 1, 1, 1]))
    rest, _ = step(frozen, {}, _masked(batch, [0, 0, 1, 1]))
    for key, total in everything.items():
        np.testing.assert_allclose(total, sums[key] + rest[key], rtol=1e-5)


def _quality(a, b):
    """PSNR and SSIM of [H, W] images, from scikit-image."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    _, ssim = structural_similarity(
        a,
        b,
        data_range=1.0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    return peak_signal_noise_ratio(a, b, data_range=1.0), ssim[5:-5, 5:-5].mean()


def test_validation_scores_the_student_against_the_label(taken, frozen, fuse, student):
    config = student_config("unused")
    params = taken[0][2].params
    step = jax.jit(val_steps.student_val_step(config, TEACHER))
    batch = random_batch(5, 3, SIZE)
    sums, drawn = step(params, frozen, _masked(batch, [1, 1, 0]))

    ir, vis = (arrays.to_float(batch[key]) for key in ("ir", "vis"))
    low = arrays.degrade(ir, 2), arrays.degrade(vis, 2)
    label, _ = fuse({"params": frozen}, ir, vis)
    low_fused, _ = fuse({"params": frozen}, *low)
    image, _ = student({"params": _inner(params)}, *low)
    bicubic = arrays.resize_bicubic(low_fused, 2)

    pictures = {"": image, "_bicubic": bicubic}
    for name, picture in pictures.items():
        pairs = [
            _quality(np.clip(picture[i, ..., 0], 0, 1), np.clip(label[i, ..., 0], 0, 1))
            for i in (0, 1)
        ]
        psnr, ssim = np.sum(pairs, axis=0)
        np.testing.assert_allclose(sums[f"psnr{name}"], psnr, rtol=1e-4)
        np.testing.assert_allclose(sums[f"ssim{name}"], ssim, rtol=1e-3)
    distance = np.abs(np.asarray(image - label))[:2].mean(axis=(1, 2, 3)).sum()
    np.testing.assert_allclose(sums["loss_image"], distance, rtol=1e-5)

    # The decoder's last ReLUs, shut one by one by their biases.
    for shut in (0, 5, 16):
        bias = np.asarray(params["fusion"]["decoder4"]["bias"]).copy()
        bias[:shut] = -1e3
        decoder = params["fusion"]["decoder4"] | {"bias": bias}
        changed = params | {"fusion": params["fusion"] | {"decoder4": decoder}}
        alive = step(changed, frozen, _masked(batch, [1, 1, 0]))[0]["alive"]
        assert alive <= 2 * (16 - shut) / 16 and (alive > 0) == (shut < 16)

    wanted = {"ir": ir, "vis": vis, "bicubic": bicubic, "fused": image, "label": label}
    assert drawn.keys() == wanted.keys() == set(val_steps.PICTURES)
    for name, want in wanted.items():
        assert drawn[name].dtype == jnp.uint8
        exact = np.clip(np.asarray(want), 0, 1) * 255
        assert np.max(np.abs(drawn[name] - exact)) <= 0.51, name


def test_bfloat16_keeps_float32_parameters_and_losses(frozen):
    config = student_config("unused")
    config.dtype = "bfloat16"
    state = create_state(config, jax.device_put(random_params(config, 1)))
    step = steps.student_train_step(config, optimizer_of(config), TEACHER, phase=2)
    state, scalars = jax.jit(step)(state, frozen, random_batch(0, 2, SIZE))
    leaves = jax.tree.leaves((state.params, state.opt_state, scalars))
    dtypes = {leaf.dtype.name for leaf in leaves}
    assert dtypes == {"float32", "int32", "bool"}  # bool: the last step was finite
    assert np.isfinite(scalars["loss"])
    assert scalars["skipped"] == 0


def test_the_program_does_not_grow_with_the_number_of_rcabs():
    def lines(rcabs):
        config = student_x2.get_config()
        config.model.sr_rcabs = rcabs
        # Less to trace: the groups are alike, and the modules have no stack of RCABs.
        config.model.sr_groups = config.model.dfabs = 1
        config.model.cea = False
        optimizer = optimizer_of(config)
        step = steps.student_train_step(config, optimizer, TEACHER, phase=2)
        lowered = jax.jit(step).lower(*abstract_arguments(config, optimizer))
        return len(lowered.as_text().splitlines())

    assert lines(20) == lines(5) > 1000
