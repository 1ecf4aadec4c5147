"""Imported once by the process that all starts of `kill_resume` are forked from."""

import gc

import hkdnet_jax.baselines.training
import hkdnet_jax.main
import hkdnet_jax.training.command_line
import hkdnet_jax.training.workdir  # noqa: F401

# Garbage is searched for seldom, and not in what was imported: a tenth of a start.
gc.collect()
gc.freeze()
gc.set_threshold(50_000, 20, 100)
