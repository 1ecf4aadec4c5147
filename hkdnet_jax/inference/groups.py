"""Groups jobs by the sizes of their pictures, and groups that share a program."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.image_files import image_size
from hkdnet_jax.inference import matching, tiles
from hkdnet_jax.inference.jobs import Job
from hkdnet_jax.inference.matching import Plan, Size
from hkdnet_jax.inference.options import Options
from hkdnet_jax.inference.shapes import cover
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


@dataclass(frozen=True)
class Shared:
    """Groups whose pairs go through one program.

    Attributes:
      shape: (height, width) of the arrays that the network gets.
      groups: at least one; all of them are matched, or none.
    """

    shape: Size
    groups: tuple[Group, ...]

    @property
    def padded(self) -> bool:
        """Whether some images are smaller than their arrays."""
        return any(group.size != self.shape for group in self.groups)

    @property
    def jobs(self) -> tuple[Job, ...]:
        """The jobs of all groups."""
        return tuple(job for group in self.groups for job in group.jobs)

    def apart(self) -> list["Shared"]:
        """The groups, each with a program for its own size."""
        return [Shared(group.size, (group,)) for group in self.groups]


def by_program(groups: Sequence[Group], tile: int | None, pads: bool) -> list[Shared]:
    """Puts groups together, so that a folder of many sizes compiles few programs.

    A folder of few sizes has a program for each, see `shapes.cover`.  Images that are
    cut into tiles keep their size, because their tiles share programs anyway.

    Args:
      groups: the groups, see `by_size`.
      tile: longest side of a tile; None if images are not cut.
      pads: whether the model takes images that are smaller than their arrays; the
        teacher, which gets the matched pairs, always does.

    Returns:
      All groups; the largest input of the network comes first.
    """
    found: list[Shared] = []
    sharing: dict[bool, list[Group]] = {False: [], True: []}  # by whether it is matched
    for group in groups:
        cut = tiles.tile_shape(group.size, tile) != group.size
        if cut or not (pads or group.plan):
            found.append(Shared(group.size, (group,)))
        else:
            sharing[group.plan is not None].append(group)
    for members in sharing.values():
        counts = Counter[Size]()
        for group in members:
            counts[group.size] += len(group.jobs)
        shape_of = cover(counts)
        together: dict[Size, list[Group]] = {}
        for group in members:
            together.setdefault(shape_of[group.size], []).append(group)
        found += [Shared(shape, tuple(some)) for shape, some in together.items()]

    def pixels(shared: Shared) -> tuple[int, int]:
        piece = tiles.tile_shape(shared.shape, tile)
        return math.prod(piece), math.prod(shared.shape)

    return sorted(found, key=pixels, reverse=True)


def by_size(
    jobs: Sequence[Job], options: Options, scale: float
) -> tuple[list[Group], dict[Job, str]]:
    """Groups jobs by their sizes.

    Args:
      jobs: the pairs.
      options: see `Options`; of interest is `match`.
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
    return groups, failures


def _plan(job: Job, ir: Size, vis: Size, match: bool, scale: float) -> Plan | None:
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
