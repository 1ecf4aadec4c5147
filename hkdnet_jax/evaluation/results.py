"""Scores the models that come with the package, and the methods to compare with."""

import dataclasses
import hashlib
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

import hkdnet_jax
from hkdnet_jax import metrics, pretrained
from hkdnet_jax.common import trees
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.image_files import image_size, read_gray, to_8_bit
from hkdnet_jax.common.pair_files import Pair, match_folders, read_pair
from hkdnet_jax.evaluation import rows
from hkdnet_jax.evaluation.pictures import (
    Picture,
    as_batch,
    average,
    crop_to_multiple,
    degrade_picture,
    enlarge,
    stretch,
)
from hkdnet_jax.evaluation.rows import Row
from hkdnet_jax.evaluation.scoring import PROTOCOLS, fuse_options
from hkdnet_jax.inference import programs
from hkdnet_jax.inference.pair import fuse_pair
from hkdnet_jax.losses import quality, vgg
from hkdnet_jax.model_files.model import Model
from hkdnet_jax.models.presets import SCALES, STYLES

# Name -> folder below the data folder that holds its ir/ and vis/.
SETS = {"tno": "tno", "vifb": "vifb", "hkdnet_demo": "hkdnet_demo/hr"}
STUDENT_SCALES = SCALES[1:]
MULTIPLE = math.lcm(*STUDENT_SCALES)  # crops to multiples of it suit every scale
VGG_LAYERS = ("relu1_2", "relu2_2", "relu3_3")
OURS, TEACHER, AVERAGE = "ours", "teacher, bicubic", "2/3 + 1/3, bicubic"
# A vivid teacher whose low parts are as wide as those of the label, in the scene.
REDUCED = "teacher of context / scale, bicubic"
ORACLE, RELEASED = "2/3 + 1/3 of the high-resolution pair", "released"
Fuse = Callable[[Picture, Picture], Picture]
# Set, scale, pair, and the authors' picture of it if there is one.
_Task = tuple[str, int, Pair, Path | None]


@dataclasses.dataclass(frozen=True)
class Models:
    """The teacher, and the students by their scale."""

    teacher: Model
    students: Mapping[int, Model]

    @classmethod
    def shipped(cls, family: str) -> "Models":
        """The models of a family that come with the package, and their teacher.

        Args:
          family: one of `pretrained.FAMILIES`.
        """
        style = family if family in STYLES else STYLES[0]
        found = pretrained.students(family).items()
        students = {scale: pretrained.load_directory(path) for scale, path in found}
        return cls(pretrained.load(1, style=style), students)


def methods_of(models: Models, scale: int, protocol: str) -> dict[str, Fuse]:
    """The methods, each a function from a low-resolution pair to a large picture.

    ORACLE takes the high-resolution pair instead.

    Args:
      models: the teacher and the students.
      scale: 2, 3 or 4.
      protocol: a key of PROTOCOLS.
    """
    options = fuse_options(protocol)

    def stretched(picture: Picture) -> Picture:
        return stretch(picture) if options["stretch"] else picture

    def small(ir: Picture, vis: Picture) -> Picture:
        return fuse_pair(models.teacher, ir, vis, **options)

    def mean(ir: Picture, vis: Picture) -> Picture:
        return average(stretched(ir), stretched(vis))

    reduced = models.teacher.for_reduced(scale)

    def near(ir: Picture, vis: Picture) -> Picture:
        return stretched(enlarge(fuse_pair(reduced, ir, vis, **options), scale))

    methods = {
        OURS: lambda ir, vis: fuse_pair(models.students[scale], ir, vis, **options),
        TEACHER: lambda ir, vis: stretched(enlarge(small(ir, vis), scale)),
        AVERAGE: lambda ir, vis: stretched(enlarge(mean(ir, vis), scale)),
        ORACLE: lambda ir, vis: stretched(mean(ir, vis)),
    }
    return methods | ({REDUCED: near} if reduced.network.context else {})


