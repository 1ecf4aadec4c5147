"""Sources whose pixels tell where they come from, and batches of them."""

import itertools
from collections import Counter

import numpy as np

from data_pipelines.loader import Source, train_batches

HEIGHT, WIDTH = 12, 14


class Coded(Source):
    """Every pixel tells its pair, row and column; vis is the complement of ir."""

    def __init__(self, count: int, height: int = HEIGHT, width: int = WIDTH):
        super().__init__([f"p{i}" for i in range(count)], cache_bytes=0)
        self.shape = (height, width)
        self.visits: Counter = Counter()

    def __getitem__(self, index: int) -> dict:
        self.visits[index] += 1
        rows, columns = np.indices(self.shape, dtype=np.uint8)
        ir = np.stack([np.full(self.shape, index, np.uint8), rows, columns], -1)
        return {"name": self.names[index], "ir": ir, "vis": 255 - ir}


def corners(batch: dict) -> list[tuple[int, int, int]]:
    """(pair, top, left) of each sample, from its first pixel."""
    return [tuple(int(v) for v in sample[0, 0]) for sample in batch["ir"]]


def stream(source, batches, **options) -> list[dict]:
    settings = {"crop": 8, "batch_size": 4, "samples_per_epoch": 1, "seed": 0}
    iterator = train_batches(source, **(settings | options))
    taken = list(itertools.islice(iterator, batches))
    iterator.close()
    return taken


def samples(source, batches, **options) -> list[tuple[int, int, int]]:
    return [s for batch in stream(source, batches, **options) for s in corners(batch)]


def equal(a: dict, b: dict) -> bool:
    return all(np.array_equal(a[key], b[key]) for key in ("ir", "vis"))
