"""A first run without data: minutes on two CPU cores, on procedural scenes, at x2.

    python -m hkdnet_jax.main --config=configs/quickstart.py:teacher --workdir=T
    python -m hkdnet_jax.main --config=configs/quickstart.py --workdir=S \
        --config.teacher.dir=T
"""

from ml_collections import ConfigDict

from configs import base, teacher


def get_config(variant: str | None = None) -> ConfigDict:
    """The student's run, or with the variant `teacher` the teacher's.

    Raises:
      ValueError: another variant.
    """
    if variant == "teacher":
        config = teacher.get_config("lite")
        config.loss.percep = 0.0  # no weights of VGG16 to fetch
        config.train.epochs = 1
        config.optim.warmup_steps = 10
    elif not variant:
        config = base.student(2, "lite")
        config.data.samples_per_epoch = 1600
        config.train.epochs = 12  # of 50 steps
        config.val_every_epochs = 6
        config.optim.warmup_steps = 50  # 10 leave a fifth of the decoder alive
        config.optim.ema = 0.98
    else:
        raise ValueError(f"variant {variant!r} is not one of: teacher")
    config.data.scenes = 48
    config.data.val_scenes = 8
    config.log_every_steps = 10
    config.checkpoint_every_steps = 50
    config.tensorboard = False
    return config
