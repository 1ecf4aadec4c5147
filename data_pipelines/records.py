"""Pairs in prepared TFDS data sets, read from their records without an export.

A data set is one that ``python -m data_pipelines.prepare`` or any other TFDS builder
has written as array_record; its records must hold images `ir` and `vis`, and may hold
a `name`.
"""

import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from hkdnet_jax.common.errors import UserError, needs_extra
from hkdnet_jax.common.image_files import gray_of_bytes, size_of_bytes, to_8_bit
from hkdnet_jax.common.pair_files import Pair, check_sizes

_SIDES = ("ir", "vis")
_DEFAULT_SPLIT = "train"


@dataclass(frozen=True, eq=False)
class RecordPair:
    """A pair in a record; 16-bit images become uint8.  See `pairs.StoredPair`.

    Attributes:
      name: "dataset/stem".
      ir: where the infrared image is, for sentences.
      vis: where the visible image is.
      source: random access to the records, whose images are the bytes of files.
      index: number of the record.
      found: the (height, width) of both images, or what is wrong with them.
    """

    name: str
    ir: str
    vis: str
    source: Sequence[dict[str, Any]]
    index: int
    found: tuple[int, int] | UserError

    def place(self) -> str:
        """See `pairs.StoredPair`."""
        return f"{self.ir} and its partner"

    def size(self) -> tuple[int, int]:
        """See `pairs.StoredPair`."""
        if isinstance(self.found, UserError):
            raise self.found
        return self.found

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """See `pairs.StoredPair`."""
        record = self.source[self.index]
        ir, vis = (gray_of_bytes(record[k], getattr(self, k)) for k in _SIDES)
        check_sizes(self, ir.shape, vis.shape)
        return to_8_bit(ir), to_8_bit(vis)


def find_pairs(data_sets: str, data_dir: str) -> list[RecordPair]:
    """Finds all pairs of prepared data sets.

    Names are "dataset/stem", where the data set's is without version and split.

    Args:
      data_sets: ``NAME[:SPLIT][+NAME[:SPLIT]...]``, such as ``msrs+llvip:test``.  NAME
        is a data set, with its configuration if it has several (``pairs/NAME``); SPLIT
        is ``train`` if it is left out, and may be a part (``train[:90%]``).
      data_dir: the folder of the records (``--data_dir`` of ``prepare``), or its
        address.

    Returns:
      The pairs, sorted by name.

    Raises:
      UserError: a data set or a split is not there, cannot be read at random, has no
        images `ir` and `vis`, or names a pair twice; or a package is missing.
    """
    pairs: list[RecordPair] = []
    for part in data_sets.split("+"):
        name, _, split = (text.strip() for text in part.partition(":"))
        pairs += _pairs_of(name, split or _DEFAULT_SPLIT, data_dir)
    pairs.sort(key=lambda pair: pair.name)
    for one, other in itertools.pairwise(pairs):
        if one.name == other.name:
            raise UserError(
                f"config.data.tfds={data_sets} holds {one.name} twice; name each "
                "split once."
            )
    return pairs


def _pairs_of(name: str, split: str, data_dir: str) -> list[RecordPair]:
    source = _open(name, split, data_dir)
    title = name.partition("/")[0]

    def pair_of(index: int) -> RecordPair:
        try:
            record = source[index]
            if None in record.values():  # what array_record reads from a cut file
                raise ValueError("it is empty")
        except Exception as error:
            # array_record and the parser of the records fail in their own ways.
            raise UserError(
                f"Record {index} of {name}:{split} in {data_dir} cannot be read "
                f"({error}): delete its folder, and prepare it again."
            ) from error
        stem = record["name"].decode() if "name" in record else f"{index:06}"
        full = f"{title}/{stem}"
        ir, vis = (f"{side} of {full} in {data_dir}" for side in _SIDES)
        return RecordPair(full, ir, vis, source, index, _size(record, ir, vis))

    # Reading is mostly waiting, above all on a network disk.
    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(pair_of, range(len(source))))


def _size(record: dict[str, Any], ir: str, vis: str) -> tuple[int, int] | UserError:
    try:
        sizes = size_of_bytes(record["ir"], ir), size_of_bytes(record["vis"], vis)
        check_sizes(Pair("", ir, vis), *sizes)
    except UserError as error:
        return error
    return sizes[0]


def _open(name: str, split: str, data_dir: str) -> Sequence[dict[str, Any]]:
    """Random access to the records of a split, with the images as bytes of files."""
    with needs_extra("config.data.tfds", "data"):
        import tensorflow_datasets as tfds
        from tensorflow_datasets.core.read_only_builder import builder_from_files

        # The class of the images, which a record's description names.
        import data_pipelines.tfds_ir_vis  # noqa: F401
    try:
        builder = builder_from_files(name, data_dir=data_dir)
    except (tfds.core.DatasetNotFoundError, ValueError, OSError) as error:
        raise UserError(
            f"{data_dir} holds no prepared data set {name!r}: prepare it (python -m "
            "data_pipelines.prepare --data_dir), or name its folder with "
            "config.data.tfds_dir."
        ) from error
    features = builder.info.features
    images = [side for side in _SIDES if side in features]
    if any(not isinstance(features[side], tfds.features.Image) for side in images) or (
        len(images) < len(_SIDES)
    ):
        raise UserError(
            f"Data set {name} in {data_dir} holds {', '.join(features)}, and not the "
            "images ir and vis: prepare it with data_pipelines.prepare."
        )
    raw = {side: tfds.decode.SkipDecoding() for side in _SIDES}
    try:
        source = builder.as_data_source(split, decoders=raw)
    except NotImplementedError as error:
        raise UserError(
            f"Data set {name} in {data_dir} cannot be read at random: prepare it with "
            "file_format='array_record'."
        ) from error
    except (ValueError, KeyError) as error:
        raise UserError(
            f"Data set {name} in {data_dir} has no split {split!r}: name one of "
            f"{', '.join(builder.info.splits)} with config.data.tfds=NAME:SPLIT."
        ) from error
    if not len(source):
        raise UserError(f"Split {split!r} of {name} in {data_dir} holds no pairs.")
    return source