def measure_pair(
    models: Models,
    pair: Pair,
    scale: int,
    names: Sequence[str],
    vgg_params: Mapping[str, Any] | None,
    released: Path | None = None,
) -> dict[str, dict[str, dict[str, float]]]:
    """Scores each method on one pair at one scale.

    Args:
      models: the teacher and the students.
      pair: files of the high-resolution pair.
      scale: 2, 3 or 4.
      names: fusion metrics to compute.
      vgg_params: see `vgg.load`; None omits the VGG distance.
      released: the authors' picture of this pair; None if there is none.

    Returns:
      `full_reference` (against the teacher's picture of the high-resolution pair),
      `plain` and `paper` (the fusion metrics); each maps method -> name -> value.

    Raises:
      UserError: a file cannot be read.
    """
    images = (to_8_bit(image) for image in read_pair(pair))
    ir, vis = (crop_to_multiple(image, MULTIPLE) for image in images)
    low = [degrade_picture(image, scale) for image in (ir, vis)]

    def pictures(protocol: str) -> dict[str, Picture]:
        methods = methods_of(models, scale, protocol).items()
        return {k: fuse(*((ir, vis) if k == ORACLE else low)) for k, fuse in methods}

    plain = pictures("plain")
    label = fuse_pair(models.teacher, ir, vis)
    found = {
        "full_reference": {
            name: full_reference(plain[name], label, vgg_params)
            for name in (OURS, TEACHER, REDUCED, AVERAGE)
            if name in plain
        }
    }
    start = time.perf_counter()
    fuse_pair(models.students[scale], *low)  # has been compiled above
    ours = found["full_reference"][OURS]
    ours["seconds"] = time.perf_counter() - start
    ours["gigabytes"] = _memory(models.students[scale], low[0].shape) / 1e9
    if not names:
        return found
    for protocol in PROTOCOLS:
        fused = plain if protocol == "plain" else pictures(protocol)
        if released is not None:  # the authors have already stretched it
            fused[RELEASED] = crop_to_multiple(read_gray(released), MULTIPLE)
        found[protocol] = {
            name: {k: float(v) for k, v in metrics.score(ir, vis, x, names).items()}
            for name, x in fused.items()
        }
    return found


def full_reference(
    picture: Picture, label: Picture, vgg_params: Mapping[str, Any] | None
) -> dict[str, float]:
    """Compares two 8-bit pictures by `psnr` (dB), `ssim` and, given weights, `vgg`.

    `vgg` is the squared distance of the VGG16 features after relu1_2, relu2_2 and
    relu3_3, with the features of each pixel scaled to length 1 over the channels,
    averaged over pixels and summed over layers. It is LPIPS without its learned weights
    (Zhang et al., CVPR 2018).

    Args:
      picture: uint8 [H, W].
      label: uint8 [H, W], the reference.
      vgg_params: see `vgg.load`; None omits `vgg`.
    """
    a, b = as_batch(picture), as_batch(label)
    values = {"psnr": quality.psnr(a, b), "ssim": quality.ssim(a, b)}
    if vgg_params is not None:
        values["vgg"] = _vgg_distance(vgg_params, a, b)[None]
    return {name: float(value[0]) for name, value in values.items()}


@jax.jit
def _vgg_distance(params: Mapping[str, Any], a: jax.Array, b: jax.Array) -> jax.Array:
    def unit(x: jax.Array) -> jax.Array:
        return x / (jnp.linalg.norm(x, axis=-1, keepdims=True) + 1e-10)

    both = (vgg.features(params, x, VGG_LAYERS) for x in (a, b))
    pairs = zip(*(features.values() for features in both), strict=True)
    return sum(jnp.mean(jnp.sum((unit(x) - unit(y)) ** 2, -1)) for x, y in pairs)


def _memory(model: Model, size: tuple[int, int]) -> int:
    """Bytes that the compiler plans for fusing one pair of this (height, width)."""
    return programs.choose(model, size, 1, jax.local_devices()[:1]).needed()


