"""Batches for training and validation: seeded, resumable, with rows for each process.

A *source* gives random access to full-size pairs as uint8; `train_batches` and
`val_batches` cut crops out of it.  Nothing is augmented here: the device makes the
flips and the low-resolution images.
"""

import math
import os
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import grain
import numpy as np
from PIL import Image

from data_pipelines import scenes
from hkdnet_jax.common.errors import UserError, listing
from hkdnet_jax.common.image_files import image_size, to_8_bit
from hkdnet_jax.common.pair_files import Pair, check_sizes, read_pair

GIB = 2**30

# Number of epochs in an endless stream.  Grain's own endless `repeat()` is sys.maxsize
# samples long, which its `batch(1)` cannot count.
_ENDLESS = 2**31


class Source:
    """Random access to pairs, which are decoded only once if they fit into the cache.

    ``source[i]`` is a dict of name (str), ir and vis (uint8 [H, W, 1], read-only).
    Threads may share a source.
    """

    def __init__(self, names: Sequence[str], cache_bytes: int):
        """Loads nothing yet.

        Args:
          names: names of the pairs, in the order of the indices.
          cache_bytes: memory for decoded pairs.
        """
        self.names = list(names)
        self._room = cache_bytes
        self._cache: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.names)

    def __getitem__(self, index: int) -> dict:
        """The pair `index` in full size.

        Raises:
          UserError: a file is broken.
        """
        images = self._cache.get(index)
        if images is None:
            images = self._load(index)
            for image in images:
                image.flags.writeable = False
            size = sum(image.nbytes for image in images)
            with self._lock:
                # Another thread may have stored it meanwhile; count it once.
                if index not in self._cache and size <= self._room:
                    self._cache[index] = images
                    self._room -= size
        ir, vis = images
        return {"name": self.names[index], "ir": ir[..., None], "vis": vis[..., None]}

    def _load(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Both images of pair `index`, uint8 [H, W] of the same size."""
        raise NotImplementedError


class PairSource(Source):
    """Pairs of files; 16-bit images become uint8.

    The headers of all files are checked at the start, so that a long run cannot
    encounter a wrong size halfway through.
    """

    def __init__(
        self, pairs: Sequence[Pair], min_size: int = 1, cache_bytes: int = GIB
    ):
        """Checks the headers of all files.

        Args:
          pairs: the pairs, in the order of the indices.
          min_size: smallest usable height and width, in pixels: the crop size.
          cache_bytes: memory for decoded pairs; pairs beyond it are decoded at each
            visit.

        Raises:
          UserError: there are no pairs, or files cannot be opened, differ in size
            within a pair or are smaller than `min_size` (one error lists them all).
        """
        if not pairs:
            raise UserError(
                "There are no pairs to load; a data folder must hold ir/ and vis/ with "
                "images of the same stems."
            )
        super().__init__([pair.name for pair in pairs], cache_bytes)
        self._pairs = list(pairs)
        # Opening a file is mostly waiting, above all on a network disk.
        with ThreadPoolExecutor(16) as pool:
            found = pool.map(lambda pair: _header_problem(pair, min_size), pairs)
            problems = [problem for problem in found if problem]
        if problems:
            raise UserError(
                f"{len(problems)} of {len(pairs)} pairs cannot be used with crops of "
                f"{min_size}x{min_size}, so remove them, list the good ones in a split "
                "file, or (if they are too small) lower data.crop: "
                f"{listing(problems)}."
            )

    def _load(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        ir, vis = read_pair(self._pairs[index])
        return to_8_bit(ir), to_8_bit(vis)


def _header_problem(pair: Pair, min_size: int) -> str | None:
    """The problem with a pair that its file headers show, or None."""
    try:
        sizes = [image_size(path) for path in (pair.ir, pair.vis)]
        check_sizes(pair, *sizes)
    except UserError as error:
        # As an item of a list, without the advice, which the list gives only once.
        return str(error).rpartition(";")[0] or str(error).rstrip(".")
    height, width = sizes[0]
    if min(height, width) < min_size:
        return f"{pair.ir} and its partner are {width}x{height}"
    return None


class SceneSource(Source):
    """The procedural pairs `start`, `start` + 1, ... of one seed, rendered lazily."""

    def __init__(
        self,
        seed: int,
        start: int,
        count: int,
        height: int,
        width: int,
        cache_bytes: int = GIB,
    ):
        """Renders nothing yet.

        Args:
          seed: seed of `scenes.render`.
          start: number of the first scene; disjoint ranges give disjoint scenes.
          count: number of scenes, at least 1.
          height: height of the scenes, in pixels.
          width: width of the scenes, in pixels.
          cache_bytes: memory for rendered scenes; scenes beyond it are rendered at each
            visit.

        Raises:
          UserError: `count` is less than 1.
        """
        if count < 1:
            raise UserError(f"{count} scenes are too few; ask for at least 1.")
        numbers = range(start, start + count)
        super().__init__([f"scene_{number:04d}" for number in numbers], cache_bytes)
        self._seed, self._start = seed, start
        self._height, self._width = height, width

    def _load(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return scenes.render(self._seed, self._start + index, self._height, self._width)


def epoch_samples(num_pairs: int, samples_per_epoch: int) -> int:
    """Number of samples in an epoch of `train_batches`, at least one of each pair."""
    return max(num_pairs, samples_per_epoch)


def train_batches(
    source: Source,
    *,
    crop: int,
    batch_size: int,
    samples_per_epoch: int,
    seed: int,
    max_shrink: float = 1.0,
    rows: Sequence[int] | None = None,
) -> grain.DatasetIterator:
    """Makes an endless stream of random crops, a pure function of the arguments.

    One epoch has `epoch_samples` samples: shuffled passes over all pairs, of which the
    last one is cut short, so that the numbers of visits to any two pairs differ by one
    at most.  Every pass has its own order, and every visit its own crop.  Batches may
    span the end of an epoch.  The samples of global batch k depend neither on `rows`
    nor on timing.

    Args:
      source: pairs, each at least `crop` high and wide.
      crop: side in pixels of the square window, which is the same in both images.
      batch_size: number of samples in the global batch, over all processes.
      samples_per_epoch: number of samples in an epoch, if there are fewer pairs.
      seed: integer in [0, 2**32).
      max_shrink: each crop is shrunk from a window whose side is up to this many times
        the crop's (as far as the pair allows).  This gives smaller objects, sharper
        edges and less noise; at 1 nothing is shrunk.
      rows: rows of the global batch that this process loads; None for all.

    Returns:
      An iterator over dicts of ir and vis, uint8 [rows, crop, crop, 1], which threads
      fill in advance.  ``get_state()`` returns a small JSON-serialisable dict that does
      not depend on the rows; an equal iterator continues after ``set_state()`` with
      exactly the next batch.

    Raises:
      UserError: the seed is out of range, or (while iterating) a file is broken or an
        image is smaller than the crop.
    """
    if not 0 <= seed < 2**32:
        raise UserError(f"seed is {seed}; give an integer from 0 to 2**32 - 1.")
    samples = epoch_samples(len(source), samples_per_epoch)
    epoch = (
        grain.MapDataset.source(source)
        .seed(seed)
        .shuffle()
        .repeat(math.ceil(samples / len(source)))
        .slice(slice(samples))
    )
    # The crop depends on the position in the endless stream, so it is drawn after the
    # repeat and before each process picks its rows.
    endless = epoch.repeat(_ENDLESS)
    crops = endless.random_map(
        lambda pair, rng: _random_crop(pair, crop, max_shrink, rng)
    )
    return iter(_batches(crops, batch_size, rows))


def val_batches(
    source: Source,
    *,
    crop: int,
    batch_size: int,
    rows: Sequence[int] | None = None,
) -> Iterable[dict]:
    """Makes centre crops of all pairs, in order; can be iterated repeatedly.

    The last global batch is filled with pairs from the start, which are masked out, so
    that every process gets the same number of batches of the same size.

    Args:
      source: pairs, each at least `crop` high and wide.
      crop: side of the square window, in pixels.
      batch_size: number of samples in the global batch, over all processes.
      rows: rows of the global batch that this process loads; None for all.

    Returns:
      An iterable of dicts: ir, vis uint8 [rows, crop, crop, 1]; mask float32 [rows], 1
      for a pair and 0 for a filler.

    Raises:
      UserError: (while iterating) a file is broken or an image is smaller than the
        crop.
    """
    count = len(source)

    def sample(position: int) -> dict:
        mask = np.float32(position < count)
        return _centre_crop(source[position % count], crop) | {"mask": mask}

    padded = math.ceil(count / batch_size) * batch_size
    return _batches(grain.MapDataset.range(padded).map(sample), batch_size, rows)


def _batches(
    samples: grain.MapDataset, batch_size: int, rows: Sequence[int] | None
) -> grain.IterDataset:
    """Stacks those in `rows` of every `batch_size` samples, ahead of their use."""
    rows = range(batch_size) if rows is None else rows

    def pick(number: int) -> dict:
        batch, row = divmod(number, len(rows))
        return samples[batch * batch_size + rows[row]]

    picked = grain.MapDataset.range(len(samples) // batch_size * len(rows)).map(pick)
    return picked.batch(len(rows)).to_iter_dataset(_read_options())


def _read_options() -> grain.ReadOptions:
    """Options by which each thread makes one batch, and as many batches may wait."""
    threads = min(8, os.cpu_count() or 1)
    return grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)


def _random_crop(
    pair: dict, crop: int, max_shrink: float, rng: np.random.Generator
) -> dict:
    side = crop
    if max_shrink > 1:
        _spare(pair, crop)
        limit = min(round(max_shrink * crop), *pair["ir"].shape[:2])
        side = int(rng.integers(crop, limit + 1))
    spare_rows, spare_columns = _spare(pair, side)
    top = int(rng.integers(spare_rows + 1))
    left = int(rng.integers(spare_columns + 1))
    window = _window(pair, side, top, left)
    if side == crop:
        return window
    return {key: _shrunk(image, crop) for key, image in window.items()}


def _shrunk(image: np.ndarray, side: int) -> np.ndarray:
    """Shrinks uint8 [H, W, 1] to [side, side, 1] by anti-aliased bicubic resampling."""
    small = Image.fromarray(image[:, :, 0]).resize(
        (side, side), Image.Resampling.BICUBIC
    )
    return np.asarray(small)[:, :, None]


def _centre_crop(pair: dict, crop: int) -> dict:
    spare_rows, spare_columns = _spare(pair, crop)
    return _window(pair, crop, spare_rows // 2, spare_columns // 2)


def _spare(pair: dict, crop: int) -> tuple[int, int]:
    """Numbers of rows and columns beyond a crop; UserError if the pair is smaller."""
    height, width = pair["ir"].shape[:2]
    if min(height, width) < crop:
        raise UserError(
            f"{pair['name']} is {width}x{height}, smaller than the crop of {crop}; "
            "lower data.crop."
        )
    return height - crop, width - crop


def _window(pair: dict, crop: int, top: int, left: int) -> dict:
    rows, columns = slice(top, top + crop), slice(left, left + crop)
    return {key: pair[key][rows, columns] for key in ("ir", "vis")}
