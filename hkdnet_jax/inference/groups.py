"""Groups jobs whose pictures have the same sizes, and so the same program."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.image_files import image_size
from hkdnet_jax.inference import matching, tiles
from hkdnet_jax.inference.jobs import Job
from hkdnet_jax.inference.matching import Plan, Size
from hkdnet_jax.inference.options import Options
from hkdnet_jax.models.presets import MIN_SIDE


@dataclass(frozen=True)
class Group:
    """Jobs of the same sizes.

    Attributes:
      size: (height, width) of what the network gets.
      jobs: at least one.
      plan: how the two pictures get that size; None if they have it.
    """

    size: Size
    jobs: tuple[Job, ...]
    plan: Plan | None = None


def by_size(
    jobs: Sequence[Job], options: Options, scale: int
) -> tuple[list[Group], dict[Job, str]]:
    """Groups jobs by their sizes; the largest input of the network comes first.

    Args:
      jobs: the pairs.
      options: see `Options`; of interest are `match` and `tile`.
      scale: that of the model.

    Returns:
      The groups, and a sentence for each job that cannot be fused.
    """
    members: dict[tuple[Size, Size], list[Job]] = {}
    failures: dict[Job, str] = {}
    plans: dict[tuple[Size, Size], Plan | None] = {}
    for job in jobs:
        try:
            sizes = image_size(job.pair.ir), image_size(job.pair.vis)
            if sizes not in plans:
                plans[sizes] = _plan(job, *sizes, options.match, scale)
        except UserError as error:
            failures[job] = str(error)
        else:
            members.setdefault(sizes, []).append(job)

    groups = []
    for sizes, found in members.items():
        plan = plans[sizes]
        groups.append(Group(plan.size if plan else sizes[0], tuple(found), plan))

    def pixels(group: Group) -> tuple[int, int]:
        tile = tiles.tile_shape(group.size, options.tile)
        return math.prod(tile), math.prod(group.size)

    return sorted(groups, key=pixels, reverse=True), failures


def _plan(job: Job, ir: Size, vis: Size, match: bool, scale: int) -> Plan | None:
    """How a job's pictures get one size, or None if they have it.

    Raises:
      UserError: they are too small, or cannot get one size.
    """
    for path, (height, width) in ((job.pair.ir, ir), (job.pair.vis, vis)):
        if min(height, width) < MIN_SIDE:
            raise UserError(
                f"{path} is {width}x{height} pixels, too small to fuse: both sides "
                f"need at least {MIN_SIDE}."
            )
    if ir == vis:
        return None
    both = f"{job.pair.ir} is {ir[1]}x{ir[0]} but {job.pair.vis} is {vis[1]}x{vis[0]}"
    if not match:
        raise UserError(
            f"{both}: give --match if they show one view, or register them, and crop "
            "or resize them to the same size."
        )
    try:
        return matching.plan(ir, vis, scale if scale > 1 else None)
    except ValueError as error:
        raise UserError(f"{both}, and {error}.") from error
