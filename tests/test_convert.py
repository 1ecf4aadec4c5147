"""From a released checkpoint to a model directory that fuses."""

import collections
import io
import os
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import released_fixtures as fixtures
import safetensors.numpy
from PIL import Image
from scipy.signal import correlate2d

from hkdnet_jax import convert as command
from hkdnet_jax import fuse
from hkdnet_jax.common import trees
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.model_files import file_format
from hkdnet_jax.model_files.model import Model
from hkdnet_jax.released import reading
from hkdnet_jax.released.conversion import UNUSED, convert
from hkdnet_jax.released.network import Released

FUSION, SR = reading.STATE_DICTS


@pytest.fixture(scope="module")
def x2():
    """All tensors of a checkpoint of scale 2."""
    return fixtures.tensors(2)


@pytest.fixture(scope="module")
def x2_file(x2, tmp_path_factory):
    """The same as a .npz file."""
    path = tmp_path_factory.mktemp("checkpoint") / "x2.npz"
    np.savez(path, **x2)
    return path


def run(capfd, path, out, scale=2, more=()):
    """Exit code, stdout and error lines of the command."""
    options = ["--checkpoint", path, "--scale", scale, "--out", out, *more]
    code = command.main([str(option) for option in options])
    printed, errors = capfd.readouterr()
    return code, printed, errors.splitlines()


def assert_refused(capfd, path, out, *words, scale=2):
    """One sentence with these words, exit code 1, nothing written."""
    code, printed, errors = run(capfd, path, out, scale)
    assert code == 1 and not printed and len(errors) == 1
    assert errors[0].startswith("error: ") and errors[0].endswith(".")
    for word in (str(path), *words):
        assert word in errors[0]
    assert not out.exists()


# --- names, shapes and values -------------------------------------------------------


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_parameters_are_those_of_the_network(scale):
    image = jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32)
    network = Released(scale)
    wanted = jax.eval_shape(network.init, jax.random.key(0), image, image)["params"]
    trees.check_params(convert(fixtures.tensors(scale), scale), wanted)


def test_every_tensor_but_the_unused_ones_matters(x2):
    # No two tensors are alike, so equal sums of squares mean that all arrived. The
    # batch normalisations are folded and have a test of their own.
    params = convert(x2, 2)
    found = sum(np.sum(np.square(p, dtype=np.float64)) for p in _unfolded(params))
    folded = tuple(f"body_v.1.convp{i}." for i in range(1, 7))
    names = [n for n in x2 if n not in UNUSED and not n.startswith(folded)]
    wanted = sum(np.sum(np.square(x2[n], dtype=np.float64)) for n in names)
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


def _unfolded(params):
    for name, leaf in trees.flatten(params).items():
        if not name.split("/")[-2].endswith(("_in", "_out")):
            yield leaf


