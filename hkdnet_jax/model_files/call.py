"""Calling a model: from arrays of any kind to a picture of the wanted depth.

The steps stand apart so that folders, videos and single pairs share them: `gray_levels`
and `prepare` on the host, `forward` and `finish` on the device.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float32

from hkdnet_jax.common import arrays, colour, levels, palettes
from hkdnet_jax.common.colour import COLOR
from hkdnet_jax.common.image_files import DEPTHS, quantize
from hkdnet_jax.model_files.ensemble import Ensemble, symmetric_mean
from hkdnet_jax.models.presets import MIN_SIDE
from hkdnet_jax.models.student import Student
from hkdnet_jax.ops.extent import Extent, stack
from hkdnet_jax.ops.places import enlarged
from hkdnet_jax.released.network import Released
from hkdnet_jax.runtime import sharding

NORMALIZE = ("unit", "minmax")
RANGE_PER = ("batch", "image")
# Small images go to a device together, up to this many input pixels, because a single
# one would not keep it busy.
PIXELS_AT_ONCE = 256**2
_DTYPES = "uint8, uint16, uint32, int8, int16, int32, float16, float32 or float64"


@dataclass(frozen=True)
class LevelOptions:
    """How the levels of one input become [0, 1].

    Attributes:
      spec: the range, see `levels.resolve`.
      normalize: `unit` for that range; `minmax` for the image's own smallest and
        largest level instead.
      palette: name or file of the palette that the colours of a false-colour picture
        are looked up in, see `palettes.load`; None if it is none.
    """

    spec: levels.Spec = levels.AUTO
    normalize: str = "unit"
    palette: str | None = None


def gray_levels(
    pixels: np.ndarray, full: levels.Range, options: LevelOptions
) -> tuple[np.ndarray, levels.Range]:
    """One channel of an image, and the range that stands for black and white.

    Args:
      pixels: [H, W] or [H, W, 3], see `levels.luma`.
      full: the levels that a sample can hold.
      options: what they mean.

    Raises:
      UserError: the palette is unknown.
    """
    if options.palette is not None and pixels.ndim == 3:
        gray, full = palettes.invert(pixels, options.palette), levels.BYTES
    else:
        gray = levels.luma(pixels)
    if options.normalize == "minmax":
        return gray, levels.extremes(gray) or full
    return gray, levels.resolve(options.spec, gray, full)


def prepare(
    pixels: np.ndarray, full: levels.Range, options: LevelOptions
) -> Float32[np.ndarray, "h w 1"]:
    """Maps an image to what a network takes, float32 [H, W, 1] in [0, 1].

    See `gray_levels` for the arguments.
    """
    return levels.to_unit(*gray_levels(pixels, full, options))[..., None]


def is_flat(ir: np.ndarray, vis: np.ndarray) -> bool:
    """Whether both prepared images hold one level each, as behind a closed shutter."""
    return bool(np.ptp(ir) == 0 and np.ptp(vis) == 0)


def forward(
    network: nn.Module | Ensemble,
    params: Mapping[str, Any],
    ir: jax.Array,
    vis: jax.Array,
    extent: Extent | None = None,
) -> jax.Array:
    """Fuses float32 [N, H, W, 1] each to float32 [N, scale * H, scale * W, 1].

    Images that do not fill their arrays have an extent, which `pads` says a network
    takes.
    """
    if isinstance(network, Ensemble):
        return symmetric_mean(partial(forward, network.network, params), ir, vis)
    sizes = () if extent is None else (extent,)
    if isinstance(network, Student) and not network.portable:
        network = network.clone(in_strips=not sharding.rows_are_split())
    image, _ = network.apply({"params": params}, ir, vis, *sizes)
    return image


def pads(network: nn.Module | Ensemble) -> bool:
    """Whether a network fuses images that do not fill their arrays.

    The authors' network does not: it takes so long that compiling it for each size does
    not matter.  Nor does an ensemble, whose turned images would begin elsewhere.
    """
    return not isinstance(network, Released | Ensemble)


# Separate from `finish`: the network takes seconds to compile, and would otherwise be
# compiled again for other options.
_forward = jax.jit(forward, static_argnames="network")


@partial(jax.jit, static_argnames=("stretch", "depth"))
def finish(
    image: Float32[Array, "n h w 1"],
    flat: Bool[Array | np.ndarray, " n"],
    stretch: bool,
    depth: str,
    extent: Extent | None = None,
) -> Array:
    """Maps what a network makes to the levels of a picture.

    Args:
      image: float32 [N, H, W, 1], not clipped.
      flat: for each image whether its inputs were flat, see `is_flat`.
      stretch: whether each image's smallest and largest level become 0 and 1; images of
        flat inputs become 0, for what they hold is noise.
      depth: one of `image_files.DEPTHS`.
      extent: the sizes of images that do not fill their arrays.

    Returns:
      [N, H, W, 1] uint8 or uint16, or float32 in [0, 1].
    """
    if stretch:
        inside = None if extent is None else extent.inside(image)
        whole = arrays.normalize_minmax(image, inside)
        image = jnp.where(flat[:, None, None, None], jnp.zeros_like(whole), whole)
    if depth == "8":
        return arrays.to_uint8(image)
    clipped = jnp.clip(image, 0.0, 1.0)
    return (
        clipped if depth == "float" else jnp.round(clipped * 65535.0).astype("uint16")
    )


def fuse(
    network: nn.Module,
    params: Mapping[str, Any],
    ir: Any,
    vis: Any,
    *,
    ir_range: levels.Spec | tuple[float, float],
    vis_range: levels.Spec | tuple[float, float],
    range_per: str,
    ir_palette: str | None,
    normalize: str,
    stretch: bool,
    depth: str,
    color: str,
    pad_to: tuple[int, int] | None,
) -> np.ndarray:
    """Fuses arrays; see `Model.__call__`."""
    _check_option("color", color, COLOR)
    _check_option("normalize", normalize, NORMALIZE)
    _check_option("range_per", range_per, RANGE_PER)
    _check_option("depth", depth, DEPTHS)
    ir, batched = _as_batch("ir", ir)
    vis, vis_batched = _as_batch("vis", vis)
    if ir.shape[:3] != vis.shape[:3] or batched != vis_batched:
        raise ValueError(
            f"ir and vis must have one size, got {_said(ir)} and {_said(vis)}"
        )
    if min(ir.shape[1:3]) < MIN_SIDE or not len(ir):
        raise ValueError(
            f"images need at least {MIN_SIDE} pixels per side, got {_said(ir)}"
        )
    shape = ir.shape[1:3]
    if pad_to is not None and (pad_to[0] < shape[0] or pad_to[1] < shape[1]):
        raise ValueError(f"pad_to {pad_to} is smaller than the images, {_said(ir)}")
    if pad_to is not None and not pads(network):
        raise ValueError(
            "pad_to is not for the authors' network, nor for an ensemble: leave it out"
        )
    if ir_palette is None and ir.ndim == 4 and palettes.is_false_colour(ir[0]):
        warnings.warn(f"ir: {palettes.false_colour_note('ir_palette')}", stacklevel=3)
    specs = (_as_spec("ir_range", ir_range), _as_spec("vis_range", vis_range))
    palettes_given = (ir_palette, None)
    given = zip((ir, vis), specs, palettes_given, strict=True)
    options = [LevelOptions(spec, normalize, palette) for _, spec, palette in given]
    options = [
        _for_batch(images, one, range_per)
        for images, one in zip((ir, vis), options, strict=True)
    ]
    prepared = [
        np.stack([prepare(x, levels.full_range(x.dtype), one) for x in images])
        for images, one in zip((ir, vis), options, strict=True)
    ]
    coloured = color == "rgb" or (color == "auto" and vis.ndim == 4)

    run = partial(
        _run, network, params, stretch, "float" if coloured else depth, pad_to
    )
    fused = _in_parts(run, *prepared)
    if coloured:
        pairs = zip(fused, vis, strict=True)
        fused = np.stack([_in_colour(*pair, options[1], depth) for pair in pairs])
    return fused if batched else fused[0]


def _run(
    network: nn.Module,
    params: Mapping[str, Any],
    stretch: bool,
    depth: str,
    pad_to: tuple[int, int] | None,
    ir: np.ndarray,
    vis: np.ndarray,
) -> np.ndarray:
    """Fuses prepared images [N, H, W, 1] of one size to pictures of a depth."""
    flat = np.array([is_flat(*pair) for pair in zip(ir, vis, strict=True)])
    if pad_to is None:
        image = _forward(network, params, ir, vis)
        return np.asarray(finish(image, flat, stretch, depth))
    extent = Extent.of(ir)
    image = _forward(network, params, stack(ir, pad_to), stack(vis, pad_to), extent)
    scale = getattr(network, "scale", 1)
    pictures = np.asarray(finish(image, flat, stretch, depth, extent.scaled(scale)))
    height, width = (enlarged(side, scale) for side in ir.shape[1:3])
    return pictures[:, :height, :width]


def _in_colour(
    luma: np.ndarray, visible: np.ndarray, options: LevelOptions, depth: str
) -> np.ndarray:
    """Gives one fused image [H, W] the colour of its visible image, of any size."""
    full = levels.full_range(visible.dtype)
    unit = levels.to_unit(visible, gray_levels(visible, full, options)[1])
    unit = unit if unit.ndim == 3 else np.dstack([unit] * 3)
    return quantize(colour.attach(luma, unit), depth)


def _for_batch(
    images: np.ndarray, options: LevelOptions, range_per: str
) -> LevelOptions:
    """The options with the range that `auto` takes for a batch, if it takes one."""
    if options.spec != levels.AUTO or range_per != "batch" or len(images) < 2:
        return options
    full = levels.full_range(images.dtype)
    one = LevelOptions(levels.FULL, palette=options.palette)
    grays = (gray_levels(image, full, one)[0] for image in images)
    return LevelOptions(levels.pooled(grays), options.normalize, options.palette)


def _in_parts(
    run: Callable[[np.ndarray, np.ndarray], np.ndarray],
    ir: np.ndarray,
    vis: np.ndarray,
) -> np.ndarray:
    """Runs a batch in parts of one size, so that one program does it all."""
    at_once = min(len(ir), max(1, PIXELS_AT_ONCE // (ir.shape[1] * ir.shape[2])))
    pictures = []
    for first in range(0, len(ir), at_once):
        # The last images may stand in it several times.
        chosen = np.arange(first, first + at_once).clip(max=len(ir) - 1)
        pictures.append(run(ir[chosen], vis[chosen])[..., 0])
    return np.concatenate(pictures)[: len(ir)]  # a copy, which may be written to


def _as_batch(name: str, image: Any) -> tuple[np.ndarray, bool]:
    """Returns [N, H, W] or [N, H, W, 3] in native byte order, and whether N was given.

    Raises:
      TypeError: it is no image, or of a dtype that is none of an image's.
      ValueError: it has another shape.
    """
    array = _as_array(image)
    if not isinstance(array, np.ndarray) or (
        array.dtype.kind not in "uif"
        or array.dtype.itemsize > (8 if array.dtype.kind == "f" else 4)
    ):
        found = f"an array of {array.dtype}" if hasattr(array, "dtype") else type(image)
        raise TypeError(
            f"{name} must be an array of {_DTYPES}, or a PIL image, not {found}"
        )
    colour = array.ndim >= 3 and array.shape[-1] == 3
    if array.ndim - colour not in (2, 3):
        raise ValueError(
            f"{name} must be [H, W], [H, W, 3], [N, H, W] or [N, H, W, 3], not of "
            f"shape {array.shape}"
        )
    batched = array.ndim - colour == 3
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    return (array if batched else array[None]), batched


def _as_array(image: Any) -> Any:
    from PIL import Image

    if not isinstance(image, Image.Image):
        return np.asarray(image) if hasattr(image, "__array__") else image
    if image.mode in ("1", "L", "LA"):
        return np.asarray(image.convert("L"))
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return np.asarray(image)
    return np.asarray(image.convert("RGB"))


def _as_spec(name: str, given: Any) -> levels.Spec:
    if isinstance(given, str):
        return levels.parse(given)
    try:
        low, high = map(float, given)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{name} must be 'auto', 'full' or a pair (low, high), not {given!r}"
        ) from error
    if not low < high:
        raise ValueError(f"{name} must be a pair of which the first is smaller")
    return levels.Range(low, high)


def _check_option(name: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {known}, got {value!r}")


def _said(images: np.ndarray) -> str:
    height, width = images.shape[1:3]
    return f"{len(images)} of {width}x{height}"
