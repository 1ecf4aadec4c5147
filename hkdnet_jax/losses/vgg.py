"""ImageNet VGG16 features for the perceptual term of the teacher loss (Eq. 21).

The network is that of K. Simonyan and A. Zisserman (ICLR 2015) with the weights of
its authors (Creative Commons Attribution), in the Caffe convention that Keras keeps:
input 0..255, channels B, G, R, minus the channel means, no other scaling. The weights
are never random: they come from the user's file, or from the one that Keras publishes.

Parameters are ``{"conv1_1": {"kernel": [3, 3, in, out], "bias": [out]}, ...}``,
float32. A layer is named after its ReLU: ``relu2_2`` is the output of ``conv2_2``
after the ReLU, before the pooling that follows.
"""

import hashlib
import http.client
import os
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from hkdnet_jax.common import tensor_files
from hkdnet_jax.common.errors import UserError, needs_extra
from hkdnet_jax.common.paths import as_path
from hkdnet_jax.runtime.precision import FULL

Params = dict[str, dict[str, np.ndarray]]
KERAS_URL = (
    "https://storage.googleapis.com/tensorflow/keras-applications/vgg16/"
    "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
)
KERAS_MD5 = "6d6bbae143d832006294945121d1f1fc"
_TIMEOUT = 30.0  # seconds without data after which a download is given up
_BGR_MEANS = (103.939, 116.779, 123.68)
_BLOCKS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))  # (convolutions, width)
# "1_1", "1_2", "2_1", ... "5_3" in the order of the network, and the width of each.
_WIDTHS = {
    f"{block}_{i}": width
    for block, (count, width) in enumerate(_BLOCKS, start=1)
    for i in range(1, count + 1)
}
LAYERS = tuple(f"relu{name}" for name in _WIDTHS)
_REMEDY = (
    "give a file of VGG16 weights (.npz, or the Keras 'notop' .h5 from "
    f"{KERAS_URL}) with config.loss.vgg_path=FILE, or switch the perceptual term off "
    "with config.loss.percep=0"
)


