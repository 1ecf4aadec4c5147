"""The precision of every product, read out of the lowered programs."""

import re

import jax
import jax.numpy as jnp
import pytest

from configs import base, teacher
from hkdnet_jax.measuring import slices
from hkdnet_jax.model_files import call
from hkdnet_jax.models.presets import PRESETS
from hkdnet_jax.models.student import Student
from hkdnet_jax.models.teacher import Teacher
from hkdnet_jax.released.network import Released
from hkdnet_jax.training import networks, steps

PLATFORMS = ("cpu", "tpu", "cuda")
# Modules of the student's in the name of a product; a scan's body has no outer name.
STUDENT = re.compile("Student|FeatureAdapter|rcabs|_ScannedRCAB|ChannelGate")
PRODUCT = re.compile(r"stablehlo\.(?:dot_general|convolution)\b.* loc\((#loc\d+)\)")
PRECISION = re.compile(r"\b(DEFAULT|HIGHEST|HIGH)\b")

# (channels in, out) of VGG16's convolutions up to relu3_3.
VGG = {"1_1": (3, 64), "1_2": (64, 64), "2_1": (64, 128), "2_2": (128, 128)}
VGG |= {"3_1": (128, 256), "3_2": (256, 256), "3_3": (256, 256)}


def products(function, args):
    """(name, precisions of both factors) of each product, by platform."""
    traced = jax.jit(function).trace(*args)
    found = {}
    for platform in PLATFORMS:
        lowered = traced.lower(lowering_platforms=(platform,))
        text = lowered.as_text(debug_info=True)
        names = dict(re.findall(r'^(#loc\d+) = loc\("([^"]*)"', text, re.MULTILINE))
        found[platform] = [
            (names[match[1]], tuple(PRECISION.findall(match[0])))
            for match in PRODUCT.finditer(text)
        ]
        kinds = ("stablehlo.dot_general", "stablehlo.convolution")
        assert len(found[platform]) == sum(map(text.count, kinds))
        assert all(len(factors) == 2 for _, factors in found[platform])
    return found


def student_config(precision):
    """A small student's run, wide enough for the CPU's own convolution gradients."""
    config = base.student(2, "tiny")
    config.model.width = 32
    config.precision = precision
    return config


@pytest.mark.parametrize("precision", ["default", "highest"])
def test_the_students_products_follow_the_configuration(precision):
    config = student_config(precision)
    optimizer = slices._optimizer(config)
    args = slices.abstract_arguments(config, optimizer)
    step = steps.train_step(config, optimizer, networks.build_teacher(config), phase=2)
    for found in products(step, args).values():
        students = [(name, used) for name, used in found if STUDENT.search(name)]
        others = [(name, used) for name, used in found if not STUDENT.search(name)]
        assert {used for _, used in students} == {(precision.upper(),) * 2}
        assert {used for _, used in others} == {("HIGHEST",) * 2}
        # Both passes of the student and its adapter, the teacher, the degradation.
        for part in ("/jvp(Student)", "transpose(jvp(Student", "transpose(jvp(Feature"):
            assert any(part in name for name, _ in students)
        # The label, and the low-resolution features, whose picture is not made.
        assert sum("Teacher" in name for name, _ in others) == 12 + 11
        assert sum("Teacher" not in name for name, _ in others) >= 2


def test_the_teachers_step_is_at_the_highest():
    config = teacher.get_config("tiny")
    config.loss.percep = 1.0
    config.precision = "default"
    optimizer = slices._optimizer(config)
    state, _, batch = slices.abstract_arguments(config, optimizer)
    frozen = {
        f"conv{name}": {
            "kernel": jax.ShapeDtypeStruct((3, 3, *sizes), jnp.float32),
            "bias": jax.ShapeDtypeStruct(sizes[1:], jnp.float32),
        }
        for name, sizes in VGG.items()
    }
    step = steps.train_step(config, optimizer, networks.build_teacher(config), phase=1)
    for found in products(step, (state, frozen, batch)).values():
        assert {used for _, used in found} == {("HIGHEST",) * 2}
        # The teacher's 12 forward, VGG16's 7 of output and target; both backward.
        assert len(found) > 12 + 12 + 14 + 7


@pytest.mark.parametrize(
    "network", [Student(PRESETS["lite"], 3), Teacher(), Released(2)], ids=type
)
def test_fusing_is_at_the_highest(network):
    image = jax.ShapeDtypeStruct((1, 40, 48, 1), jnp.float32)
    shapes = jax.eval_shape(network.init, jax.random.key(0), image, image)["params"]

    def forward(params, ir, vis):
        return call._forward(network, params, ir, vis)

    for found in products(forward, (shapes, image, image)).values():
        assert {used for _, used in found} == {("HIGHEST",) * 2}
        assert len(found) > 7


def test_a_precision_that_is_left_out_is_seen():
    """Such a product says DEFAULT, which the tests above do not accept."""
    for found in products(jnp.matmul, (jnp.ones((3, 3)),) * 2).values():
        assert [used for _, used in found] == [("DEFAULT", "DEFAULT")]


def test_bfloat16_leaves_the_teacher_in_float32():
    config = student_config("highest")
    config.dtype = "bfloat16"
    image = jax.ShapeDtypeStruct((1, 16, 16, 1), jnp.float32)
    networks_ = {"student": networks.build_student(config)}
    networks_ |= {"teacher": networks.build_teacher(config)}
    for kind, network in networks_.items():
        params = jax.eval_shape(network.init, jax.random.key(0), image, image)
        jaxpr = str(jax.make_jaxpr(network.apply)(params, image, image))
        assert ("bf16" in jaxpr) == (kind == "student")


def test_bfloat16_leaves_the_image_layer_in_float32():
    config = student_config("highest")
    config.dtype = "bfloat16"
    network = networks.build_student(config)
    image = jax.ShapeDtypeStruct((1, 16, 16, 1), jnp.float32)
    params = jax.eval_shape(network.init, jax.random.key(0), image, image)
    program = jax.jit(network.apply).lower(params, image, image).as_text()
    kernels = re.findall(r"convolution.*tensor<3x3x(\w+)x(\w+)x(\w+)>\) ->", program)
    assert [dtype for *_, o, dtype in kernels if o == "1"] == ["f32"]
    assert {dtype for *_, o, dtype in kernels if o != "1"} == {"bf16"}
    picture, _ = jax.eval_shape(network.apply, params, image, image)
    assert picture.dtype == jnp.float32
