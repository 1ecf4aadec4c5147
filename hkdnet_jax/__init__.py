"""HKDnet in JAX: joint infrared-visible image fusion and super-resolution."""


def load(scale: int = 2):
    """The model that comes with the package for `scale`, a `trained.Model`.

    Args:
      scale: output pixels per input pixel along each side: 2, 3 or 4, or 1 for the
        teacher, which fuses pairs that are high-resolution already.

    Raises:
      UserError: another scale.
    """
    # Here, so that the package itself imports nothing.
    from hkdnet_jax import pretrained

    return pretrained.load(scale)
