"""A teacher whose fusion is trained on pairs, for vivid pictures; not in the paper.

    python -m hkdnet_jax.main --config=configs/teacher_vivid.py --workdir=runs/vivid \
        --config.data.roots=DATA/roadscene --config.init_from=runs/teacher

It starts from a teacher of configs/teacher.py, and needs no VGG16.  Variants: none
(minutes on a GPU), `:lite` (20 minutes on a CPU core), `:tiny` (tests).
"""

from ml_collections import ConfigDict

from configs import teacher
from hkdnet_jax.losses.vivid import LOW_SIGMA


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
    # The target's low part reaches over 61 pixels, so the crops are large.
    config.data.crop = 128
    config.train.batch_size = 6
    config.data.samples_per_epoch = 600
    config.train.epochs = 10  # of 100 steps each
    config.val_every_epochs = 2
    config.optim.clip_norm = 10.0
    if variant is None:
        config.train.batch_size = 64
        config.data.samples_per_epoch = 12800
        config.train.epochs = 50  # of 200 steps each
    return config