def test_unused_tensors_may_be_missing(x2):
    needed = {name: x for name, x in x2.items() if name not in UNUSED}
    assert len(x2) - len(needed) == 8
    got, want = convert(needed, 2), convert(x2, 2)
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_batch_normalisation_is_folded_into_its_convolution(x2):
    folded = convert(x2, 2)["fusion"]["vis"]["attention"]["channel_out"]
    name = "body_v.1.convp4"
    x = np.random.default_rng(0).normal(size=(64, 6, 5))
    kernel = x2[f"{name}.0.weight"].astype(np.float64)
    for o in (0, 63):
        plane = sum(correlate2d(x[i], kernel[o, i], "valid") for i in range(64))
        mean, var, scale, shift = (
            float(x2[f"{name}.1.{part}"][o])
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        want = (plane - mean) / np.sqrt(var + 1e-5) * scale + shift
        got = sum(
            correlate2d(x[i], folded["kernel"][:, :, i, o], "valid") for i in range(64)
        )
        np.testing.assert_allclose(got + folded["bias"][o], want, atol=1e-5)


@pytest.mark.parametrize("scale,stage,r", [(2, 0, 2), (3, 0, 3), (4, 1, 2)])
def test_upsampler_channels_are_in_the_order_of_our_pixel_shuffle(scale, stage, r):
    tensors = fixtures.tensors(scale)
    bias = tensors[f"uperfe.{2 * stage}.bias"]
    kernel = tensors[f"uperfe.{2 * stage}.weight"]
    got = convert(tensors, scale)["sr"]["upsampler"][f"conv{stage + 1}"]
    for channel, row, column in [(0, 0, 1), (5, 1, 0), (63, r - 1, r - 1)]:
        theirs = channel * r * r + row * r + column  # torch.nn.PixelShuffle
        ours = (row * r + column) * 64 + channel
        assert got["bias"][ours] == bias[theirs]
        np.testing.assert_array_equal(
            got["kernel"][:, :, :, ours], kernel[theirs].transpose(1, 2, 0)
        )


# --- what does not fit --------------------------------------------------------------


def test_the_report_names_what_is_missing_left_over_and_of_another_shape(x2):
    wrong = dict(x2)
    del wrong["head.0.bias"], wrong["body_v.1.convp2.1.running_var"]
    wrong["body_v.3.weight"] = np.zeros((1,), np.float32)
    wrong["body_i.1.body.2.gamma"] = np.zeros((2,), np.float32)
    wrong["conv5.conv2d.bias"] = wrong["conv5.conv2d.bias"].astype(np.float16)
    wrong["conv.weight"] = np.zeros((64, 64, 1, 1), np.float32)
    with pytest.raises(UserError) as error:
        convert(wrong, 2)
    assert str(error.value) == (
        "its tensors are not those of the released network (missing: "
        "body_v.1.convp2.1.running_var, head.0.bias; unexpected: body_v.3.weight; "
        "wrong: body_i.1.body.2.gamma is 2 float32 instead of 1 float32, "
        "conv5.conv2d.bias is 64 float16 instead of 64 float32, "
        "conv.weight is 64x64x1x1 float32 instead of 64x64x3x3 float32): "
        "give the authors' fu_srnet.pth.tar itself."
    )


@pytest.mark.parametrize("true,asked", [(2, 3), (4, 2), (2, 4)])
def test_another_scale_is_named(true, asked):
    with pytest.raises(UserError, match=f"of scale {true}, not {asked}: .*{true}, or"):
        convert(fixtures.tensors(true), asked)


@pytest.mark.parametrize("name", ["tail.bias", "body_v.1.convp3.1.running_var"])
@pytest.mark.parametrize("value", [np.nan, -1.0])
def test_values_that_are_not_finite(x2, name, value):
    tensors = x2 | {name: np.full_like(x2[name], value)}
    if name == "tail.bias" and value == -1.0:
        convert(tensors, 2)
        return
    # The deviation of a negative variance is not a number either.
    with pytest.raises(UserError, match="not finite"):
        convert(tensors, 2)


# --- the command --------------------------------------------------------------------


def test_converted_directory_fuses_as_the_authors_did(x2_file, tmp_path, capfd):
    out = tmp_path / "released"
    code, printed, errors = run(capfd, x2_file, out)
    assert code == 0 and not errors
    assert "Converted 1154 tensors" in printed and "other 8: conv.weight" in printed
    assert "--normalize minmax --stretch" in printed

    rng = np.random.default_rng(0)
    pictures = [rng.integers(30, 200, (9, 11)).astype(np.uint8) for _ in range(2)]
    for name, picture in zip(("ir", "vis"), pictures, strict=True):
        Image.fromarray(picture).save(tmp_path / f"{name}.png")
    options = ["--model", out, "--scale", 2, "--normalize", "minmax", "--stretch"]
    for name in ("ir", "vis", "out"):
        options += [f"--{name}", tmp_path / f"{name}.png"]
    assert fuse.main([str(option) for option in options]) == 0

    inputs = [(x - x.min()) / (x.max() - x.min()) for x in pictures]
    inputs = [jnp.asarray(x[None, :, :, None], jnp.float32) for x in inputs]
    params = convert(fixtures.tensors(2), 2)
    image, _ = jax.jit(Released(2).apply)({"params": params}, *inputs)
    image = np.asarray(image, np.float64)[0, :, :, 0]
    want = 255 * (image - image.min()) / (image.max() - image.min())
    got = np.asarray(Image.open(tmp_path / "out.png"))
    assert got.shape == (18, 22) and (got.min(), got.max()) == (0, 255)
    assert np.max(np.abs(got - want)) < 0.51


def test_safetensors_file_gives_the_same_model(x2, x2_file, tmp_path, capfd):
    file = tmp_path / "x2.safetensors"
    safetensors.numpy.save_file(x2, file)
    for path, name in ((file, "a"), (x2_file, "b")):
        assert run(capfd, path, tmp_path / name)[0] == 0
    a, b = (file_format.load_model(tmp_path / name) for name in "ab")
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_the_corner_of_a_cpu_is_part_of_the_model(x2_file, tmp_path, capfd):
    for skip in ("feature", "map"):
        more = [] if skip == "feature" else ["--corner-skip", skip]
        assert run(capfd, x2_file, tmp_path / skip, more=more)[0] == 0
        assert Model.load(tmp_path / skip).network == Released(2, skip)


def test_model_directory_of_another_scale_or_with_more_in_it_is_refused(tmp_path):
    params = {"sr": np.zeros(1, np.float32)}
    good = {"kind": "released", "scale": 2, "corner_skip": "map"}
    for change in (
        {"scale": 5},
        {"scale": True},
        {"corner_skip": "x"},
        {"corner_skip": 1},
        {"width": 3},
    ):
        file_format.save_model(tmp_path, good | change, params)
        with pytest.raises(UserError, match="does not describe a network"):
            Model.load(tmp_path)


def test_bad_files_are_refused_in_one_sentence(x2_file, tmp_path, capfd):
    out = tmp_path / "out"
    assert_refused(capfd, tmp_path / "none.npz", out, "is not a file")
    assert_refused(capfd, tmp_path, out, "is not a file")
    assert_refused(capfd, x2_file, out, "scale 2, not 3", scale=3)

    whole = x2_file.read_bytes()
    for suffix in ("npz", "safetensors"):
        cut = tmp_path / f"cut.{suffix}"
        cut.write_bytes(whole[: len(whole) // 2])
        assert_refused(capfd, cut, out, "damaged or not a checkpoint")

    other = tmp_path / "other.npz"
    np.savez(other, **{"conv1.weight": np.zeros((3, 3), np.float32)})
    assert_refused(capfd, other, out, "missing: conv1.conv2d.weight", "conv1.weight")
    np.savez(other, object=np.array([print], dtype=object))
    assert_refused(capfd, other, out, "damaged or not a checkpoint", "pickle")
    other.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    assert_refused(capfd, other, out, "git lfs pull")
    np.save(tmp_path / "array.npy", np.zeros(3))
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    assert_refused(capfd, tmp_path / "array.npz", out, "damaged or not a checkpoint")


def test_an_unwritable_folder_is_refused(x2_file, tmp_path, capfd):
    (tmp_path / "file").touch()
    code, printed, errors = run(capfd, x2_file, tmp_path / "file")
    assert code == 1 and not printed and len(errors) == 1
    assert "cannot be written" in errors[0]


def test_without_pytorch_the_remedy_is_named(tmp_path, capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    file = tmp_path / "fu_srnet.pth.tar"
    file.write_bytes(b"anything")
    assert_refused(capfd, file, tmp_path / "out", "hkdnet-jax[torch]", ".npz")


# --- with PyTorch -------------------------------------------------------------------


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="the extra torch")


@pytest.fixture(scope="module")
def checkpoint(torch):
    """The two state dicts, as `torch.nn.Module.state_dict` gives them."""

    def state(arrays):
        pairs = ((name, torch.from_numpy(x)) for name, x in arrays.items())
        return collections.OrderedDict(pairs)

    return {FUSION: state(fixtures.fusion_tensors()), SR: state(fixtures.sr_tensors(2))}


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_file_gives_the_same_model(
    torch, checkpoint, x2, tmp_path, capfd, zipped
):
    file = tmp_path / "fu_srnet.pth.tar"
    torch.save(checkpoint, file, _use_new_zipfile_serialization=zipped)
    code, printed, errors = run(capfd, file, tmp_path / "out")
    assert code == 0 and not errors and "Converted 1154 tensors" in printed
    config, params = file_format.load_model(tmp_path / "out")
    assert config == {"kind": "released", "scale": 2, "corner_skip": "feature"}
    jax.tree.map(np.testing.assert_array_equal, params, convert(x2, 2))

    whole = file.read_bytes()
    for share in (0, 100, len(whole) // 2, len(whole) - 100):
        file.write_bytes(whole[:share])
        assert_refused(capfd, file, tmp_path / "nothing")


class RunsACommand:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_torch_file_is_never_run(torch, checkpoint, tmp_path, capfd, zipped):
    file, trace = tmp_path / "evil.pth.tar", tmp_path / "trace"
    evil = checkpoint | {"epoch": RunsACommand(f"touch {trace}")}
    torch.save(evil, file, _use_new_zipfile_serialization=zipped)
    assert_refused(capfd, file, tmp_path / "out", "more than tensors", "system")
    assert not trace.exists()


def test_torch_files_that_hold_something_else(torch, checkpoint, tmp_path, capfd):
    file, out = tmp_path / "fu_srnet.pth.tar", tmp_path / "out"
    fusion, sr = checkpoint[FUSION], checkpoint[SR]
    scalar = torch.zeros(())
    for content, *words in (
        (checkpoint | {"epoch": 3}, "nothing else", "epoch"),
        ({FUSION: fusion}, "nothing else", FUSION),
        ([1, 2], "nothing else", "list"),
        (scalar, "nothing else", "Tensor"),
        ({FUSION: {**fusion, "note": "x"}, SR: sr}, "note", "not as a tensor"),
        ({FUSION: fusion, SR: {**sr, "conv.bias": scalar}}, "conv.bias", "twice"),
        ({FUSION: {**fusion, 5: scalar}, SR: sr}, "unexpected: 5"),
        ({FUSION: fusion, SR: scalar}, "damaged or not a checkpoint"),
        ({FUSION: {"a": scalar.bfloat16()}, SR: sr}, "BFloat16"),
    ):
        torch.save(content, file)
        assert_refused(capfd, file, out, *words)


def test_tensors_that_want_gradients_are_taken(torch, checkpoint, x2, tmp_path):
    parameters = {
        name: {key: torch.nn.Parameter(x, requires_grad=x.is_floating_point())}
        for name, state in checkpoint.items()
        for key, x in list(state.items())[:1]
    }
    file = tmp_path / "fu_srnet.pth.tar"
    buffer = io.BytesIO()
    torch.save(parameters, buffer)
    file.write_bytes(buffer.getvalue())
    for name, array in reading.read_checkpoint(file).items():
        np.testing.assert_array_equal(array, x2[name])
