"""The common base of the runs: the paper's values, and the changes of the small runs.

hkdnet_jax/training/config.py and config_groups.py define every key, with its unit, its
limits and the paper's value as its default; `python -m hkdnet_jax.main --help` prints
the list.
"""

from ml_collections import ConfigDict

from hkdnet_jax.training.config import default_config, use_preset


def get_config() -> ConfigDict:
    """The paper's student at x2, on procedural scenes until `data.roots` is set."""
    return default_config()


def shrink_to_tiny(config: ConfigDict) -> ConfigDict:
    """Turns any config into its `:tiny` variant for tests: seconds on a CPU."""
    use_preset(config, "tiny")
    config.data.crop = config.data.val_crop = 16 * config.scale
    config.data.samples_per_epoch = 32
    config.data.scenes = 8
    config.data.val_scenes = 3
    config.train.batch_size = 8
    config.train.epochs = 2
    config.train.phase1_epochs = 1
    config.optim.lr = 1e-3
    config.log_every_steps = 2
    config.checkpoint_every_steps = 3
    config.loss.percep = 0.0
    config.tensorboard = False
    return config


def student(scale: int, variant: str | None) -> ConfigDict:
    """A student's run.

    Args:
      scale: super-resolution factor: 2, 3 or 4.
      variant: None (the paper's run), `short`, `base`, `lite` or `tiny`.

    Raises:
      ValueError: the variant is unknown.
    """
    config = get_config()
    config.scale = scale
    config.data.crop = 126 if scale == 3 else 128
    if variant == "short":
        return _short_run(config)
    if variant in ("base", "lite"):
        return _small_run(config, variant)
    if variant == "tiny":
        return shrink_to_tiny(config)
    if variant:
        raise ValueError(f"variant {variant!r} is not one of: short, base, lite, tiny")
    return config


def _short_run(config: ConfigDict) -> ConfigDict:
    """Both phases of the paper with the full network, in thousands of steps."""
    config.data.crop = 24 * config.scale  # 24x24 low-resolution pixels
    config.data.samples_per_epoch = 3200
    config.train.batch_size = 32
    config.train.epochs = 25  # of 100 steps each
    config.train.phase1_epochs = 5
    config.val_every_epochs = 5
    config.checkpoint_every_steps = 100
    config.optim.lr = 4e-4
    config.optim.schedule = "cosine"
    config.optim.warmup_steps = 100
    config.optim.clip_norm = 1.0
    config.optim.ema = 0.995
    return config


def _small_run(config: ConfigDict, preset: str) -> ConfigDict:
    """The run for a CPU; all of its differences from the paper's run are here."""
    use_preset(config, preset)
    # Many small crops teach more than a few large ones: see docs/training-log.md.
    config.data.crop = 16 * config.scale  # 16x16 low-resolution pixels
    config.data.max_shrink = 2.0
    config.data.samples_per_epoch = 6400
    config.train.batch_size = 32
    config.train.epochs = 33  # of 200 steps each
    config.train.phase1_epochs = 3
    # A student that has to grow its features twentyfold in phase 1 learns slowly after,
    # and a stronger feature term kills the fused feature: see docs/ablations.md.
    config.loss.fused_scale = 0.05
    config.loss.phi = 0.02
    config.val_every_epochs = 3
    config.optim.lr = 2e-3
    config.optim.schedule = "cosine"
    config.optim.warmup_steps = 100
    config.optim.clip_norm = 1.0
    config.optim.ema = 0.999
    return config
