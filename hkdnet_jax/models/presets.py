"""The student's sizes and readings of the paper, and named presets of them."""

import dataclasses

from hkdnet_jax.common import keys
from hkdnet_jax.common.keys import key
from hkdnet_jax.models.attention import DFA_AXES
from hkdnet_jax.models.remat import REMAT
from hkdnet_jax.ops.position_attention import SOFTMAX

SCALES = (1, 2, 3, 4)  # output pixels per input pixel along a side; 1 for a teacher
# The factors of a student with a continuous upsampler.
LEAST_SCALE, LARGEST_SCALE = 1.5, 4
UPSAMPLERS = ("subpixel", "continuous")
# How a teacher fuses, and the students that learn from it; the paper's is the first.
STYLES = ("balanced", "vivid")
# Smallest side of an input in pixels: in a smaller image nearly every pixel is close to
# the border, and the padding determines most of the picture.
MIN_SIDE = 8
# SSIM's window is 11 pixels, and a low-resolution crop needs some context.
MIN_CROP = 16


@dataclasses.dataclass(frozen=True)
class StudentConfig:
    """The student's sizes and readings of the paper; by default the paper's (`full`).

    Raises:
      ValueError: a value breaks its limits, or its type is not that of its default.
    """

    width: int = key(64, "channels C", at_least=1)
    branch_rcabs: int = key(
        9,
        "RCABs in each residual group of the two extraction branches",
        at_least=1,
    )
    dfabs: int = key(6, "DFABs in the infrared branch's DFAG", at_least=1)
    decoder: tuple[int, ...] = key(
        (64, 64, 32),
        "channels of the fusion decoder's convolutions before the last, which has 16",
    )
    sr_groups: int = key(5, "residual groups of the super-resolution part", at_least=1)
    sr_rcabs: int = key(
        20, "RCABs in each group of the super-resolution part", at_least=1
    )
    upsampler: str = key(
        "subpixel",
        "how features are enlarged: subpixel, the paper's, by one factor; continuous, "
        "by any factor from 1.5 to 4, all of which one network learns; not in the "
        "paper",
        choices=UPSAMPLERS,
    )
    reduction: int = key(16, "channel reduction of the RCABs' gates", at_least=1)
    dfag: bool = key(True, "whether the infrared branch has a DFAG (Table II)")
    stand_in_rcabs: int = key(
        0,
        "RCABs in the place of a DFAG that is off, so that an ablation compares "
        "networks of about equal size; not in the paper",
        at_least=0,
    )
    cea: bool = key(True, "whether the visible branch has a CEA (Table II)")
    attention_start: float = key(
        0.0,
        "value at which the learned scales of DFAG and CEA start (Eq. 7, 9, 11, 13)",
        at_least=0.0,
    )
    dfa_softmax: str = key(
        "spatial", "what Eq. 6 normalises over", choices=tuple(DFA_AXES)
    )
    position_softmax: str = key(
        "row", "Eq. 10 by rows, or literally (joint)", choices=SOFTMAX
    )
    position_pool: int = key(
        1,
        "side in pixels of the squares over which the position attention averages its "
        "keys and values; 1 is the paper's, whose time is quadratic in the pixels",
        at_least=1,
    )
    position_keys: int = key(
        0,
        "most keys of the position attention: in a larger picture the side of their "
        "squares doubles until no more are left, so that time is linear in the pixels; "
        "0 for no limit, which is the paper's",
        at_least=0,
    )
    channel_softmax: str = key(
        "row", "Eq. 12 by rows, or literally (joint)", choices=SOFTMAX
    )
    corner_gamma: float = key(
        0.7,
        "threshold of Eq. 8 as a share of the channel's maximum",
        above=0.0,
        below=1.0,
    )
    global_skip: bool = key(
        False,
        "adds the bicubic upsampling of `fusion.fuse_images` to the output, so that "
        "the network learns only what interpolation misses; not in the paper",
    )
    skip_alpha: float = key(
        0.5, "alpha of the global skip; the teacher's works best", at_least=0.0
    )
    skip_damping: float = key(
        0.0, "damping of the global skip; the teacher's works best", at_least=0.0
    )
    skip_context: float = key(
        0.0,
        "if it is not 0, the global skip fuses by the vivid rule, and this is the "
        "standard deviation of its low parts in low-resolution pixels: that of a vivid "
        "teacher divided by the scale",
        at_least=0.0,
        below=100.0,
    )
    remat: str = key(
        "none",
        "what training computes again instead of keeping it for the backward pass: "
        "convs, in RCABs and DFABs all but the outputs of convolutions; full, all "
        "inside these blocks",
        choices=REMAT,
    )

    def __post_init__(self):
        """Checks every value, whatever its source."""
        for name, value, remedy in keys.problems(self):
            raise ValueError(f"model.{name} is {value!r}: {remedy}")
        if not all(type(width) is int and width >= 1 for width in self.decoder):
            raise ValueError(
                f"model.decoder is {self.decoder!r}: each number of channels must be "
                "a whole number of at least 1"
            )


# Eq. 6 normalises over the channels.  If it did over all positions, a hot spot in a
# picture far larger than the small training crops would get a weight that training
# never saw, and would burn out.
_LITE = StudentConfig(
    width=32,
    branch_rcabs=1,
    dfabs=1,
    decoder=(32, 32, 32),
    sr_groups=2,
    sr_rcabs=3,
    reduction=8,
    dfa_softmax="channel",
    position_pool=8,
    position_keys=512,
    global_skip=True,
    skip_alpha=0.3,
    skip_damping=1.0,
)
PRESETS = {
    "full": StudentConfig(),
    # Wider than `lite` rather than deeper, since more layers did not help that one.
    "base": dataclasses.replace(
        _LITE, width=48, decoder=(48, 48, 32), sr_rcabs=5, reduction=12
    ),
    "lite": _LITE,
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
