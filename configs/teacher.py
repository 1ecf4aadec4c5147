"""The teacher (Sec. III-A), which is trained on single images and used on pairs.

    python -m hkdnet_jax.main --config=configs/teacher.py --workdir=runs/teacher \
        --config.data.roots=DATA/roadscene --config.loss.vgg_path=vgg16.npz

Variants: none (the paper's run), `:lite` (minutes on a CPU), `:revive` (goes on from a
teacher of `:lite`, with --config.init_from, and makes all of its units fire), `:tiny`
(tests).
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str | None = None) -> ConfigDict:
    """The paper's teacher run, or the variant `lite`, `revive` or `tiny`.

    Raises:
      ValueError: the variant is unknown.
    """
    config = base.get_config()
    config.kind = "teacher"
    config.train.epochs = 100
    config.train.phase1_epochs = 0
    config.teacher.alpha = 0.5
    config.teacher.damping = 0.0
    if variant == "tiny":
        base.shrink_to_tiny(config)
        config.train.phase1_epochs = 0
    elif variant in ("lite", "revive"):
        config.data.crop = 64
        config.data.samples_per_epoch = 1600
        config.train.batch_size = 16
        config.train.epochs = 8  # of 100 steps each
        config.teacher.alpha = 0.3
        config.teacher.damping = 1.0
        config.optim.lr = 1e-3
        config.optim.schedule = "cosine"
        config.optim.warmup_steps = 50
        config.optim.ema = 0.99
        config.optim.clip_norm = 100.0  # mu = 1000 makes the gradients large
        if variant == "revive":
            config.init_revive = True
            config.loss.idle = 10.0
            config.train.epochs = 4
            config.optim.lr = 2e-4
    elif variant:
        raise ValueError(f"variant {variant!r} is not one of: lite, revive, tiny")
    return config
