"""Networks that enlarge one image, run on gray ones."""

from flax import linen as nn

from hkdnet_jax.baselines.types import Enlargement, Image
from hkdnet_jax.baselines.weights import Weights, run

# The mean colour of the pictures (DIV2K) that EDSR and RCAN were trained on.
DIV2K_MEAN = (0.4488, 0.4371, 0.4040)


def load(weights: Weights, name: str, network_class: type[nn.Module]) -> Enlargement:
    """Loads the enlargement by a system that has one network for each scale.

    A colour network gets the gray image in every channel, and its first channel is
    taken.

    Args:
      weights: holds the model directories NAME_x2, NAME_x3 and so on.
      name: the system's name.
      network_class: its network, with the attribute `scale`.
    """
    loaded = {}

    def enlarge(image: Image, scale: int) -> Image:
        if scale not in loaded:
            directory = f"{name}_x{scale}"
            loaded[scale] = weights.load(directory, name, network_class, inputs=1)
        return run(*loaded[scale], image)[..., 0]

    return enlarge
