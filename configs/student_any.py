"""Our student for any factor from 1.5 to 4, trained once; it is not in the paper.

    python -m hkdnet_jax.main --config=configs/student_any.py --workdir=runs/any \
        --config.data.roots=DATA/roadscene --config.teacher.dir=runs/teacher \
        --config.init_from=runs/x2

A factor is drawn at each step.  `fuse --model runs/any --scale 2.5` then fuses at any
of them.  Variants: none (`lite`, whose body may start from a student of the same sizes,
of any scale), `:tiny` (tests).
"""

from ml_collections import ConfigDict

from configs import base
from hkdnet_jax.models.presets import LARGEST_SCALE

_VARIANTS = {None: "lite", "lite": "lite", "tiny": "tiny"}


def get_config(variant: str | None = None) -> ConfigDict:
    """The run for all factors.

    Raises:
      ValueError: the variant is unknown.
    """
    if variant not in _VARIANTS:
        raise ValueError(f"variant {variant!r} is not one of: lite, tiny")
    config = base.student(2, _VARIANTS[variant])
    config.model.upsampler = "continuous"
    config.data.crop = 16 * LARGEST_SCALE  # 16x16 low-resolution pixels
    if variant == "tiny":
        config.data.val_crop = 72
    return config