def load(path: str) -> Params:
    """Reads VGG16 weights.

    Args:
      path: an ``.npz`` file with the keys ``conv1_1/kernel`` (HWIO), ``conv1_1/bias``,
        ...; or a Keras ``notop`` ``.h5`` file with the layers ``block1_conv1``, ...; or
        ``""`` for the file that Keras publishes, fetched on first use (58 MB) into
        Keras's own cache, ``~/.keras/models`` (or ``$KERAS_HOME/models``).

    Returns:
      The parameters (float32 host arrays) of the convolutions in the file, from
      ``conv1_1`` on without a gap. The file may stop early, for example at ``conv3_3``.

    Raises:
      UserError: the file is missing, unreadable or not VGG16, or cannot be fetched, or
        h5py is not installed.
    """
    file = as_path(path).expanduser() if path else _keras_file()
    if not file.is_file():
        raise UserError(f"VGG16 weights: {file} is not a file; {_REMEDY}.")
    readers = {".npz": _read_npz, ".h5": _read_h5}
    if file.suffix not in readers:
        raise UserError(f"VGG16 weights: {file} is neither .npz nor .h5; {_REMEDY}.")
    try:
        arrays = readers[file.suffix](file)
    except (
        OSError,
        EOFError,
        ValueError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise UserError(
            f"VGG16 weights: {file} cannot be read ({error}); {_REMEDY}."
        ) from error
    return _checked(arrays, file)


def _read_npz(file: Path) -> dict[str, np.ndarray]:
    """Reads every array of an ``.npz`` file."""
    with file.open("rb") as stream:
        return tensor_files.read_npz(stream)


def _read_h5(file: Path) -> dict[str, np.ndarray]:
    """Reads the arrays of a Keras file under the names of the ``.npz`` layout.

    The dataset names differ between versions of Keras, but the ranks do not: a
    convolution's group holds one kernel (rank 4) and one bias (rank 1).
    """
    with needs_extra("Reading VGG16 weights from an .h5 file", "train"):
        import h5py  # only this format needs it

    parts = {4: "kernel", 1: "bias"}
    arrays = {}
    with h5py.File(file, "r") as data:

        def collect(dataset_name: str, item) -> None:
            layer = dataset_name.split("/")[0]
            if isinstance(item, h5py.Dataset) and item.ndim in parts:
                name = layer.removeprefix("block").replace("_conv", "_")
                arrays[f"conv{name}/{parts[item.ndim]}"] = item[()]

        # Files that hold the full model keep the layers one group deeper.
        data.get("model_weights", data).visititems(collect)
    return arrays


def abstract_params() -> Params:
    """Returns the shapes and dtypes of the full network's weights, as `load` does."""
    shapes, channels = {}, 3
    for name, width in _WIDTHS.items():
        shapes[f"conv{name}"] = {
            part: jax.ShapeDtypeStruct(shape, np.float32)
            for part, shape in _shapes(channels, width).items()
        }
        channels = width
    return shapes


def _shapes(channels: int, width: int) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a convolution's parameters."""
    return {"kernel": (3, 3, channels, width), "bias": (width,)}


def _checked(arrays: dict[str, np.ndarray], file: Path) -> Params:
    """Returns the leading convolutions of the network and checks their shapes.

    Raises:
      UserError: the first one is missing, or a shape is not that of VGG16.
    """
    params: Params = {}
    channels = 3
    for name, width in _WIDTHS.items():
        expected = _shapes(channels, width)
        found = {part: arrays.get(f"conv{name}/{part}") for part in expected}
        if all(array is None for array in found.values()):
            break
        for part, shape in expected.items():
            array = found[part]
            if array is None or array.shape != shape:
                what = "missing" if array is None else f"of shape {array.shape}"
                raise UserError(
                    f"VGG16 weights: conv{name}/{part} in {file} is {what}, expected "
                    f"{shape}; {_REMEDY}."
                )
        params[f"conv{name}"] = {
            part: np.asarray(array, np.float32) for part, array in found.items()
        }
        channels = width
    if not params:
        raise UserError(
            f"VGG16 weights: {file} holds neither conv1_1/kernel nor the Keras layer "
            f"block1_conv1; {_REMEDY}."
        )
    return params


def _keras_file() -> Path:
    """Returns the file that Keras publishes, from Keras's cache or fetched into it.

    The file gets its final name only when it is complete and has the right MD5, so that
    several processes may do this at once and a killed one leaves no partial file.
    """
    home = Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser()
    file = home / "models" / KERAS_URL.rsplit("/", 1)[1]
    if file.is_file() and _md5(file) == KERAS_MD5:
        return file
    logging.info("Fetching VGG16 weights (58 MB) from %s to %s", KERAS_URL, file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent) as folder:
            part = Path(folder) / file.name
            _download(KERAS_URL, part)
            md5 = _md5(part)
            if md5 != KERAS_MD5:
                raise UserError(
                    f"VGG16 weights: {KERAS_URL} gave a file with MD5 {md5} instead of "
                    f"{KERAS_MD5}; {_REMEDY}."
                )
            part.replace(file)
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        raise UserError(
            f"VGG16 weights cannot be fetched to {file} ({error}); {_REMEDY}."
        ) from error
    return file


def _download(url: str, file: Path) -> None:
    """Writes what ``url`` serves to ``file``."""
    # S310: the only address is the constant KERAS_URL, which is https.
    with (
        urllib.request.urlopen(url, timeout=_TIMEOUT) as reply,  # noqa: S310
        file.open("wb") as out,
    ):
        while chunk := reply.read(1 << 20):
            out.write(chunk)


def _md5(file: Path) -> str:
    """Returns a file's hexadecimal MD5, by which it is only checked for damage."""
    with file.open("rb") as data:
        return hashlib.file_digest(
            data, lambda: hashlib.md5(usedforsecurity=False)
        ).hexdigest()


def features(
    params: Params, x: jax.Array, layers: Sequence[str]
) -> dict[str, jax.Array]:
    """Computes VGG16 activations of gray images, no deeper than the layers require.

    The arithmetic is float32 at full precision, whatever the dtype of ``x``.

    Args:
      params: the parameters that `load` returned.
      x: [N, H, W, 1] images in [0, 1]; gray is repeated to B, G and R.
      layers: names such as ``relu2_2``; see `LAYERS`.

    Returns:
      ``{layer: float32 [N, h, w, width]}``; h and w are halved, rounded down, at each
      of the poolings after 1_2, 2_2, 3_3 and 4_3.

    Raises:
      UserError: VGG16 does not have a layer, or ``params`` end before it.
      ValueError: ``x`` is not [N, H, W, 1], or is too small for the poolings.
    """
    depth = 0
    for layer in layers:
        if layer not in LAYERS:
            raise UserError(
                f"VGG16 has no layer {layer!r}; choose among {', '.join(LAYERS)}."
            )
        depth = max(depth, LAYERS.index(layer) + 1)
    if depth > len(params):
        raise UserError(
            f"The VGG16 weights stop at {list(params)[-1]}, before the layer "
            f"{LAYERS[depth - 1]!r}: choose an earlier layer, or give a file with more "
            "layers with config.loss.vgg_path=FILE."
        )
    if x.ndim != 4 or x.shape[-1] != 1:
        raise ValueError(f"vgg.features needs images [N, H, W, 1], got {x.shape}")

    # The means are subtracted before the zero padding, so the border sees zeros, not
    # the means: folding both into a one-channel first kernel would change the border.
    means = jnp.asarray(_BGR_MEANS, jnp.float32).reshape(1, 1, 1, 3)
    x = jnp.repeat(x.astype(jnp.float32) * 255.0, 3, axis=-1) - means
    found = {}
    for layer in LAYERS[:depth]:
        name = layer.removeprefix("relu")
        if name.endswith("_1") and name != "1_1":
            x = _max_pool(x)
        x = _conv_relu(params[f"conv{name}"], x)
        if layer in layers:
            found[layer] = x
    return found


def _conv_relu(params: dict[str, np.ndarray], x: jax.Array) -> jax.Array:
    """Applies a 3x3 convolution with zero padding, then ReLU."""
    y = jax.lax.conv_general_dilated(
        x,
        jnp.asarray(params["kernel"]),
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=FULL,
    )
    return jax.nn.relu(y + jnp.asarray(params["bias"]).reshape(1, 1, 1, -1))


def _max_pool(x: jax.Array) -> jax.Array:
    """Applies 2x2 max pooling, stride 2; an odd last row or column is dropped.

    It reshapes, because the gradient of a windowed maximum is slower on a CPU
    (measured).

    Raises:
      ValueError: a side is shorter than 2.
    """
    n, h, w, c = x.shape
    if min(h, w) < 2:
        raise ValueError("vgg.features: the images are too small for these layers")
    x = x[:, : h // 2 * 2, : w // 2 * 2]
    return x.reshape(n, h // 2, 2, w // 2, 2, c).max(axis=(2, 4))
