"""The subjects of `python -m hkdnet_jax.benchmark`, with their sizes and columns."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from hkdnet_jax.common.errors import needs_extra
from hkdnet_jax.measuring import kernels, networks
from hkdnet_jax.measuring.measure import Row, Settings, Size
from hkdnet_jax.measuring.table import Column
from hkdnet_jax.models.presets import MIN_CROP, MIN_SIDE, SCALES

_SIZE = Column("size", "size", 11)
_BATCH = Column("batch", "batch", 5)
_PASSES = Column("passes", "passes", 16)
_SECONDS = (
    Column("seconds", "seconds", 9, 4),
    Column("min", "seconds_min", 9, 4),
    Column("max", "seconds_max", 9, 4),
    Column("compile s", "compile_seconds", 9),
    Column("GFLOP/s", "gflops", 8),
)
_PEAK = Column("peak MB", "peak_rss_bytes", 8, 0, 1e-6)
_DEVICE = Column("device MB", "peak_device_bytes", 9, 0, 1e-6)
_PROGRAM = Column("program MB", "program_bytes", 10, 1, 1e-6)
PARITY_COLUMNS = (
    Column("case", "case", 40),
    Column("difference", "difference", 12, 8),
    Column("tolerance", "tolerance", 10, 5),
    Column("equal", "verdict", 6),
)
FLICKER_COLUMNS = (
    Column("sequence", "sequence", 16),
    Column("method", "method", 16),
    Column("steps", "steps", 5),
    Column("change", "change", 8, 2),
    Column("label's", "label_change", 8, 2),
    Column("excess", "excess", 8, 2),
    Column("pumping", "pumping", 8, 2),
)
EXPORTED_COLUMNS = (
    _SIZE,
    Column("format", "kind", 12),
    Column("seconds", "seconds", 9, 4),
    Column("min", "seconds_min", 9, 4),
    Column("max", "seconds_max", 9, 4),
    Column("of first", "relative", 8, 2),
    Column("start s", "compile_seconds", 8, 2),
    Column("PSNR dB", "psnr", 8),
    Column("difference", "difference", 10, 7),
    Column("file MB", "file_bytes", 8, 2, 1e-6),
    Column("file", "file", 24),
)
PEERS_COLUMNS = (
    _SIZE,
    _BATCH,
    Column("kind", "kind", 11),
    Column("seconds", "seconds", 9, 4),
    Column("min", "seconds_min", 9, 4),
    Column("max", "seconds_max", 9, 4),
    Column("of ours", "relative", 8, 2),
    Column("start s", "compile_seconds", 8, 2),
    Column("program", "file", 24),
)
METRICS_COLUMNS = (
    _SIZE,
    Column("metric", "metric", 8),
    Column("threads", "workers", 7),
    Column("ms/pair", "seconds", 9, 2, 1e3),
    Column("min", "seconds_min", 9, 2, 1e3),
    Column("max", "seconds_max", 9, 2, 1e3),
    Column("compile s", "compile_seconds", 9),
    Column("plain ms", "plain_seconds", 10, 1, 1e3),
    Column("speedup", "speedup", 8),
    _PEAK,
)


@dataclasses.dataclass(frozen=True)
class Subject:
    """A subcommand whose rows are measured in new processes.

    Attributes:
      what: description for --help.
      sizes: default of --size.
      measure: function (settings, size, **varied) -> rows, called in a new process.
      columns: columns of the table.
      varied: values of further arguments of `measure`; each combination of them has a
        process.
      fits: function that fits laws to all rows.
      scales: values that --scale may have.
      least_side: shortest side of a size, in pixels.
      trains: whether sizes must be square and the devices share the batch.
    """

    what: str
    sizes: str
    measure: Callable[..., list[Row]]
    columns: tuple[Column, ...]
    varied: dict[str, Sequence[Any]] = dataclasses.field(default_factory=dict)
    fits: Callable[[list[Row]], list[Row]] = lambda rows: []
    scales: Sequence[int] = SCALES
    least_side: int = MIN_SIDE
    trains: bool = False


def measure_train(settings: Settings, size: Size, phase: int) -> list[Row]:
    """Calls `train_step.measure_train`; what it imports is not part of every install.

    Raises:
      UserError: the packages that training needs are not installed.
    """
    with needs_extra("Measuring a train step", "train"):
        from hkdnet_jax.measuring import train_step
    return train_step.measure_train(settings, size, phase)


def measure_data(settings: Settings, size: Size) -> list[Row]:
    """Calls `data_loading.measure_data`; see `measure_train`.

    Raises:
      UserError: the packages that training or its data need are not installed.
    """
    with needs_extra("Measuring the loader", "train,data"):
        from hkdnet_jax.measuring import data_loading
    return data_loading.measure_data(settings, size)


SUBJECTS = {
    "fuse": Subject(
        "fusing pairs of pictures, from arrays to arrays; scale 1 is the teacher, "
        "which is the same for all presets",
        "64x64,128x128",
        networks.measure_fuse,
        (
            _SIZE,
            _BATCH,
            *_SECONDS,
            Column("images/s", "images_per_second", 8, 2),
            Column("out MP/s", "megapixels_per_second", 8, 3),
            _PEAK,
            _DEVICE,
        ),
        fits=networks.fuse_fits,
    ),
    "train": Subject(
        "the student's train step in both phases, with its teacher and its input; "
        "sizes are those of the low-resolution crops, which are square",
        "32x32,64x64",
        measure_train,
        (
            _SIZE,
            _BATCH,
            Column("phase", "phase", 5),
            *_SECONDS,
            Column("samples/s", "samples_per_second", 9, 2),
            Column("input %", "input_wait_share", 7, 2, 100),
            _PEAK,
            _DEVICE,
        ),
        {"phase": (1, 2)},
        scales=SCALES[1:],
        least_side=MIN_CROP,
        trains=True,
    ),
    "data": Subject(
        "loading 128x128 crops of made pairs from JPEG, PNG, records of TFDS, a packed "
        "file and the cache, in CPU time, and a student's step that is fed by each",
        "512x640",
        measure_data,
        (
            _SIZE,
            Column("storage", "storage", 8),
            Column("ms/sample", "cpu_seconds", 10, 3, 1e3),
            Column("min", "cpu_seconds_min", 8, 3, 1e3),
            Column("max", "cpu_seconds_max", 8, 3, 1e3),
            Column("per core s", "samples_per_core_second", 10, 0),
            Column("x JPEG", "relative", 7, 1),
            Column("kB/pair", "bytes_per_pair", 8, 0, 1e-3),
            Column("step s", "step_seconds", 8, 3),
            Column("its CPU s", "step_cpu_seconds", 9, 3),
            Column("input %", "input_wait_share", 7, 2, 100),
        ),
        scales=SCALES[1:],
        least_side=128,
    ),
    "attention": Subject(
        "the position attention with the preset's channels, over all HxW positions, "
        "in the blocked and the materialized form (--scale has no effect)",
        "80x80,112x112,160x160",
        kernels.measure_attention,
        (
            _SIZE,
            _BATCH,
            Column("form", "implementation", 12),
            _PASSES,
            *_SECONDS,
            _PROGRAM,
            Column("resident MB", "rss_above_baseline_bytes", 11, 1, 1e-6),
            _PEAK,
        ),
        {"implementation": kernels.IMPLEMENTATIONS, "passes": kernels.PASSES},
        fits=kernels.attention_fits,
    ),
    "conv": Subject(
        "a residual group of the preset with our 3x3 convolution and with XLA's, "
        "beside a large matrix product (--scale has no effect)",
        "64x64",
        kernels.measure_conv,
        (
            _SIZE,
            _BATCH,
            Column("way", "way", 13),
            _PASSES,
            *_SECONDS,
            Column("of matmul %", "share_of_matmul", 11, 1, 100),
            Column("x XLA", "speedup_over_xla", 6, 2),
            Column("difference", "difference_to_xla", 10, 7),
            _PROGRAM,
        ),
    ),
}
