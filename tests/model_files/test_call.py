"""Calling a model with arrays of any kind: dtypes, layouts, levels, depths, threads."""

import doctest
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command_fixtures import H, W, make_pair
from fuse_fixtures import raw_output
from PIL import Image

from hkdnet_jax.common import levels, palettes
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.model_files import call
from hkdnet_jax.model_files import model as model_module
from hkdnet_jax.model_files.model import Model

IR, VIS = make_pair()
RNG = np.random.default_rng(5)
RGB = RNG.integers(0, 256, (H, W, 3), dtype=np.uint8)
FULL = {"ir_range": "full", "vis_range": "full"}


@pytest.fixture(scope="module")
def model(models):
    return Model.load(models[2])


@pytest.fixture(scope="module")
def plain(model):
    return model(IR, VIS)


def layouts(image):
    """The same image, in other forms."""
    wide = np.zeros((2 * H, 3 * W), image.dtype)
    wide[::2, ::3] = image
    read_only = image.copy()
    read_only.flags.writeable = False
    return {
        "strided": wide[::2, ::3],
        "reversed": image[::-1, ::-1].copy()[::-1, ::-1],
        "by columns": np.asfortranarray(image),
        "read-only": read_only,
        "jax": jnp.asarray(image),
        "PIL": Image.fromarray(image),
    }


@pytest.mark.parametrize("form", layouts(IR))
def test_forms_of_an_image(model, plain, form):
    picture = model(layouts(IR)[form], layouts(VIS)[form])
    np.testing.assert_array_equal(picture, plain)


def test_the_result_may_be_written_to(model):
    for picture in (model(IR, VIS), model(IR[None], VIS[None])):
        picture[..., :2, :] = 255
        assert picture.flags.writeable


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["u2", "u4", "i2", "i4", "f2", "f4", "f8"])
def test_a_range_means_the_same_for_every_dtype(model, plain, order, dtype):
    # 2040 levels are eight times those of 8 bits, exact even in float16.
    ir, vis = (
        (image.astype(int) * 8 - 1000).astype(np.dtype(dtype).newbyteorder(order))
        if dtype[0] != "u"
        else (image.astype(int) * 8 + 1000).astype(np.dtype(dtype).newbyteorder(order))
        for image in (IR, VIS)
    )
    start = 1000 if dtype[0] == "u" else -1000
    given = (start, start + 2040)
    picture = model(ir, vis, ir_range=given, vis_range=given)
    np.testing.assert_array_equal(picture, plain)


def test_full_is_what_the_dtype_can_hold(model, plain):
    deep = [image.astype(np.uint16) * 257 for image in (IR, VIS)]
    np.testing.assert_array_equal(model(*deep, **FULL), plain)
    unit = [(image / 255).astype(np.float32) for image in (IR, VIS)]
    np.testing.assert_array_equal(model(*unit, **FULL), plain)
    np.testing.assert_array_equal(model(IR, VIS, **FULL), plain)


def test_auto_takes_robust_quantiles_of_more_than_8_bits(model):
    deep = IR.astype(np.uint16) * 3 + 7000
    found = levels.robust_range([levels.sample(deep)])
    expected = model(deep, VIS, ir_range=tuple(found))
    np.testing.assert_array_equal(model(deep, VIS), expected)
    deep[3, 4] = 65535  # a hot pixel
    dirty = model(deep, VIS).astype(int)
    away = np.ones(dirty.shape, bool)
    away[:16, :18] = False
    assert np.abs(dirty - expected)[away].max() <= 6


def test_colour_counts_as_luma(model):
    luma = np.round(RGB @ [0.298936, 0.587043, 0.114021]).astype(np.uint8)
    expected = model(IR, luma).astype(int)
    assert np.abs(model(IR, RGB, color="gray") - expected).max() <= 1
    for mode in ("RGB", "RGBA", "CMYK"):
        images = Image.fromarray(IR), Image.fromarray(RGB).convert(mode)
        picture = model(*images, color="gray")
        assert np.abs(picture - expected).max() <= 2


