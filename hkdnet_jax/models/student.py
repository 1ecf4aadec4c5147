"""The student: fuses a LOW-resolution pair and upsamples it (Sec. III-B, III-C)."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn

from hkdnet_jax.images import resize_bicubic
from hkdnet_jax.models.attention import CEA, DFAG
from hkdnet_jax.models.blocks import ResidualGroup, Upsampler
from hkdnet_jax.models.fusion import fuse_features, fuse_images
from hkdnet_jax.ops.conv import Conv1x1, Conv3x3

FUSED_CHANNELS = 16  # of F_f^s, which Eq. 22 compares with the teacher's decoder
TEACHER_CHANNELS = 64  # of the teacher's feature that the upsampler output learns


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


class InfraredBranch(nn.Module):
    """Conv 1->C, one residual group, DFAG (Fig. 2)."""

    config: StudentConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, ir: jax.Array) -> jax.Array:
        """Maps [N, H, W, 1] to [N, H, W, C]."""
        cfg = self.config
        x = Conv3x3(cfg.width, dtype=self.dtype, name="conv")(ir)
        x = ResidualGroup(cfg.branch_rcabs, cfg.reduction, self.dtype, name="rg")(x)
        if cfg.dfag:
            group = DFAG(
                cfg.dfabs, cfg.reduction, cfg.dfa_softmax, self.dtype, name="dfag"
            )
            x = group(x)
        return x


class VisibleBranch(nn.Module):
    """Conv 1->C, two residual groups, CEA (Fig. 3)."""

    config: StudentConfig
    dtype: jnp.dtype = jnp.float32
    attention: str = "auto"

    @nn.compact
    def __call__(self, vis: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Maps [N, H, W, 1] to [N, H, W, C]; also returns CEA's intermediates."""
        cfg = self.config
        out = {}
        x = Conv3x3(cfg.width, dtype=self.dtype, name="conv")(vis)
        for i in (1, 2):
            group = ResidualGroup(
                cfg.branch_rcabs, cfg.reduction, self.dtype, name=f"rg{i}"
            )
            x = group(x)
        if cfg.cea:
            cea = CEA(
                cfg.corner_gamma,
                cfg.position_softmax,
                cfg.channel_softmax,
                cfg.position_pool,
                self.attention,
                self.dtype,
                name="cea",
            )
            x, out = cea(x)
        return x, out


class FusionPart(nn.Module):
    """Both branches, the fusion layer and the decoder: what phase 1 trains."""

    config: StudentConfig
    dtype: jnp.dtype = jnp.float32
    attention: str = "auto"

    @nn.compact
    def __call__(
        self, ir: jax.Array, vis: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Maps two [N, H, W, 1] images to F_f^s, [N, H, W, 16], and intermediates."""
        f_ir = InfraredBranch(self.config, self.dtype, name="ir")(ir)
        visible = VisibleBranch(self.config, self.dtype, self.attention, name="vis")
        f_vis, out = visible(vis)
        x = fused = fuse_features(f_ir, f_vis)
        for i, features in enumerate((*self.config.decoder, FUSED_CHANNELS)):
            conv = Conv3x3(features, dtype=self.dtype, name=f"decoder{i + 1}")
            x = nn.relu(conv(x))
        out |= {"branch_ir": f_ir, "branch_vis": f_vis, "fused": fused, "decoded": x}
        return x, out


class SuperResolutionPart(nn.Module):
    """Residual groups, sub-pixel upsampler and tail (Sec. III-C)."""

    config: StudentConfig
    scale: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Maps F_f^s [N, H, W, 16] to an image [N, scale * H, scale * W, 1].

        The second result holds `upsampled` (C channels) and `tail` (16 channels), both
        high-resolution: the student's side of Eq. 23.
        """
        cfg = self.config
        head = y = Conv3x3(cfg.width, dtype=self.dtype, name="head")(x)
        for i in range(cfg.sr_groups):
            group = ResidualGroup(
                cfg.sr_rcabs, cfg.reduction, self.dtype, name=f"rg{i + 1}"
            )
            y = group(y)
        y = head + Conv3x3(cfg.width, dtype=self.dtype, name="body")(y)
        up = Upsampler(self.scale, self.dtype, name="upsampler")(y)
        tail = Conv3x3(FUSED_CHANNELS, dtype=self.dtype, name="tail")(up)
        image = Conv3x3(1, dtype=self.dtype, name="image")(tail)
        return image, {"upsampled": up, "tail": tail}


class Student(nn.Module):
    """Low-resolution pair to one fused image at `scale` times the resolution.

    Its parameters are the two subtrees `fusion` and `sr`.

    Attributes:
      config: sizes and readings.
      scale: 2, 3 or 4.
      dtype: of the arithmetic; parameters, softmax and the image are float32.
      attention: how the position attention is computed, which changes its result by
        rounding alone: see `ops.position_attention`.
    """

    config: StudentConfig
    scale: int
    dtype: jnp.dtype = jnp.float32
    attention: str = "auto"

    def setup(self):
        """Declares the two parts."""
        self.fusion = FusionPart(self.config, self.dtype, self.attention)
        self.sr = SuperResolutionPart(self.config, self.scale, self.dtype)

    def __call__(
        self, ir: jax.Array, vis: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Fuses float [N, H, W, 1] images in [0, 1].

        Returns:
          image: float32 [N, scale * H, scale * W, 1], nominally in [0, 1], not clipped.
          out: named intermediates: `corner`, `position`, `channel`, `corner_mask`
            (when CEA is on), `branch_ir`, `branch_vis`, `fused`, `decoded` (F_f^s),
            `upsampled`, `tail`.
        """
        decoded, out = self.fusion(ir, vis)
        image, sr_out = self.sr(decoded)
        image = image.astype(jnp.float32)
        cfg = self.config
        if cfg.global_skip:
            fused = fuse_images(ir, vis, cfg.skip_alpha, cfg.skip_damping)
            image = image + resize_bicubic(fused, self.scale)
        return image, out | sr_out

    def fuse_only(
        self, ir: jax.Array, vis: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The fusion part alone (phase 1): F_f^s [N, H, W, 16] and intermediates."""
        return self.fusion(ir, vis)


class FeatureAdapter(nn.Module):
    """1x1 map of the upsampler output to the teacher's 64 channels (Eq. 23).

    Exists only in training, and only where a preset's width is not 64.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [N, H, W, C] to [N, H, W, 64]."""
        return Conv1x1(TEACHER_CHANNELS, name="conv")(x)
