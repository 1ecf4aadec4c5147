"""A first run at x2 without data: minutes on two CPU cores, on procedural scenes.

    python -m hkdnet_jax.main --config=configs/quickstart.py:teacher --workdir=T
    python -m hkdnet_jax.main --config=configs/quickstart.py --workdir=S \
        --config.teacher.dir=T
"""

from ml_collections import ConfigDict

from configs import base, teacher


def get_config(variant: str | None = None) -> ConfigDict:
    """The student's run, or the teacher's with the variant `teacher`.

    Raises:
      ValueError: the variant is unknown.
    """
    if variant == "teacher":
        config = teacher.get_config("lite")
        config.loss.percep = 0.0  # needs no VGG16 weights
        config.train.epochs = 1
        config.optim.warmup_steps = 10
    elif not variant:
        config = base.student(2, "lite")
        config.data.samples_per_epoch = 1600
        config.train.epochs = 12  # of 50 steps each
        config.val_every_epochs = 6
        config.optim.warmup_steps = 50  # only a fifth of the decoder survives 10
        config.optim.ema = 0.98
    else:
        raise ValueError(f"variant {variant!r} is not one of: teacher")
    config.data.scenes = 48
    config.data.val_scenes = 8
    config.log_every_steps = 10
    config.checkpoint_every_steps = 50
    config.tensorboard = False
    return config
