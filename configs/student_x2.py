"""The student at x2 (Sec. III-B to III-E).

    python -m hkdnet_jax.main --config=configs/student_x2.py --workdir=runs/x2 \
        --config.data.roots=DATA/roadscene --config.teacher.dir=runs/teacher

Variants: none (the paper's run, for an accelerator), `:short` (both phases of the full
network in 2,500 steps), `:lite` (20 to 60 minutes on two CPU cores), `:base` (the same
run with a wider network, 2.2 times the computation), `:tiny` (tests).
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str | None = None) -> ConfigDict:
    """The run at x2; see `base.student` for the variants."""
    return base.student(2, variant)