def measure(
    models: Models,
    data: Path,
    sets: Sequence[str],
    names: Sequence[str],
    vgg_params: Mapping[str, Any] | None,
    folder: Path | None = None,
) -> dict[str, Any]:
    """Measures every pair of the sets at every scale, with a progress bar on stderr.

    Args:
      models: the teacher and the students.
      data: folder that holds the data sets.
      sets: keys of SETS.
      names: fusion metrics to compute.
      vgg_params: see `vgg.load`; None omits the VGG distance.
      folder: keeps the result of each pair as soon as it is complete, and gives those
        that it holds of the same files, models and metrics; None for no such folder.

    Returns:
      set -> scale (a string, for JSON) -> pair -> the result of `measure_pair`.

    Raises:
      UserError: a set is missing, or has pictures without a partner or that cannot be
        read.
    """
    scales = tuple(models.students)
    tasks = [task for name in sets for task in _tasks(data, name, scales)]
    found: dict[str, Any] = {name: {} for name in sets}
    fingerprint = _fingerprint(models, names, vgg_params)

    def result_of(task: _Task) -> Row:
        name, scale, pair, released = task
        result = partial(measure_pair, models, pair, scale, names, vgg_params, released)
        if folder is None:
            return result()
        file = folder / name / f"x{scale}" / f"{pair.name}.json"
        key = _key(fingerprint, pair, released)
        if (known := rows.read(file, key)) is None:
            known = result()
            rows.save(file, key, known)
        return {kind: values for kind, values in known.items() if kind != "key"}

    sizes: dict[tuple[int, int], list] = {}
    for task in tasks:
        sizes.setdefault(image_size(task[2].ir), []).append(task)
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(total=len(tasks), unit="picture", file=sys.stderr) as bar,
    ):
        for group in sizes.values():
            results = pool.map(result_of, group)
            for (name, scale, pair, _), result in zip(group, results, strict=True):
                found[name].setdefault(str(scale), {})[pair.name] = result
                bar.update()
            jax.clear_caches()  # each size has its own programs
    return found


def _fingerprint(
    models: Models, names: Sequence[str], vgg_params: Mapping[str, Any] | None
) -> str:
    """What all results of a measurement depend on."""
    networks = models.teacher, *models.students.values()
    weights = [trees.fingerprint(model.params) for model in networks]
    if vgg_params is not None:
        weights.append(trees.fingerprint(vgg_params))
    rules = [repr(model.network) for model in networks]
    return " ".join([hkdnet_jax.__version__, *names, *weights, *rules])


def _key(fingerprint: str, pair: Pair, released: Path | None) -> str:
    digest = hashlib.sha256(fingerprint.encode())
    for file in (pair.ir, pair.vis, released):
        content = b"" if file is None else file.read_bytes()
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def _tasks(data: Path, name: str, scales: Sequence[int]) -> Iterator[_Task]:
    folder = data / SETS[name]
    pairs, problems = match_folders(folder / "ir", folder / "vis")
    if problems or not pairs:
        raise UserError(f"{folder}: {problems[0] if problems else 'no pairs'}.")
    for pair in pairs:
        for scale in scales:
            released = data / name / f"official_x{scale}" / f"{pair.name}.png"
            yield name, scale, pair, released if released.exists() else None


def means(pairs: Mapping[str, Any], kind: str) -> dict[str, dict[str, float]]:
    """Means over the pairs: method -> name -> mean.

    Methods that are missing for some pair are left out.

    Args:
      pairs: results of `measure_pair` by the pairs' names.
      kind: the part of these results to average, such as `plain`.
    """
    first, *others = (pair[kind] for pair in pairs.values())
    methods = {k: v for k, v in first.items() if all(k in other for other in others)}
    return {
        method: {
            name: float(np.mean([pair[kind][method][name] for pair in pairs.values()]))
            for name in values
        }
        for method, values in methods.items()
    }


def gains(pairs: Mapping[str, Any]) -> list[float]:
    """Each pair's gain in PSNR (dB) of OURS, in ascending order.

    It is over REDUCED where that was measured, or else over TEACHER.
    """
    rows = (pair["full_reference"] for pair in pairs.values())
    return sorted(
        row[OURS]["psnr"] - row.get(REDUCED, row[TEACHER])["psnr"] for row in rows
    )
