"""A teacher whose fusion is trained on pairs, for vivid pictures; not in the paper.

    python -m hkdnet_jax.main --config=configs/teacher_vivid.py --workdir=runs/vivid \
        --config.data.roots=DATA/roadscene --config.init_from=runs/teacher

It starts from a teacher of configs/teacher.py, whose features it fuses by another rule
(`models.vivid`), and needs no VGG16.  Variants: none (for an accelerator), `:lite` (a
quarter of an hour on a CPU core), `:tiny` (tests).
"""

from ml_collections import ConfigDict

from configs import teacher
from hkdnet_jax.models.vivid import LOW_SIGMA


def get_config(variant: str | None = None) -> ConfigDict:
    """The vivid teacher's run, or its variant `lite` or `tiny`.

    Raises:
      ValueError: the variant is unknown.
    """
    if variant not in (None, "lite", "tiny"):
        raise ValueError(f"variant {variant!r} is not one of: lite, tiny")
    config = teacher.get_config("tiny" if variant == "tiny" else "lite")
    config.teacher.style = "vivid"
    config.teacher.context = LOW_SIGMA
    config.loss.percep = 0.0
    if variant == "tiny":
        return config
    # It fuses by the rule from the start, and a large step size would undo that.
    config.optim.lr = 3e-4
    config.optim.clip_norm = 10.0
    config.data.crop = 64
    config.data.samples_per_epoch = 1600
    config.train.batch_size = 8
    config.train.epochs = 4  # of 200 steps each
    if variant is None:
        config.data.crop = 128
        config.data.samples_per_epoch = 12800
        config.train.batch_size = 64
        config.train.epochs = 25  # of 200 steps each
    return config
