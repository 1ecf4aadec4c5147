"""Fusing with a trained model: one pair of arrays, folders of files, tiles."""

from hkdnet_jax.inference.pair import fuse_pair

__all__ = ["fuse_pair"]
