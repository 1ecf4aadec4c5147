"""The student: fuses a LOW-resolution pair and upsamples it (Sec. III-B, III-C)."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from hkdnet_jax.models import strips
from hkdnet_jax.models.attention import CEA, DFAG
from hkdnet_jax.models.blocks import ResidualGroup
from hkdnet_jax.models.fusion import fuse_features, fuse_images
from hkdnet_jax.models.presets import StudentConfig
from hkdnet_jax.models.super_resolution import SuperResolutionPart
from hkdnet_jax.models.vivid import vivid_images
from hkdnet_jax.ops import portable
from hkdnet_jax.ops.barriers import after
from hkdnet_jax.ops.conv import Conv1x1, Conv3x3
from hkdnet_jax.ops.extent import Extent, clear, enlarge_bicubic
from hkdnet_jax.ops.places import Window, resize_cubic
from hkdnet_jax.runtime.precision import FULL

# Channels of F_f^s, which Eq. 22 compares with the teacher's decoder.
FUSED_CHANNELS = 16
# Channels of the teacher's feature that the upsampler's output learns from.
TEACHER_CHANNELS = 64


class InfraredBranch(nn.Module):
    """The infrared branch (Fig. 2): conv 1->C, one residual group, DFAG.

    A DFAG that is off may be replaced by a second residual group.
    """

    config: StudentConfig
    dtype: jnp.dtype = jnp.float32
    precision: str = FULL
    in_strips: bool = False

    @nn.compact
    def __call__(self, ir: jax.Array, extent: Extent | None = None) -> jax.Array:
        """Maps [N, H, W, 1] to [N, H, W, C]."""
        cfg = self.config
        arithmetic = {"dtype": self.dtype, "precision": self.precision}
        x = Conv3x3(cfg.width, **arithmetic, name="conv")(ir, extent)
        arithmetic["remat"] = cfg.remat
        group = partial(ResidualGroup, cfg.branch_rcabs, cfg.reduction)
        x = group(**arithmetic, name="rg")(x, extent)
        if cfg.dfag:
            sizes = cfg.dfabs, cfg.reduction, cfg.dfa_softmax, cfg.attention_start
            dfag = partial(DFAG, *sizes, in_strips=self.in_strips)
            x = dfag(**arithmetic, name="dfag")(x, extent)
        elif cfg.stand_in_rcabs:
            stand_in = partial(ResidualGroup, cfg.stand_in_rcabs, cfg.reduction)
            x = stand_in(**arithmetic, name="stand_in")(x, extent)
        return x


class VisibleBranch(nn.Module):
    """The visible branch (Fig. 3): conv 1->C, two residual groups, CEA."""

    config: StudentConfig
    dtype: jnp.dtype = jnp.float32
    attention: str = "auto"
    precision: str = FULL
    in_strips: bool = False

    @nn.compact
    def __call__(
        self, vis: jax.Array, extent: Extent | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Maps [N, H, W, 1] to [N, H, W, C]; also returns CEA's intermediates."""
        cfg = self.config
        arithmetic = {"dtype": self.dtype, "precision": self.precision}
        out = {}
        x = Conv3x3(cfg.width, **arithmetic, name="conv")(vis, extent)
        sizes = cfg.branch_rcabs, cfg.reduction
        for i in (1, 2):
            group = ResidualGroup(*sizes, **arithmetic, remat=cfg.remat, name=f"rg{i}")
            x = group(x, extent)
        if cfg.cea:
            cea = CEA(
                cfg.corner_gamma,
                cfg.position_softmax,
                cfg.channel_softmax,
                cfg.position_pool,
                cfg.position_keys,
                self.attention,
                cfg.attention_start,
                **arithmetic,
                in_strips=self.in_strips,
                name="cea",
            )
            x, out = cea(x, extent)
        return x, out


