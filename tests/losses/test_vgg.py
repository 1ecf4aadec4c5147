"""VGG16 features against SciPy; loading, fetching and their errors."""

import functools
import hashlib
import http.server
import os
import threading
from pathlib import Path

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage, signal
from vgg_fixtures import SHAPES

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.losses import teacher, vgg

REMEDIES = r"config\.loss\.vgg_path=FILE, .*config\.loss\.percep=0\.$"


@functools.cache
def made_up_params() -> dict:
    """Random weights that keep activations of the order of their input."""
    rng = np.random.default_rng(0)
    return {
        name: {
            "kernel": rng.normal(0, np.sqrt(2 / (9 * i)), (3, 3, i, o)).astype("f4"),
            "bias": rng.normal(0, 5, o).astype("f4"),
        }
        for name, (i, o) in SHAPES.items()
    }


def first_layers(count: int) -> dict:
    return dict(list(made_up_params().items())[:count])


def npz_arrays(params: dict) -> dict:
    return {
        f"{n}/{part}": array for n, p in params.items() for part, array in p.items()
    }


def write_npz(file: Path, params: dict) -> Path:
    np.savez(file, **npz_arrays(params))
    return file


def write_h5(file: Path, params: dict, names: str = "{0}/{0}_{1}_1:0") -> Path:
    """A file with Keras's layer names; the default is the published file's style."""
    with h5py.File(file, "w") as data:
        for name, parts in params.items():
            layer = name.replace("conv", "block").replace("_", "_conv")
            data[names.format(layer, "W")] = parts["kernel"]
            data[names.format(layer, "b")] = parts["bias"]
        data.create_group(names.split("{")[0] + "block1_pool")
    return file


@pytest.fixture(scope="session")
def real_params() -> dict:
    """The ImageNet weights, which lie beside the folder of real data sets."""
    folder = os.environ.get("HKDNET_DATA")
    if not folder:
        pytest.skip("HKDNET_DATA is not set: no VGG16 weights to test on")
    file = Path(folder).parent / "weights" / "vgg16_conv_to_3_3.npz"
    if not file.is_file():
        pytest.skip(f"{file} is missing: no VGG16 weights to test on")
    return vgg.load(str(file))


@pytest.fixture(params=["made_up", "real"])
def params(request) -> dict:
    if request.param == "made_up":
        return made_up_params()
    return request.getfixturevalue("real_params")


def gray_images(height: int, width: int, count: int = 1) -> np.ndarray:
    noise = np.random.default_rng(1).random((count, height, width, 1))
    noise = ndimage.gaussian_filter(noise, (0, 1, 1, 0))
    return ((noise - noise.min()) / np.ptp(noise)).astype(np.float32)


def reference_features(params: dict, image: np.ndarray) -> dict[str, np.ndarray]:
    """VGG16 of one gray image [H, W] in float64: Caffe input, BGR, zero padding."""
    image = image.astype(np.float64) * 255
    x = np.stack([image - 103.939, image - 116.779, image - 123.68], axis=-1)
    found = {}
    for name, parts in params.items():
        if name in ("conv2_1", "conv3_1"):
            h, w = x.shape[0] // 2, x.shape[1] // 2
            y = np.empty((h, w, x.shape[2]))
            for i in range(h):
                for j in range(w):
                    y[i, j] = x[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].max(axis=(0, 1))
            x = y
        padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
        kernels = np.moveaxis(parts["kernel"].astype(np.float64), -1, 0)
        x = np.concatenate(
            [signal.correlate(padded, k, "valid", "direct") for k in kernels], axis=-1
        )
        x = np.maximum(x + parts["bias"], 0)
        found[name.replace("conv", "relu")] = x
    return found


# features


