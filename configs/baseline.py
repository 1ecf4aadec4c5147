"""The compared systems of Table I that are trained here, on a CPU.

    python -m hkdnet_jax.main --config=configs/baseline.py:edsr_x2 \
        --workdir=weights/edsr_x2 --config.data.roots=DATA/roadscene

Variants: `edsr_x2`, `edsr_x3`, `edsr_x4` and `rcan_x2`, `rcan_x3`, `rcan_x4`, with the
crops, the steps and the schedule of our own students' `:lite`; `densefuse`; `cnn`;
`cen`, which learns all scales at once.  A workdir of that name in one folder is what
`compare --weights` looks for.
"""

from ml_collections import ConfigDict

from configs import base

VARIANTS = (
    *("edsr_x2", "edsr_x3", "edsr_x4", "rcan_x2", "rcan_x3", "rcan_x4"),
    *("densefuse", "cnn", "cen"),
)


def get_config(variant: str | None = None) -> ConfigDict:
    """The run of a system.

    Raises:
      ValueError: the variant is unknown.
    """
    config = base.student(2, "lite")
    config.kind = "baseline"
    name, _, scale = (variant or "edsr_x2").partition("_x")
    config.baseline = name
    if name in ("edsr", "rcan") and scale in ("2", "3", "4"):
        config.scale = int(scale)
        config.data.crop = 16 * config.scale
        config.optim.lr = 1e-3
    elif variant == "densefuse":
        config.data.crop = 64
        config.train.batch_size = 16
        config.data.samples_per_epoch = 1600
        config.train.epochs = 8  # of 100 steps each
        config.optim.lr = 1e-3
    elif variant == "cnn":
        config.data.crop = 32  # the middle 16 are used; the rest is for the blur
        config.data.samples_per_epoch = 6400
        config.train.epochs = 10
        config.optim.lr = 2e-4
    elif variant == "cen":
        config.data.crop = 96  # 24 small pixels at the largest factor
        config.train.batch_size = 4
        config.data.samples_per_epoch = 400
        config.train.epochs = 6  # of 100 steps each
        config.optim.lr = 5e-4
    else:
        known = ", ".join(VARIANTS)
        raise ValueError(f"variant {variant!r} is not one of: {known}")
    return config
