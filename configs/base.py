"""Every key once, with its unit; the other configs start from here and override.

The values are the paper's (Sec. III-D, III-E) where it gives them.
"""

import dataclasses

from ml_collections import ConfigDict

from hkdnet_jax.models.presets import PRESETS


def get_config() -> ConfigDict:
    """The paper's student at x2, on the embedded scenes until `data.roots` is set."""
    config = ConfigDict()
    config.kind = "student"  # what is trained: student | teacher
    config.scale = 2  # super-resolution factor of the student: 2 | 3 | 4
    config.seed = 0  # of initial weights, data order, crops and flips
    config.dtype = "float32"  # of the networks' arithmetic: float32 | bfloat16
    # How the position attention is computed: auto (what the platform does best) |
    # materialized | blocked | cudnn (a GPU, bfloat16) | flash (a TPU).
    config.attention = "auto"
    # Student: model directory to start from, a student's (all, but the upsampler where
    # the scales differ) or a converted release's (its super-resolution part); empty:
    # random weights.
    config.init_from = ""
    config.init_freeze = False  # keep the part `sr` as it is, and train all else

    # The student's sizes and readings: fields of models.student.StudentConfig.
    config.model = ConfigDict(dataclasses.asdict(PRESETS["full"]))

    config.teacher = ConfigDict()
    # How a teacher fuses.  A student's run reads both from its teacher's own directory.
    # Weight of the visible features in Eq. 5.
    config.teacher.alpha = 0.5
    # Added to both activities of Eq. 15, as a share of a white image's; 0: the paper's.
    config.teacher.damping = 0.0
    config.teacher.dir = ""  # student runs: model directory or workdir of a teacher

    config.data = ConfigDict()
    # Folders that hold ir/ and vis/, separated by commas; empty: procedural scenes.
    config.data.roots = ""
    config.data.train_split = ""  # file with a pair name a line; empty: by val_fraction
    config.data.val_split = ""  # the same for validation
    config.data.val_fraction = 0.1  # share of pairs held out when no split is given
    config.data.crop = 128  # pixels, high resolution, square; divisible by the scale
    config.data.val_crop = 144  # the same for validation: one centre crop a pair
    # Crops are windows up to so many times as large, shrunk; 1: as they are.
    config.data.max_shrink = 1.0
    config.data.samples_per_epoch = 12000  # crops; at least one a pair
    config.data.scenes = 256  # number of training scenes when roots is empty
    config.data.val_scenes = 16  # number of validation scenes when roots is empty

    config.train = ConfigDict()
    config.train.batch_size = 64  # crops a step, over all devices
    config.train.epochs = 250  # whole run
    config.train.phase1_epochs = 60  # of these, fusion part alone (student only)

    config.optim = ConfigDict()
    config.optim.lr = 1e-4  # Adam's step size
    config.optim.schedule = "constant"  # constant | cosine (to 0) | step
    config.optim.milestones = (0.5, 0.75)  # shares of the run where `step` halves it
    config.optim.warmup_steps = 0  # linear, from lr / warmup_steps
    config.optim.b1 = 0.9
    config.optim.b2 = 0.999
    config.optim.clip_norm = 0.0  # largest global gradient norm; 0: no clipping
    # Decay a step of averaged weights, shorter at first; 0: no averaging.
    config.optim.ema = 0.0

    config.loss = ConfigDict()
    config.loss.mu = 1000.0  # teacher: weight of the SSIM term (Eq. 17)
    config.loss.percep = 1.0  # teacher: weight of the perceptual term; 0: no VGG16
    config.loss.vgg_path = ""  # VGG16 weights (.npz or .h5); empty: fetched by Keras
    config.loss.vgg_layers = ("relu2_2", "relu3_3")
    config.loss.phi = 1.0  # student: weight of the feature terms (Eq. 23)

    config.log_every_steps = 50
    config.checkpoint_every_steps = 500
    config.val_every_epochs = 1
    config.val_samples = 4  # validation pictures drawn each time
    # Fusion metrics of the validation pictures against their high-resolution sources:
    # paper | all | names separated by commas (hkdnet_jax.metrics); empty: none.
    config.val_metrics = ""
    # A multiple of val_every_epochs; also after the last step.
    config.val_metrics_every_epochs = 10
    config.tensorboard = True  # also write TensorBoard events (needs TensorFlow)
    # Stop after this many steps in a row with a loss or gradient that is not finite.
    config.max_bad_steps = 20

    config.mesh = ConfigDict()
    config.mesh.data = 0  # devices the batch is spread over; 0: all there are
    return config


def use_preset(config: ConfigDict, name: str) -> ConfigDict:
    """Sets `config.model` to a preset: full, lite or tiny."""
    config.model = ConfigDict(dataclasses.asdict(PRESETS[name]))
    return config


def shrink_to_tiny(config: ConfigDict) -> ConfigDict:
    """The `:tiny` variant of any config: some seconds on a CPU, for tests."""
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
    """A student's run; `variant` is none (the paper's), `lite` or `tiny`.

    Raises:
      ValueError: another variant.
    """
    config = get_config()
    config.scale = scale
    config.data.crop = 126 if scale == 3 else 128
    if variant == "lite":
        return _lite_run(config)
    if variant == "tiny":
        return shrink_to_tiny(config)
    if variant:
        raise ValueError(f"variant {variant!r} is not one of: lite, tiny")
    return config


def _lite_run(config: ConfigDict) -> ConfigDict:
    """The run for a CPU; every departure from the paper's run stands here."""
    use_preset(config, "lite")
    # Many small crops teach more than few large ones: see docs/training-log.md.
    config.data.crop = 16 * config.scale  # 16x16 low-resolution pixels
    config.data.max_shrink = 2.0
    config.data.samples_per_epoch = 6400
    config.train.batch_size = 32
    config.train.epochs = 30  # of 200 steps
    # At so large a rate Eq. 22 drives the decoder's last ReLUs to 0 within an epoch, as
    # the teacher's are nearly everywhere, and nothing reaches the part that enlarges.
    config.train.phase1_epochs = 0
    config.val_every_epochs = 3
    # In runs this short the feature terms cost more than they teach: see
    # docs/training-log.md.
    config.loss.phi = 0.0
    config.optim.lr = 2e-3
    config.optim.schedule = "cosine"
    config.optim.warmup_steps = 100
    config.optim.clip_norm = 1.0
    config.optim.ema = 0.999
    return config