@pytest.mark.parametrize("size", [(12, 16), (13, 11)])
def test_features_equal_scipy(params, size):
    image = gray_images(*size)
    expected = reference_features(params, image[0, ..., 0])
    got = vgg.features(params, jnp.asarray(image), ("relu3_3", "relu1_1", "relu2_2"))
    assert got.keys() == {"relu1_1", "relu2_2", "relu3_3"}
    for layer, value in got.items():
        assert value.dtype == jnp.float32
        assert value.shape == (1, *expected[layer].shape)
        scale = expected[layer].max()
        assert scale > 10
        np.testing.assert_allclose(value[0], expected[layer], atol=2e-6 * scale, rtol=0)


def test_images_of_a_batch_do_not_mix(params):
    images = jnp.asarray(gray_images(16, 12, 3))
    together = vgg.features(params, images, ["relu2_2"])["relu2_2"]
    for n in range(3):
        alone = vgg.features(params, images[n : n + 1], ["relu2_2"])["relu2_2"]
        np.testing.assert_allclose(together[n], alone[0], rtol=1e-4, atol=1e-3)


def test_features_go_no_deeper_than_asked():
    x = jnp.zeros((1, 16, 16, 1))
    for layers, count in (([], 0), (["relu1_1"], 1), (["relu2_2", "relu1_2"], 4)):
        jaxpr = jax.make_jaxpr(
            lambda x, n=layers: vgg.features(made_up_params(), x, n)
        )(x)
        assert str(jaxpr).count("conv_general_dilated[") == count
    got = vgg.features(first_layers(4), x, ["relu2_2"])
    assert got["relu2_2"].shape == (1, 8, 8, 128)


def test_bfloat16_images_give_float32_features():
    x = jnp.asarray(gray_images(16, 16), jnp.bfloat16)
    got = vgg.features(made_up_params(), x, ["relu2_2"])["relu2_2"]
    want = vgg.features(made_up_params(), x.astype(jnp.float32), ["relu2_2"])["relu2_2"]
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(got, want)


def test_jit_changes_nothing(params):
    x = jnp.asarray(gray_images(16, 16))

    def run(params, x):
        return vgg.features(params, x, ["relu2_2", "relu3_3"])

    for layer, value in jax.jit(run)(params, x).items():
        want = run(params, x)[layer]
        np.testing.assert_allclose(value, want, atol=2e-6 * float(want.max()), rtol=0)


def test_gradient_is_finite_on_flat_images(params):
    layers = ("relu2_2", "relu3_3")
    target = gray_images(16, 16)

    @jax.jit
    @jax.grad
    def gradient(x, params, target):
        percep = tuple(vgg.features(params, y, layers) for y in (x, target))
        return teacher.teacher_loss(x, target, percep=percep)[1]["percep"]

    for value in (0.0, 0.5, 1.0):
        got = gradient(jnp.full(target.shape, value), params, target)
        assert np.isfinite(got).all() and np.any(got != 0)


def test_gradient_equals_finite_differences(params):
    image = gray_images(12, 12)
    weight = np.random.default_rng(2).normal(size=(3, 3, 256))

    def reference(x):
        return (reference_features(params, x[0, ..., 0])["relu3_3"] * weight).mean()

    @jax.jit
    @jax.grad
    def ours(x, params):
        y = vgg.features(params, x, ["relu3_3"])["relu3_3"]
        return (y[0] * jnp.asarray(weight, jnp.float32)).mean()

    gradient = np.asarray(ours(image, params), np.float64)
    # Along the gradient itself; the step is small, so that few ReLUs switch.
    step = 1e-5 * gradient / np.linalg.norm(gradient)
    image = image.astype(np.float64)
    slope = (reference(image + step) - reference(image - step)) / 2e-5
    assert slope == pytest.approx(np.linalg.norm(gradient), rel=0.01)


def test_perceptual_term_on_real_images_lies_between_grad_and_ssim(
    real_data, real_params
):
    file = min((real_data / "roadscene" / "vis").iterdir())
    image = np.asarray(Image.open(file).convert("L"), np.float32)[-128:, :128] / 255
    target = jnp.asarray(image)[None, ..., None]
    output = jnp.asarray(ndimage.gaussian_filter(image, 1.0))[None, ..., None]
    layers = ("relu2_2", "relu3_3")
    run = jax.jit(vgg.features, static_argnums=2)
    percep = tuple(run(real_params, x, layers) for x in (output, target))
    _, terms = jax.jit(teacher.teacher_loss)(output, target, percep=percep)
    assert terms["grad"] < terms["percep"] < 1000 * terms["ssim"]


