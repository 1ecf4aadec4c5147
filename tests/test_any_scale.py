"""A model that enlarges by any factor: in Python, and through each path of `fuse`."""

import dataclasses
import functools

import command_fixtures
import jax
import numpy as np
import pytest
from command_fixtures import TINIEST, make_pair, random_params, write
from PIL import Image

import hkdnet_jax
from hkdnet_jax import fuse, pretrained
from hkdnet_jax.baselines import registry
from hkdnet_jax.baselines.weights import Weights
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.exported import formats
from hkdnet_jax.inference import groups, programs, tiles
from hkdnet_jax.inference.shapes import cover
from hkdnet_jax.model_files import file_format
from hkdnet_jax.models.student import Student
from hkdnet_jax.ops.places import enlarged

CONFIG = dataclasses.replace(TINIEST, upsampler="continuous")
H, W = 13, 17


@functools.cache
def jitted_apply(network):
    return jax.jit(lambda params, *pair: network.apply({"params": params}, *pair)[0])


run = functools.partial(command_fixtures.run, fuse)
fails = functools.partial(command_fixtures.fails, fuse)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A folder of weights with a model of any scale, under the name of ours."""
    folder = tmp_path_factory.mktemp("weights") / pretrained.ANY
    description = {"kind": "student", "scale": 2, "model": dataclasses.asdict(CONFIG)}
    params = random_params(Student(CONFIG, 2), seed=1)
    file_format.save_model(folder, description, params)
    return folder


def read(path):
    return np.asarray(Image.open(path))


def files(root, stem, height=H, width=W):
    return [
        write(root / kind / f"{stem}.png", image)
        for kind, image in zip(("ir", "vis"), make_pair(0, height, width), strict=True)
    ]


def test_load_and_at(directory):
    model = hkdnet_jax.load(directory)
    assert model.scale == 2 and model.any_scale
    for scale in (1.5, 2.5, 3.33333, 4):
        one = hkdnet_jax.load(directory, scale=scale)
        picture = one(*make_pair(0, H, W))
        assert picture.shape == tuple(enlarged(side, scale) for side in (H, W))
        np.testing.assert_array_equal(picture, model.at(scale)(*make_pair(0, H, W)))
    assert model.at(3.33333).scale == 3.3333 and model.at(3.0).scale == 3
    padded = model.at(2.5)(*make_pair(0, H, W), pad_to=(H + 3, W + 4))
    alone = model.at(2.5)(*make_pair(0, H, W))
    assert np.abs(padded.astype(int) - alone).max() <= 1


def test_scales_that_are_not_to_be_had(directory, models):
    with pytest.raises(UserError, match=r"scale is 4\.5; give one of .* 1\.5 to 4"):
        hkdnet_jax.load(directory, scale=4.5)
    with pytest.raises(UserError, match=r"enlarges 1\.5 to 4 times, not 1: leave"):
        hkdnet_jax.load(directory, scale=1)
    with pytest.raises(UserError, match=r"has scale 2, not 2\.5: leave scale out"):
        hkdnet_jax.load(models[2], scale=2.5)
    with pytest.raises(UserError, match=r"lite cannot be used at --scale 2\.5"):
        pretrained.locate("lite", 2.5)
    if not (pretrained.locate("teacher", 1).parent / pretrained.ANY).exists():
        with pytest.raises(UserError, match=r"no model lite_any yet.*student_any"):
            hkdnet_jax.load(2.5)
    with pytest.raises(UserError, match=r"takes any scale.*onnx"):
        formats.convert(directory, "onnx")
    assert formats.convert(directory, "npz")


def test_a_pair_and_a_folder_of_sizes(directory, tmp_path, capfd, monkeypatch):
    ir, vis = files(tmp_path, "a")
    files(tmp_path, "b", H + 3, W + 2)
    files(tmp_path, "c", H + 1, W + 6)
    model = hkdnet_jax.load(directory, scale=2.5)
    flags = "--model", directory, "--scale", 2.5
    out = tmp_path / "one.png"
    code, said, _ = run(capfd, "--ir", ir, "--vis", vis, "--out", out, *flags)
    assert (code, said) == (
        0,
        f"Wrote {out} ({enlarged(W, 2.5)}x{enlarged(H, 2.5)}).\n",
    )
    want = model(*make_pair(0, H, W))
    np.testing.assert_array_equal(read(out), want)

    monkeypatch.setattr(groups, "cover", functools.partial(cover, most=1))
    folder = tmp_path / "many"
    args = "--ir", ir.parent, "--vis", vis.parent, "--out", folder
    assert run(capfd, *args, *flags)[0] == 0
    for stem, h, w in (("a", H, W), ("b", H + 3, W + 2), ("c", H + 1, W + 6)):
        picture = read(folder / f"{stem}.png")
        assert picture.shape == (enlarged(h, 2.5), enlarged(w, 2.5))
        off = np.abs(picture.astype(int) - model(*make_pair(0, h, w)))
        assert off.max() <= 1 and off.mean() < 0.05


def test_rows_that_are_split_over_devices(directory, monkeypatch):
    monkeypatch.setattr(programs, "_MIN_ROWS", 4)
    model = hkdnet_jax.load(directory, scale=2.5)
    for height, parts in ((16, 4), (20, 2)):  # 20 rows become 50
        program = programs.choose(model, (height, W), 1, jax.devices())
        assert program.mesh.size == parts
        pair = [np.float32(x)[None, ..., None] / 255 for x in make_pair(0, height, W)]
        got = np.asarray(program.run(model.params, *pair))
        want = np.asarray(jitted_apply(model.network)(model.params, *pair))
        np.testing.assert_allclose(got, want, atol=2e-6 * np.abs(want).max())


def test_tiles(directory, tmp_path, capfd):
    height, width = 71, 101
    ir, vis = files(tmp_path, "large", height, width)
    args = "--ir", ir, "--vis", vis, "--out", tmp_path / "o.png", "--model", directory
    code, said, _ = run(capfd, *args, "--scale", 2.25, "--tile", 64)
    assert code == 0 and "cut into 4 tiles" in said
    want = hkdnet_jax.load(directory, scale=2.25)(*make_pair(0, height, width))
    picture = read(tmp_path / "o.png")
    assert picture.shape == want.shape == (160, 227)
    # The gates see a tile alone; a shift of a pixel would be off by far more.
    off = np.abs(picture.astype(int) - want)
    assert off.mean() < 2.5
    moved = np.abs(want[1:].astype(int) - want[:-1]).mean()
    assert moved > 8 * off.mean()
    says = ["Tiles of 64 pixels", "scale 2.6667", "such as 2.65"]
    fails(capfd, *args, "--scale", 2.6667, "--tile", 64, says=says)


@pytest.mark.parametrize("scale", [1.5, 2.5, 1.6875, 3.2])
def test_tiles_begin_on_whole_pixels(scale):
    for side in range(65, 300, 13):
        shape = (side, side + 31)
        piece = tiles.tile_shape(shape, 64, scale)
        places = np.array(tiles.corners(shape, piece, scale))
        assert max(piece) <= 64 and places.min() == 0
        assert [*places.max(0)] == [a - b for a, b in zip(shape, piece, strict=True)]
        large = places * scale
        np.testing.assert_array_equal(large, np.round(large))
        parts = np.ones((len(places), *(enlarged(s, scale) for s in piece)), np.float32)
        whole = tiles.blend(parts, [tuple(p) for p in places.tolist()], shape, scale)
        assert whole.shape == tuple(enlarged(s, scale) for s in shape)
        np.testing.assert_allclose(whole, 1, atol=1e-6)


@pytest.mark.parametrize("scale", ["0.5", "4.1", "1.2", "nan"])
def test_a_flag_out_of_range(scale, directory, tmp_path, capfd):
    ir, vis = files(tmp_path, "a")
    args = "--ir", ir, "--vis", vis, "--out", tmp_path / "o.png"
    with pytest.raises(SystemExit) as stopped:
        run(capfd, *args, "--model", directory, "--scale", scale)
    assert stopped.value.code == 2
    said = capfd.readouterr().err
    assert f"{scale} is not 1 or a number from 1.5 to 4" in said


def test_a_flag_that_is_no_number(tmp_path, capfd):
    ir, vis = files(tmp_path, "a")
    with pytest.raises(SystemExit):
        run(capfd, "--ir", ir, "--vis", vis, "--out", "o.png", "--scale", "two")
    assert "argument --scale: 'two' is not a number" in capfd.readouterr().err


def test_another_model_says_what_it_lacks(models, tmp_path, capfd):
    ir, vis = files(tmp_path, "a")
    args = "--ir", ir, "--vis", vis, "--out", tmp_path / "o.png", "--scale", 2.5
    says = ["--scale 2.5", "scale 2", "student_any"]
    fails(capfd, *args, "--model", models[2], says=says)


def test_as_a_method_of_compare(directory):
    method = registry.find(pretrained.ANY, Weights(directory.parent))
    ir, vis = (np.float32(x) / 255 for x in make_pair(0, 12, 16))
    want = hkdnet_jax.load(directory, scale=2.5)(
        ir, vis, depth="float", ir_range="full", vis_range="full"
    )
    np.testing.assert_allclose(np.clip(method(ir, vis, 2.5), 0, 1), want, atol=1e-6)
    assert method(ir, vis, 1).shape == (12, 16)
    with pytest.raises(UserError, match=r"lite_any enlarges 1\.5 to 4 times, not 5"):
        method(ir, vis, 5)