@pytest.mark.parametrize("mode", ["1", "LA", "P", "I", "F", "I;16", "I;16B"])
def test_other_modes_of_pil(model, plain, mode):
    if mode in ("I", "F"):
        image = Image.fromarray(IR.astype("i4" if mode == "I" else "f4"))
        given = {"ir_range": (0, 255)}
    elif mode.startswith("I;16"):
        image = Image.fromarray(IR.astype(">u2" if mode == "I;16B" else "<u2"))
        given = {"ir_range": (0, 255)}
    elif mode == "1":
        image, given = Image.fromarray(IR > 99), {}
        plain = model(np.where(IR > 99, 255, 0).astype(np.uint8), VIS)
    else:
        image, given = Image.fromarray(IR).convert(mode), {}
    np.testing.assert_array_equal(model(image, VIS, **given), plain)


def test_batches(model, monkeypatch):
    monkeypatch.setattr(call, "PIXELS_AT_ONCE", 2 * H * W)
    pairs = [make_pair(seed) for seed in range(5)]
    irs, viss = (np.stack(images) for images in zip(*pairs, strict=True))
    pictures = model(irs, viss)
    assert pictures.shape == (5, 2 * H, 2 * W)
    for picture, pair in zip(pictures, pairs, strict=True):
        assert np.abs(picture.astype(int) - model(*pair)).max() <= 1
    colours = np.repeat(viss[..., None], 3, axis=-1)
    gray = np.repeat(pictures[..., None], 3, axis=-1).astype(int)
    assert np.abs(model(irs, colours) - gray).max() <= 1
    np.testing.assert_array_equal(model(irs, colours, color="gray"), pictures)


def test_a_batch_shares_its_range_unless_each_image_takes_its_own(model):
    deep = np.stack([IR.astype(np.uint16) * 3 + start for start in (7000, 7400)])
    viss = np.stack([VIS, VIS])
    shared = levels.pooled(deep)
    expected = [model(x, VIS, ir_range=tuple(shared)) for x in deep]
    assert np.abs(model(deep, viss).astype(int) - expected).max() <= 1
    alone = model(deep, viss, range_per="image").astype(int)
    assert np.abs(alone - [model(x, VIS) for x in deep]).max() <= 1
    assert np.abs(alone - expected).max() > 20


@pytest.mark.parametrize(
    ("depth", "largest"), [("8", 255), ("16", 65535), ("float", 1)]
)
def test_depths(models, depth, largest):
    model = Model.load(models[1])
    raw = np.asarray(raw_output(models[1], 1, IR / 255, VIS / 255)).clip(0, 1)
    picture = model(IR, VIS, depth=depth)
    dtypes = {"8": np.uint8, "16": np.uint16, "float": np.float32}
    assert picture.dtype == dtypes[depth]
    error = 1e-6 if depth == "float" else 0.51
    assert np.abs(picture - raw * largest).max() <= error
    assert picture.min() >= 0 and picture.max() <= largest


@pytest.mark.parametrize("options", [{"depth": "16", "stretch": True}, {}])
def test_padded_arrays_change_nothing(model, options):
    exact = model(IR, VIS, **options).astype(int)
    padded = model(IR, VIS, pad_to=(H + 3, W + 7), **options)
    assert padded.shape == exact.shape
    # A level of 8 bits may fall on the other side of one half.
    assert abs(padded - exact).max() <= (2 if options else 1)
    batch = model(np.stack([IR, VIS]), np.stack([VIS, IR]), pad_to=(H + 3, W + 7))
    assert batch.shape == (2, *exact.shape)
    if not options:
        assert abs(batch[0] - exact).max() <= 1


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_a_flat_pair_is_flat_when_it_is_stretched(models, scale):
    model = Model.load(models[scale])
    flat = np.full((H, W), 77, np.uint8)
    assert not model(flat, flat, stretch=True).any()
    assert not model(flat[None], flat[None], stretch=True, depth="float").any()
    # One flat picture alone is nothing to be flattened.
    assert np.ptp(model(flat, VIS, stretch=True)) == 255
    both = model(np.stack([flat, IR]), np.stack([flat, VIS]), stretch=True)
    assert not both[0].any() and np.ptp(both[1]) == 255