@pytest.mark.parametrize("layer", ["relu2_3", "conv2_2", "pool1", ""])
def test_unknown_layers_are_named(layer):
    with pytest.raises(UserError, match=rf"no layer '{layer}'; choose among relu1_1, "):
        vgg.features(made_up_params(), jnp.zeros((1, 16, 16, 1)), ["relu1_1", layer])


def test_layers_beyond_the_weights_are_named():
    with pytest.raises(UserError, match=r"stop at conv2_2, before the layer 'relu3_1'"):
        vgg.features(first_layers(4), jnp.zeros((1, 16, 16, 1)), ["relu3_1"])


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((16, 16, 1), r"got \(16, 16, 1\)"),
        ((1, 16, 16, 3), r"got \(1, 16, 16, 3\)"),
        ((1, 3, 16, 1), "too small"),
    ],
)
def test_wrong_images_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        vgg.features(made_up_params(), jnp.zeros(shape), ["relu3_1"])


# load


def assert_equal_params(got: dict, expected: dict) -> None:
    assert list(got) == list(expected)
    for name, parts in expected.items():
        assert got[name].keys() == parts.keys()
        for part, array in parts.items():
            assert got[name][part].dtype == np.float32
            np.testing.assert_array_equal(got[name][part], array)


def test_npz_loads(tmp_path):
    file = write_npz(tmp_path / "vgg.npz", made_up_params())
    assert_equal_params(vgg.load(str(file)), made_up_params())


@pytest.mark.parametrize(
    "names",
    [
        "{0}/{0}_{1}_1:0",  # the published file
        "{0}/{0}/{1}:0",  # tf.keras 2
        "model_weights/{0}/{0}/{1}:0",  # a whole model saved
    ],
)
def test_keras_h5_loads(tmp_path, names):
    file = write_h5(tmp_path / "vgg.h5", first_layers(4), names)
    assert_equal_params(vgg.load(str(file)), first_layers(4))


def test_a_gap_ends_the_network(tmp_path):
    params = made_up_params()
    gap = {name: params[name] for name in ("conv1_1", "conv1_2", "conv3_1")}
    got = vgg.load(str(write_npz(tmp_path / "vgg.npz", gap)))
    assert list(got) == ["conv1_1", "conv1_2"]


def test_a_home_directory_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_npz(tmp_path / "vgg.npz", first_layers(1))
    assert list(vgg.load("~/vgg.npz")) == ["conv1_1"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("missing.npz", None),
        ("missing.h5", None),
        ("weights.pth", b"x"),
        ("empty.npz", b""),
        ("text.npz", b"not an archive"),
        ("cut.npz", b"PK\x03\x04 cut short"),
        ("empty.h5", b""),
        ("text.h5", b"<html>not found</html>"),
    ],
)
def test_files_that_are_no_weights_are_named(tmp_path, name, content):
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=rf"{name}.*{REMEDIES}"):
        vgg.load(str(file))


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(UserError, match=rf"is not a file.*{REMEDIES}"):
        vgg.load(str(tmp_path))


def test_a_plain_array_is_no_archive(tmp_path):
    np.save(tmp_path / "vgg.npy", np.zeros(3))
    file = (tmp_path / "vgg.npy").rename(tmp_path / "vgg.npz")
    with pytest.raises(UserError, match=rf"vgg.npz cannot be read.*{REMEDIES}"):
        vgg.load(str(file))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conv1_2/bias": None}, "conv1_2/bias in .* is missing"),
        (
            {"conv1_1/kernel": np.zeros((64, 3, 3, 3))},  # PyTorch's layout
            r"conv1_1/kernel in .* is of shape \(64, 3, 3, 3\), "
            r"expected \(3, 3, 3, 64\)",
        ),
        ({"conv1_2/bias": np.zeros(63)}, r"is of shape \(63,\), expected \(64,\)"),
    ],
)
def test_wrong_arrays_are_named(tmp_path, change, message):
    arrays = npz_arrays(first_layers(2)) | change
    file = tmp_path / "vgg.npz"
    np.savez(file, **{k: v for k, v in arrays.items() if v is not None})
    with pytest.raises(UserError, match=f"{message}.*{REMEDIES}"):
        vgg.load(str(file))


