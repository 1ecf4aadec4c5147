"""Sizes: parameter counts and output shapes of every preset, and each config field."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpy_reference as ref
import pytest

from hkdnet_jax.models.presets import PRESETS, StudentConfig
from hkdnet_jax.models.student import FeatureAdapter, FusionPart, Student

COUNTS = {
    ("full", 2): 11_657_670,
    ("full", 3): 11_842_310,
    ("full", 4): 11_805_382,
    ("base", 2): 1_003_137,
    ("base", 3): 1_107_057,
    ("base", 4): 1_086_273,
    ("lite", 2): 381_729,
    ("lite", 3): 427_969,
    ("lite", 4): 418_721,
    ("tiny", 2): 21_835,
    ("tiny", 3): 24_755,
    ("tiny", 4): 24_171,
}
TINY = PRESETS["tiny"]


@functools.cache
def traced(config, scale, h=7, w=9):
    """Shapes of output, intermediates and parameters; nothing is computed."""
    image = jnp.zeros((2, h, w, 1))
    init = Student(config, scale).init_with_output
    (image, out), variables = jax.eval_shape(init, jax.random.key(0), image, image)
    return image, out, variables["params"]


def shapes(config, scale=2):
    """{"fusion/ir/conv/kernel": (3, 3, 1, 8), ...}"""
    leaves = jax.tree.leaves_with_path(traced(config, scale)[2])
    return {"/".join(key.key for key in path): leaf.shape for path, leaf in leaves}


def hand_count(c, branch_rcabs, dfabs, decoder, groups, rcabs, reduction, scale):
    """Parameters of the student, added up from the paper's list of layers."""

    def conv(inputs, outputs, side=3):
        return side * side * inputs * outputs + outputs

    squeezed = c // reduction
    rcab = 2 * conv(c, c) + conv(c, squeezed, side=1) + conv(squeezed, c, side=1)

    def group(n):
        return n * rcab + conv(c, c)

    dfab = 2 * rcab + 3 * conv(c, c) + 1
    infrared = conv(1, c) + group(branch_rcabs) + dfabs * dfab + conv(c, c)
    # CEA: 1x1 convolutions in, to B, and out; a scale for each of three modules.
    visible = conv(1, c) + 2 * group(branch_rcabs) + 3 * conv(c, c, side=1) + 3
    widths = (c, *decoder, 16)
    fusion = sum(conv(a, b) for a, b in itertools.pairwise(widths))
    upsampler = {2: conv(c, 4 * c), 3: conv(c, 9 * c), 4: 2 * conv(c, 4 * c)}[scale]
    sr = conv(16, c) + groups * group(rcabs) + conv(c, c) + upsampler
    return infrared + visible + fusion + sr + conv(c, 16) + conv(16, 1)


@pytest.mark.parametrize("preset,scale", COUNTS)
def test_parameter_count(preset, scale):
    params = traced(PRESETS[preset], scale)[2]
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert count == COUNTS[preset, scale]
    sizes = {
        "full": (64, 9, 6, (64, 64, 32), 5, 20, 16),
        "base": (48, 1, 1, (48, 48, 32), 2, 5, 12),
        "lite": (32, 1, 1, (32, 32, 32), 2, 3, 8),
        "tiny": (8, 1, 1, (8, 8, 8), 1, 2, 4),
    }[preset]
    assert count == hand_count(*sizes, scale)
    assert count <= {"base": 2_000_000, "lite": 1_000_000}.get(preset, count)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("preset,scale", COUNTS)
@pytest.mark.parametrize("h,w", [(7, 9), (13, 5)])
def test_output_is_exactly_scale_times_the_input(preset, scale, h, w):
    config = PRESETS[preset]
    image, out, _ = traced(config, scale, h, w)
    assert image.shape == (2, scale * h, scale * w, 1) and image.dtype == jnp.float32
    c = config.width
    low = dict.fromkeys(("branch_ir", "branch_vis", "fused"), c)
    low |= {"decoded": 16, "decoded_linear": 16}
    low |= dict.fromkeys(("corner", "position", "channel", "corner_mask"), c)
    high = {"upsampled": c, "tail": 16}
    assert {name: feature.shape for name, feature in out.items()} == {
        **{name: (2, h, w, n) for name, n in low.items()},
        **{name: (2, scale * h, scale * w, n) for name, n in high.items()},
    }


def test_full_preset_is_the_papers():
    assert PRESETS["full"] == StudentConfig()
    assert dataclasses.asdict(StudentConfig()) == {
        "width": 64,
        "branch_rcabs": 9,
        "dfabs": 6,
        "decoder": (64, 64, 32),
        "sr_groups": 5,
        "sr_rcabs": 20,
        "upsampler": "subpixel",
        "reduction": 16,
        "dfag": True,
        "cea": True,
        "stand_in_rcabs": 0,
        "attention_start": 0.0,
        "dfa_softmax": "spatial",
        "position_softmax": "row",
        "position_pool": 1,
        "position_keys": 0,
        "channel_softmax": "row",
        "corner_gamma": 0.7,
        "global_skip": False,
        "skip_alpha": 0.5,  # of no effect without the skip
        "skip_damping": 0.0,
        "skip_context": 0.0,
        "remat": "none",
    }


# --- what each field changes ----------------------------------------------------


