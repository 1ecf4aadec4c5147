"""Imported once by the process that all starts of `kill_resume` are forked from."""

import hkdnet_jax.baselines.training
import hkdnet_jax.main
import hkdnet_jax.training.command_line
import hkdnet_jax.training.workdir  # noqa: F401
