"""HKDnet in JAX: joint infrared-visible image fusion and super-resolution."""