def changed(**fields):
    """Names of parameters that appear, vanish or change shape against `tiny`."""
    old, new = shapes(TINY), shapes(dataclasses.replace(TINY, **fields))
    return {name for name in old | new if old.get(name) != new.get(name)}


@pytest.mark.parametrize(
    "fields,prefixes",
    [
        ({"branch_rcabs": 2}, ["fusion/ir/rg", "fusion/vis/rg1", "fusion/vis/rg2"]),
        ({"dfabs": 2}, ["fusion/ir/dfag"]),
        ({"sr_groups": 2}, ["sr/rg2"]),
        ({"sr_rcabs": 3}, ["sr/rg1"]),
        ({"dfag": False}, ["fusion/ir/dfag"]),
        (
            {"dfag": False, "stand_in_rcabs": 2},
            ["fusion/ir/dfag", "fusion/ir/stand_in"],
        ),
        ({"cea": False}, ["fusion/vis/cea"]),
        ({"decoder": (8, 6, 8)}, ["fusion/decoder2", "fusion/decoder3"]),
    ],
    ids=str,
)
def test_field_changes_these_parameters_only(fields, prefixes):
    names = changed(**fields)
    for name in names:
        assert name.startswith(tuple(f"{prefix}/" for prefix in prefixes)), name
    for prefix in prefixes:
        assert any(name.startswith(f"{prefix}/") for name in names), prefix


def test_branch_and_sr_depths_are_the_lengths_of_the_stacks():
    got = shapes(dataclasses.replace(TINY, branch_rcabs=3, sr_rcabs=5))
    kernel = "rcabs/rcab/conv1/kernel"
    assert got[f"fusion/ir/rg/{kernel}"] == (3, 3, 3, 8, 8)
    assert got[f"fusion/vis/rg2/{kernel}"] == (3, 3, 3, 8, 8)
    assert got[f"sr/rg1/{kernel}"] == (5, 3, 3, 8, 8)


def test_ablations_remove_exactly_their_module():
    for field, prefix in (("dfag", "fusion/ir/dfag/"), ("cea", "fusion/vis/cea/")):
        kept = {n: s for n, s in shapes(TINY).items() if not n.startswith(prefix)}
        assert shapes(dataclasses.replace(TINY, **{field: False})) == kept
        assert kept != shapes(TINY)


def test_reduction_changes_the_gates_only():
    names = changed(reduction=2)
    assert names and all("/gate/" in name for name in names)
    gate = "sr/rg1/rcabs/rcab/gate/down/kernel"
    assert shapes(dataclasses.replace(TINY, reduction=2))[gate] == (2, 8, 4)


def test_width_changes_both_branches_and_the_sr_part():
    got = shapes(dataclasses.replace(TINY, width=12))
    assert (
        got["fusion/ir/conv/kernel"] == got["fusion/vis/conv/kernel"] == (3, 3, 1, 12)
    )
    assert got["fusion/decoder1/kernel"] == (3, 3, 12, 8)
    assert got["fusion/decoder4/kernel"] == (3, 3, 8, 16)
    assert got["sr/head/kernel"] == (3, 3, 16, 12)
    assert got["sr/tail/kernel"] == (3, 3, 12, 16)


SAME_PARAMETERS = [
    {"dfa_softmax": "spatial"},
    {"position_softmax": "joint"},
    {"position_pool": 1},
    {"position_keys": 4},
    {"channel_softmax": "joint"},
    {"corner_gamma": 0.2},
]
KEEPS_PARAMETERS = [*SAME_PARAMETERS, {"global_skip": False}, {"remat": "full"}]


@pytest.mark.parametrize("fields", KEEPS_PARAMETERS, ids=str)
def test_reading_of_an_equation_keeps_the_parameters(fields):
    assert changed(**fields) == set()


@functools.cache
def fused(config):
    """Random parameters and images, and F_f^s of the fusion part for them."""
    params = ref.random_params(traced(TINY, 2)[2]["fusion"], seed=4)
    ir, vis = np.random.default_rng(5).random((2, 1, 6, 5, 1)).astype(np.float32)
    if not config.dfag:
        params["ir"].pop("dfag")
    if not config.cea:
        params["vis"].pop("cea")
    got, _ = jax.jit(FusionPart(config).apply)({"params": params}, ir, vis)
    return params, ir, vis, np.asarray(got)


@pytest.mark.parametrize(
    "fields", [*SAME_PARAMETERS, {"dfag": False}, {"cea": False}], ids=str
)
def test_field_changes_the_fused_feature_as_the_equations_say(fields):
    config = dataclasses.replace(TINY, **fields)
    params, ir, vis, got = fused(config)
    want, *_ = ref.fusion_part(params, ir, vis, config)
    scale = np.max(np.abs(want))
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * scale)
    *_, default = fused(TINY)
    assert np.max(np.abs(got - default)) > 1e-3 * scale


def test_adapter_maps_any_width_to_the_teachers():
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 8)).astype(np.float32)
    shape = jax.eval_shape(FeatureAdapter().init, jax.random.key(0), x)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(shape)) == 8 * 64 + 64
    params = ref.random_params(shape, seed=1)
    got = FeatureAdapter().apply({"params": params}, x)
    assert got.shape == (2, 3, 4, 64)
    np.testing.assert_allclose(got, ref.dense(params["conv"], x), atol=1e-5)
