"""The one offset of all pairs that two cameras on a fixed rig took."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.inference.alignment import (
    PAIRS_LOOKED_AT,
    Alignment,
    NotAligned,
    estimate,
    most_common,
)
from hkdnet_jax.inference.groups import Group
from hkdnet_jax.inference.inputs import View, read_inputs
from hkdnet_jax.inference.options import Options


def find_rig(groups: Sequence[Group], options: Options, view: View) -> Alignment:
    """Finds the offset that most of some pairs, evenly spread, agree on.

    Args:
      groups: all jobs.
      options: see `Options`; `align` is the motion.
      view: how two sizes become one.

    Raises:
      UserError: the pairs have several sizes, or do not agree.
    """
    sizes = sorted({group.size for group in groups})
    if len(sizes) > 1:
        shown = ", ".join(f"{width}x{height}" for height, width in sizes[:3])
        raise UserError(
            f"--align-once needs pairs of one size, but there are {shown}: leave it "
            "out, so that each pair is aligned by itself."
        )
    jobs = [(job, group.plan) for group in groups for job in group.jobs]
    chosen = np.linspace(0, len(jobs) - 1, min(len(jobs), PAIRS_LOOKED_AT)).astype(int)
    as_they_are = dataclasses.replace(options, align=None, color="gray")
    found, looked_at = [], 0
    for job, plan in (jobs[index] for index in np.unique(chosen)):
        try:
            inputs = read_inputs(
                job.pair, as_they_are, dataclasses.replace(view, plan=plan)
            )
            looked_at += 1
            pair = inputs.ir[..., 0], inputs.vis[..., 0]
            found.append(estimate(*pair, options.align))
        except (UserError, NotAligned):
            continue  # an unreadable file is said when its turn comes
    try:
        return most_common(found, looked_at)
    except NotAligned as error:
        raise UserError(
            f"--align-once finds no offset, because {error}: leave it out, so that "
            "each pair is aligned by itself, or register them by hand."
        ) from error
