"""Batches for training and validation: seeded, resumable, with rows for each process.

A *source* gives random access to full-size pairs as uint8; `train_batches` and
`val_batches` cut crops out of it.  Nothing is augmented here: the device makes the
flips and the low-resolution images.
"""

import math
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grain
import numpy as np
from PIL import Image

from data_pipelines import scenes, workers
from data_pipelines.pairs import StoredPair
from hkdnet_jax.common.errors import UserError, listing

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
            size = sum(_bytes_in_memory(image) for image in images)
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

    def __getstate__(self) -> dict:
        """What another process gets; it fills a cache of its own."""
        return self.__dict__ | {"_cache": {}, "_lock": None}

    def __setstate__(self, state: dict) -> None:
        """Takes what `__getstate__` gave."""
        self.__dict__.update(state, _lock=threading.Lock())


def _bytes_in_memory(image: np.ndarray) -> int:
    """What keeping an image costs: nothing if it is a part of a mapped file."""
    return 0 if isinstance(image, np.memmap) else image.nbytes


class PairSource(Source):
    """Stored pairs: files, records or packed ones.

    The headers of all images are checked at the start, so that a long run cannot
    encounter a wrong size halfway through.
    """

    def __init__(
        self, pairs: Sequence[StoredPair], min_size: int = 1, cache_bytes: int = GIB
    ):
        """Checks the headers of all images.

        Args:
          pairs: the pairs, in the order of the indices.
          min_size: smallest usable height and width, in pixels: the crop size.
          cache_bytes: memory for decoded pairs; pairs beyond it are decoded at each
            visit.

        Raises:
          UserError: there are no pairs, or images cannot be opened, differ in size
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
        return self._pairs[index].read()


def _header_problem(pair: StoredPair, min_size: int) -> str | None:
    """The problem with a pair that the headers of its images show, or None."""
    try:
        height, width = pair.size()
    except UserError as error:
        # As an item of a list, without the advice, which the list gives only once.
        return str(error).rpartition(";")[0] or str(error).rstrip(".")
    if min(height, width) < min_size:
        return f"{pair.place()} are {width}x{height}"
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


class Together:
    """Several sources as one: first all pairs of the first, then those of the next."""

    def __init__(self, sources: Sequence[Any]):
        """Reads nothing yet.

        Args:
          sources: each a `Source`, or what stands in for one.
        """
        self.names = [name for source in sources for name in source.names]
        self._sources = list(sources)

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.names)

    def __getitem__(self, index: int) -> dict:
        """The pair `index`, see `Source`."""
        for source in self._sources:
            if index < len(source):
                return source[index]
            index -= len(source)
        raise IndexError(index)


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
    threads: int = 0,
    processes: int = 0,
) -> grain.DatasetIterator | workers.FromProcesses:
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
      threads: number of threads that make batches, in each process that does; 0: one
        for each core, 8 at most.
      processes: number of processes that are started to make batches, each with a
        cache of its own; 0: this process makes them.

    Returns:
      An iterator over dicts of ir and vis, uint8 [rows, crop, crop, 1], which are made
      in advance.  ``get_state()`` returns a small JSON-serialisable dict that depends
      neither on the rows nor on who makes the batches; an equal iterator continues
      after ``set_state()`` with exactly the next batch.

    Raises:
      UserError: the seed is out of range, or (while iterating) a file is broken, an
        image is smaller than the crop, or a process ended that makes batches.
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
    batches = _batches(crops, batch_size, rows)
    if processes:
        return workers.FromProcesses(batches, threads, processes)
    return iter(workers.in_threads(batches, threads))


def val_batches(
    source: Source,
    *,
    crop: int,
    batch_size: int,
    rows: Sequence[int] | None = None,
    threads: int = 0,
) -> Iterable[dict]:
    """Makes centre crops of all pairs, in order; can be iterated repeatedly.

    The last global batch is filled with pairs from the start, which are masked out, so
    that every process gets the same number of batches of the same size.

    Args:
      source: pairs, each at least `crop` high and wide.
      crop: side of the square window, in pixels.
      batch_size: number of samples in the global batch, over all processes.
      rows: rows of the global batch that this process loads; None for all.
      threads: see `train_batches`.

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
    batches = _batches(grain.MapDataset.range(padded).map(sample), batch_size, rows)
    return workers.in_threads(batches, threads)


def _batches(
    samples: grain.MapDataset, batch_size: int, rows: Sequence[int] | None
) -> grain.MapDataset:
    """Stacks those in `rows` of every `batch_size` samples."""
    rows = range(batch_size) if rows is None else rows

    def pick(number: int) -> dict:
        batch, row = divmod(number, len(rows))
        return samples[batch * batch_size + rows[row]]

    picked = grain.MapDataset.range(len(samples) // batch_size * len(rows)).map(pick)
    return picked.batch(len(rows))


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
