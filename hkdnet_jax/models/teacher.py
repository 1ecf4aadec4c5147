"""The teacher: a small encoder, a fusion layer and a decoder (Sec. III-A)."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from hkdnet_jax.models import vivid
from hkdnet_jax.models.fusion import fuse_features, l1_norm
from hkdnet_jax.ops import portable
from hkdnet_jax.ops.conv import Conv3x3
from hkdnet_jax.ops.extent import Extent

# He initialisation keeps the signal alive in a plain chain of ReLU layers.  Images and
# features are positive and vary together, so a unit whose kernel sums to less than zero
# would never fire if its bias were 0.  With the mean 0, every unit fires at about half
# of the pixels.
_conv = partial(
    Conv3x3, padding="reflect", kernel_init=nn.initializers.he_normal(), mean=0.0
)
# How far a pixel of a picture looks along each axis, in pixels, if the teacher is not
# vivid: by four convolutions before and after the mean over 3x3 pixels.
REACH = 9
# The mean level of a picture.  If the network had to find it first, that would shift
# the sums of all kernels at once, and units would die of it.
_MEAN_LEVEL = 0.5


class Encoder(nn.Module):
    """The encoder: 3x3 conv 1->16 and a dense block of three 16-filter convs."""

    @nn.compact
    def __call__(
        self, image: jax.Array, extent: Extent | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Maps [N, H, W, 1] to two [N, H, W, 64], the layers before and after ReLU."""
        x = image
        linear, features = [], []
        for i in range(4):
            linear.append(_conv(16, name=f"conv{i + 1}")(x, extent))
            features.append(nn.relu(linear[-1]))
            x = jnp.concatenate(features, axis=-1)
        return jnp.concatenate(linear, axis=-1), x


class Decoder(nn.Module):
    """The decoder: 3x3 convs 64->64->32->16->1, with ReLU after all but the last."""

    @nn.compact
    def __call__(
        self, x: jax.Array, extent: Extent | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Maps [N, H, W, C] to the image [N, H, W, 1] and the layers before it."""
        out = {}
        for i, features in enumerate((64, 32, 16)):
            linear = _conv(features, name=f"conv{i + 1}")(x, extent)
            x = nn.relu(linear)
            out |= {f"decoder{i + 1}_linear": linear, f"decoder{i + 1}": x}
        image = _conv(1, mean=_MEAN_LEVEL, name="conv4")(x, extent)
        return image, out


class Teacher(nn.Module):
    """Fuses a registered pair at its own resolution, always in float32.

    Its images are labels, and those computed in bfloat16 are about 51 dB from these.

    The decoder reads `F_ir + alpha * F_vis + F_f` (Eq. 5).  The fusion layer has no
    parameters, so the teacher is trained to reconstruct one image through the very
    same forward, with `ir = vis = image`.

    Attributes:
      alpha: weight of the visible features in Eq. 5.
      damping: added to both activities of Eq. 15, as a share of the encoder's l1 norm
        on a white image, so that it means the same whatever the encoder's scale.  0 is
        the paper's.  It has no effect where `ir = vis`, and so none in training.
      context: if it is not 0, the pictures are vivid, and this is the standard
        deviation in pixels of the low parts of `models.vivid`.  That gives the weights
        of Eq. 16 in place of Eq. 15, by the contrast of the images' details; of Eq. 5
        only F_f is left, times 2 + alpha, so that the decoder sees the same scale; and
        what the decoder makes gets the contrast and the low part of the rule.  It is
        not in the paper, and the parameters are the same.
      portable: whether to trace the form for export, see `ops.portable`.
    """

    alpha: float = 0.5
    damping: float = 0.0
    context: float = 0.0
    portable: bool = False

    def __call__(
        self, ir: jax.Array, vis: jax.Array, extent: Extent | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Fuses float [N, H, W, 1] images in [0, 1], H and W at least 2.

        Args:
          ir: infrared images.
          vis: visible images.
          extent: the sizes of images that do not fill their arrays; see `ops.extent`.

        Returns:
          image: float32 [N, H, W, 1], nominally in [0, 1], not clipped.
          out: by name, the layers after their ReLU: `encoder_ir`, `encoder_vis`,
            `fused` (64 channels each), `decoder1` (64), `decoder2` (32), `decoder3`
            (16); and before it, with `_linear` appended, all of these but `fused`.
        """
        with portable.form(self.portable):
            return self._fuse(ir, vis, extent)

    @nn.compact
    def _fuse(
        self, ir: jax.Array, vis: jax.Array, extent: Extent | None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        encoder = Encoder(name="encoder")
        linear_ir, f_ir = encoder(ir, extent)
        linear_vis, f_vis = encoder(vis, extent)
        decoder = Decoder(name="decoder")
        if self.context:
            low = vivid.low_parts(ir, vis, self.context, extent)
            share = vivid.shares(ir, vis, low, self.context, extent)
            fused = share[..., :1] * f_ir + share[..., 1:] * f_vis
            image, out = decoder((2.0 + self.alpha) * fused, extent)
            image = vivid.picture(image, low, share)
        else:
            damping = 0.0
            if self.damping:
                # Reflect padding keeps the image white up to its borders.
                _, white = encoder(jnp.ones((1, 2, 2, 1)))
                damping = self.damping * jnp.mean(l1_norm(white))
            fused = fuse_features(f_ir, f_vis, damping, extent)
            image, out = decoder(f_ir + self.alpha * f_vis + fused, extent)
        out |= {"encoder_ir": f_ir, "encoder_vis": f_vis, "fused": fused}
        out |= {"encoder_ir_linear": linear_ir, "encoder_vis_linear": linear_vis}
        return image, out


def for_reduced(teacher: Teacher, scale: int) -> Teacher:
    """The same teacher for pairs that are `scale` times smaller than its own.

    What is near in the scene is then as many times fewer pixels away, so a vivid
    teacher's context shrinks with the pair; any other teacher stays as it is.
    """
    return teacher.clone(context=teacher.context / scale)
