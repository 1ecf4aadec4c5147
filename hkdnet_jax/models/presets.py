"""Sizes and readings of the student, by name."""

import dataclasses

SCALES = (1, 2, 3, 4)  # output pixels per input pixel; 1 is a teacher's
# Smallest side of an input in pixels: below it nearly every pixel is border, and
# what is left of the picture is what the padding made up.
MIN_SIDE = 8


@dataclasses.dataclass(frozen=True)
class StudentConfig:
    """Sizes and readings of the student; the defaults are the paper's (`full`).

    Attributes:
      width: channels C.
      branch_rcabs: RCABs in each residual group of the two extraction branches.
      dfabs: DFABs in the infrared branch's DFAG.
      decoder: channels of the fusion decoder's convolutions before the last, which
        has 16.
      sr_groups: residual groups of the super-resolution part.
      sr_rcabs: RCABs in each of them.
      reduction: channel reduction of the RCABs' gates.
      dfag: False leaves DFAG out (Table II).
      cea: False leaves CEA out (Table II).
      dfa_softmax: Eq. 6 over `spatial`, `width` or `channel`.
      position_softmax: Eq. 10 as `row` or (literally) `joint`.
      position_pool: the position attention's keys and values are means over squares
        of so many pixels a side; 1 is the paper's, whose time is quadratic in pixels.
      channel_softmax: Eq. 12 as `row` or (literally) `joint`.
      corner_gamma: threshold of Eq. 8 as a share of the channel's maximum.
      global_skip: adds the bicubic upsampling of `fusion.fuse_images` to the output, so
        that the network learns only what interpolation misses.  Not in the paper.
      skip_alpha: its alpha; the teacher's serves best.
      skip_damping: its damping; likewise.
    """

    width: int = 64
    branch_rcabs: int = 9
    dfabs: int = 6
    decoder: tuple[int, ...] = (64, 64, 32)
    sr_groups: int = 5
    sr_rcabs: int = 20
    reduction: int = 16
    dfag: bool = True
    cea: bool = True
    dfa_softmax: str = "spatial"
    position_softmax: str = "row"
    position_pool: int = 1
    channel_softmax: str = "row"
    corner_gamma: float = 0.7
    global_skip: bool = False
    skip_alpha: float = 0.5
    skip_damping: float = 0.0


PRESETS = {
    "full": StudentConfig(),
    # Eq. 6 over the channels: over all positions, a hot spot in a picture far larger
    # than the small training crops gets a weight training never saw, and burns out.
    "lite": StudentConfig(
        width=32,
        branch_rcabs=1,
        dfabs=1,
        decoder=(32, 32, 32),
        sr_groups=2,
        sr_rcabs=3,
        reduction=8,
        dfa_softmax="channel",
        position_pool=8,
        global_skip=True,
        skip_alpha=0.3,
        skip_damping=1.0,
    ),
    "tiny": StudentConfig(
        width=8,
        branch_rcabs=1,
        dfabs=1,
        decoder=(8, 8, 8),
        sr_groups=1,
        sr_rcabs=2,
        reduction=4,
        dfa_softmax="channel",
        position_pool=2,
        global_skip=True,
    ),
}
