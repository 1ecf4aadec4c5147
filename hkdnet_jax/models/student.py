"""The student: fuses a LOW-resolution pair and upsamples it (Sec. III-B, III-C)."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from hkdnet_jax.common.arrays import resize_bicubic
from hkdnet_jax.models.attention import CEA, DFAG
from hkdnet_jax.models.blocks import ResidualGroup, Upsampler
from hkdnet_jax.models.fusion import fuse_features, fuse_images
from hkdnet_jax.models.presets import StudentConfig
from hkdnet_jax.ops.conv import Conv1x1, Conv3x3

FUSED_CHANNELS = 16  # of F_f^s, which Eq. 22 compares with the teacher's decoder
TEACHER_CHANNELS = 64  # of the teacher's feature that the upsampler output learns


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
