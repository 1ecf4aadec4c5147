"""What `python -m hkdnet_jax.benchmark` measures."""