def test_false_colours(model):
    colours = np.round(palettes.load("rainbow")[IR]).astype(np.uint8)
    expected = model(palettes.invert(colours, "rainbow"), VIS)
    with pytest.warns(UserWarning, match=r"ir: It looks drawn in false colours.* give"):
        model(colours, VIS)
    picture = model(colours, VIS, ir_palette="rainbow")
    np.testing.assert_array_equal(picture, expected)
    with pytest.raises(UserError, match=r"nothing\.csv cannot be read as a palette"):
        model(colours, VIS, ir_palette="nothing.csv")


def test_threads_share_a_model(model):
    sizes = [(H, W), (H + 1, W), (H, W + 1)]
    pairs = [make_pair(seed, *size) for seed, size in enumerate(sizes)]
    with ThreadPoolExecutor(6) as pool:
        pictures = list(pool.map(lambda n: model(*pairs[n % 3]), range(12)))
    for number, picture in enumerate(pictures):
        np.testing.assert_array_equal(picture, pictures[number % 3])
        assert picture.shape == tuple(2 * side for side in sizes[number % 3])


def test_with_64_bits_in_the_calling_program(model, plain):
    with jax.enable_x64(True):
        np.testing.assert_array_equal(model(IR, VIS), plain)
        assert model(IR, VIS, depth="float", stretch=True).dtype == np.float32
        assert model(IR, VIS, depth="16").dtype == np.uint16


@pytest.mark.parametrize(
    ("ir", "vis", "says"),
    [
        (IR.astype(int), VIS, r"ir must be an array of uint8.*not an array of int64"),
        (IR > 3, VIS, "ir must be an array of .*, not an array of bool"),
        (IR, VIS.astype(complex), "vis must be an array .* of complex128"),
        (IR, np.array([["a"]]), "vis must be an array .* of <U1"),
        (
            IR,
            VIS.tolist(),
            "vis must be an array .*, or a PIL image, not <class 'list'>",
        ),
        ("ir.png", VIS, "ir must be an array .*, not <class 'str'>"),
        (None, VIS, "ir must be an array .*, not <class 'NoneType'>"),
        (jnp.zeros((9, 9), jnp.bfloat16), VIS, "not an array of bfloat16"),
    ],
)
def test_what_is_no_image(model, ir, vis, says):
    with pytest.raises(TypeError, match=says):
        model(ir, vis)


@pytest.mark.parametrize(
    ("ir", "vis", "says"),
    [
        (IR, VIS[:, 1:], f"one size, got 1 of {W}x{H} and 1 of {W - 1}x{H}"),
        (IR, VIS[None], "one size"),
        (IR[None], np.stack([VIS, VIS]), f"got 1 of {W}x{H} and 2 of {W}x{H}"),
        (IR[:7], VIS[:7], f"at least 8 pixels per side, got 1 of {W}x7"),
        (IR[None][:0], VIS[None][:0], "at least 8 pixels per side, got 0 of"),
        (IR[0], VIS[0], r"ir must be \[H, W\], .* not of shape \(23,\)"),
        (IR[None, None], VIS, "ir must be .* not of shape"),
    ],
)
def test_shapes_that_do_not_fit(model, ir, vis, says):
    with pytest.raises(ValueError, match=says):
        model(ir, vis)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"ir_range": "none"}, ValueError, "'none' is not a range"),
        ({"vis_range": 7}, TypeError, "vis_range must be 'auto', 'full' or a pair"),
        ({"ir_range": (1, 2, 3)}, TypeError, "ir_range must be 'auto'"),
        (
            {"ir_range": (9, 7)},
            ValueError,
            "ir_range must be a pair of which the first",
        ),
        ({"normalize": "none"}, ValueError, "normalize must be one of .*'none'"),
        ({"range_per": "folder"}, ValueError, "range_per must be one of"),
        ({"depth": 8}, ValueError, "depth must be one of .*, got 8"),
        ({"pad_to": (H, W - 1)}, ValueError, "pad_to .* is smaller than the images"),
    ],
)
def test_options_that_are_unknown(model, options, error, says):
    with pytest.raises(error, match=says):
        model(IR, VIS, **options)


def test_the_examples_of_the_documentation():
    result = doctest.testmod(model_module)
    assert result.attempted >= 7 and result.failed == 0