def test_another_networks_file_is_named(tmp_path):
    np.savez(tmp_path / "other.npz", kernel=np.zeros(3))
    with pytest.raises(UserError, match=rf"holds neither conv1_1/kernel.*{REMEDIES}"):
        vgg.load(str(tmp_path / "other.npz"))


# fetching


class Site:
    """A loopback server of one folder, and vgg.py pointed at it."""

    def __init__(self, folder: Path, home: Path):
        self.requests = []
        self.cached = home / "models" / "vgg16_made_up.h5"
        self.file = write_h5(folder / self.cached.name, first_layers(2))
        log = self.requests

        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *args):
                log.append(self.path)

        handler = functools.partial(Handler, directory=str(folder))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/{self.file.name}"
        self.md5 = hashlib.md5(self.file.read_bytes()).hexdigest()


@pytest.fixture
def site(tmp_path, monkeypatch):
    (tmp_path / "site").mkdir()
    site = Site(tmp_path / "site", tmp_path / "keras")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(vgg, "KERAS_URL", site.url)
    monkeypatch.setattr(vgg, "KERAS_MD5", site.md5)
    thread = threading.Thread(target=site.server.serve_forever, args=(0.01,))
    thread.start()
    yield site
    site.server.shutdown()
    thread.join()
    site.server.server_close()


def test_weights_are_fetched_once_and_cached(site):
    assert_equal_params(vgg.load(""), first_layers(2))
    assert len(site.requests) == 1
    assert site.cached.read_bytes() == site.file.read_bytes()
    assert_equal_params(vgg.load(""), first_layers(2))
    assert len(site.requests) == 1
    assert [p.name for p in site.cached.parent.iterdir()] == [site.cached.name]


def test_a_damaged_cache_is_fetched_again(site):
    site.cached.parent.mkdir(parents=True)
    site.cached.write_bytes(site.file.read_bytes()[:-1000])
    assert_equal_params(vgg.load(""), first_layers(2))
    assert len(site.requests) == 1


def test_the_cache_is_in_the_home_directory_by_default(site, tmp_path, monkeypatch):
    monkeypatch.delenv("KERAS_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    vgg.load("")
    assert (tmp_path / ".keras" / "models" / site.file.name).is_file()


def test_a_file_with_another_hash_is_refused(site):
    with site.file.open("ab") as data:
        data.write(b"damage")
    with pytest.raises(
        UserError, match=rf"with MD5 .* instead of {site.md5}.*{REMEDIES}"
    ):
        vgg.load("")
    assert list(site.cached.parent.iterdir()) == []


def test_an_address_without_the_file_is_an_error(site):
    site.file.unlink()
    with pytest.raises(UserError, match=rf"cannot be fetched .*404.*{REMEDIES}"):
        vgg.load("")
    assert list(site.cached.parent.iterdir()) == []


def test_no_connection_is_an_error(site, monkeypatch):
    monkeypatch.setattr(vgg, "KERAS_URL", "http://127.0.0.1:1/vgg16_made_up.h5")
    with pytest.raises(UserError, match=rf"cannot be fetched .*refused.*{REMEDIES}"):
        vgg.load("")


def test_a_cache_that_cannot_be_written_is_an_error(site, tmp_path):
    (tmp_path / "keras").write_text("a file where the folder should be")
    with pytest.raises(UserError, match=rf"cannot be fetched to .*keras.*{REMEDIES}"):
        vgg.load("")