class FusionPart(nn.Module):
    """The part that phase 1 trains: both branches, the fusion layer and the decoder.

    Of large images one branch waits for the other if `in_strips` is set, so that the
    features inside them are not held at the same time.
    """

    config: StudentConfig
    dtype: jnp.dtype = jnp.float32
    attention: str = "auto"
    precision: str = FULL
    in_strips: bool = False

    @nn.compact
    def __call__(
        self, ir: jax.Array, vis: jax.Array, extent: Extent | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Maps two [N, H, W, 1] images to F_f^s, [N, H, W, 16], and intermediates."""
        arithmetic = {"dtype": self.dtype, "precision": self.precision}
        savings = {"in_strips": self.in_strips}
        visible = partial(VisibleBranch, attention=self.attention, **savings)
        f_vis, out = visible(self.config, **arithmetic, name="vis")(vis, extent)
        if self.in_strips and strips.is_large(f_vis):
            ir = after(ir, f_vis[0, 0, 0, 0])
        infrared = partial(InfraredBranch, **savings)
        f_ir = infrared(self.config, **arithmetic, name="ir")(ir, extent)
        x = fused = fuse_features(f_ir, f_vis, extent=extent)
        for i, features in enumerate((*self.config.decoder, FUSED_CHANNELS)):
            conv = Conv3x3(features, **arithmetic, name=f"decoder{i + 1}")
            linear = conv(x, extent)
            x = nn.relu(linear)
        out |= {"branch_ir": f_ir, "branch_vis": f_vis, "fused": fused}
        out |= {"decoded_linear": linear, "decoded": x}
        return x, out


class Student(nn.Module):
    """Fuses a low-resolution pair to one image at `scale` times the resolution.

    Its parameters are the two subtrees `fusion` and `sr`.

    Attributes:
      config: sizes and readings of the paper.
      scale: 2, 3 or 4; with a continuous upsampler any factor from 1.5 to 4, which
        does not change the parameters.
      dtype: dtype of the arithmetic; parameters, softmax, the last convolution and the
        image are float32.
      attention: implementation of the position attention, which changes the result only
        by rounding; see `ops.position_attention`.
      precision: precision of float32 products, in training those of the backward pass
        too; see `runtime.precision`.
      portable: whether to trace the form for export, see `ops.portable`, in which
        `attention` has no effect.
      in_strips: whether to save memory with a large image: to enlarge it in strips of
        rows, which changes the result only by rounding and keeps `upsampled` and `tail`
        from the intermediates, to compute the widest convolution of each DFAB alike,
        and one branch after the other; not for training, nor for rows that are split
        over devices.
    """

    config: StudentConfig
    scale: float
    dtype: jnp.dtype = jnp.float32
    attention: str = "auto"
    precision: str = FULL
    portable: bool = False
    in_strips: bool = False

    def setup(self):
        """Declares the two parts."""
        arithmetic = {"dtype": self.dtype, "precision": self.precision}
        self.fusion = FusionPart(
            self.config,
            attention=self.attention,
            in_strips=self.in_strips,
            **arithmetic,
        )
        self.sr = SuperResolutionPart(
            self.config, self.scale, in_strips=self.in_strips, **arithmetic
        )

    def __call__(
        self,
        ir: jax.Array,
        vis: jax.Array,
        extent: Extent | None = None,
        window: Window | None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Fuses float [N, H, W, 1] images in [0, 1].

        Args:
          ir: infrared images.
          vis: visible images.
          extent: the sizes of images that do not fill their arrays; see `ops.extent`.
          window: with a continuous upsampler: the part of the enlarged image that is
            made, at its own factor, as training does; None for the whole at `scale`.

        Returns:
          image: float32 [N, scale * H, scale * W, 1], with sides as in
            `places.enlarged`, or the window; nominally in [0, 1], not clipped.
          out: named intermediates: `corner`, `position`, `channel`, `corner_mask`
            (when CEA is on), `branch_ir`, `branch_vis`, `fused`, `decoded` (F_f^s) and
            `decoded_linear` (the same before its ReLU), `upsampled`, `tail`.
        """
        ir, vis = clear(ir, extent), clear(vis, extent)
        with portable.form(self.portable):
            decoded, out = self.fusion(ir, vis, extent)
            image, sr_out = self.sr(decoded, extent, window)
        image = image.astype(jnp.float32)
        cfg = self.config
        if cfg.global_skip:
            if self.in_strips and strips.is_large(out["fused"]):
                # Or what is added below is computed at the start, and held until then.
                ir, vis = (after(x, image[0, 0, 0, 0]) for x in (ir, vis))
            if cfg.skip_context:
                fused = vivid_images(ir, vis, cfg.skip_context, extent)
                fused = clear(jnp.clip(fused, 0.0, 1.0), extent)
            else:
                rule = cfg.skip_alpha, cfg.skip_damping
                fused = fuse_images(ir, vis, *rule, extent)
            if window is not None:
                image = image + resize_cubic(fused, window)
            elif self.portable:
                image = image + portable.resize_bicubic(fused, self.scale)
            else:
                image = image + enlarge_bicubic(fused, self.scale, extent)
        return image, out | sr_out

    def fuse_only(
        self, ir: jax.Array, vis: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Runs only the fusion part (phase 1).

        Returns:
          decoded: F_f^s, [N, H, W, 16].
          out: named intermediates, as of `__call__` up to `decoded`.
        """
        return self.fusion(ir, vis)


class FeatureAdapter(nn.Module):
    """Maps the upsampler's output to the teacher's 64 channels by a 1x1 conv (Eq. 23).

    It exists only in training, and only if a preset's width is not 64.
    """

    precision: str = FULL

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [N, H, W, C] to [N, H, W, 64]."""
        conv = Conv1x1(TEACHER_CHANNELS, precision=self.precision, name="conv")
        return conv(x)
