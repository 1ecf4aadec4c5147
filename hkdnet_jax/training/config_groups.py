"""The groups of a run's configuration keys; `training.config` puts them together.

The defaults are those of the paper's student at x2 (Sec. III-D, III-E).
"""

import dataclasses

from hkdnet_jax.common.keys import key
from hkdnet_jax.losses.teacher import NORMS
from hkdnet_jax.models.presets import STYLES

FEATURES = ("relu", "linear")
DEGRADATIONS = ("bilinear", "camera")
SCHEDULES = ("constant", "cosine", "step")


@dataclasses.dataclass(frozen=True)
class Teacher:
    """How a teacher fuses, and where a student's run finds its teacher."""

    alpha: float | None = key(
        None,
        "weight of the visible features in Eq. 5; set it for a teacher's run only, "
        "because a student's run reads it from its teacher's file",
        at_least=0.0,
    )
    damping: float | None = key(
        None,
        "constant added to both activities of Eq. 15, as a share of the activity of a "
        "white image; 0 in the paper; set it for a teacher's run only",
        at_least=0.0,
    )
    context: float = key(
        0.0,
        "vivid teacher only: standard deviation in pixels of the low parts of "
        "`models.vivid`; 0 for a balanced teacher",
        at_least=0.0,
        below=100.0,
    )
    style: str = key(
        "balanced",
        "what a teacher's run learns: balanced, as in the paper, to reconstruct single "
        "images (Eq. 17); vivid, to fuse pairs so that the stronger detail of the two "
        "keeps its contrast (`losses.vivid`), from a teacher in init_from",
        choices=STYLES,
    )
    dir: str = key("", "student only: workdir or model directory of its teacher")


@dataclasses.dataclass(frozen=True)
class Data:
    """Where pairs come from, and which crops are cut out of them."""

    roots: str = key(
        "",
        "comma-separated folders, each with ir/ and vis/ or packed (`prepare --pack`); "
        "empty, as tfds is: procedural scenes",
    )
    tfds: str = key(
        "",
        "prepared TFDS data sets instead of roots: NAME[:SPLIT][+NAME[:SPLIT]...]; "
        "SPLIT is train if it is left out",
    )
    tfds_dir: str = key(
        "data/tfds", "folder of the prepared data sets: --data_dir of `prepare`"
    )
    train_split: str = key(
        "",
        "file that names the training pairs, one per line; empty: all pairs that are "
        "not validation pairs",
    )
    val_split: str = key(
        "",
        "file that names the validation pairs, one per line; empty: all pairs that are "
        "not in train_split, or val_fraction of all pairs if that is empty too",
    )
    val_fraction: float = key(
        0.1,
        "share of the pairs held out for validation when no split file is given",
        at_least=0.0,
        below=1.0,
    )
    crop: int = key(
        128,
        "side of the square training crops in high-resolution pixels, divisible by the "
        "scale",
        at_least=1,
    )
    val_crop: int = key(
        144,
        "side of the square validation crops, one from the centre of each pair, in "
        "high-resolution pixels, divisible by the scale",
        at_least=1,
    )
    max_shrink: float = key(
        1.0,
        "training crops are shrunk from windows whose side is up to this many times "
        "the crop's; 1: they are not shrunk",
        at_least=1.0,
    )
    single: float = key(
        0.0,
        "student only: share of the training samples in which both images are the same "
        "one, infrared or visible, so that single images teach too; not in the paper",
        at_least=0.0,
        below=1.0,
    )
    degradation: str = key(
        "bilinear",
        "student only: how its low-resolution input is made: bilinear, the paper's, "
        "reduces the crops; camera also adds blur, noise, compression and shifts "
        "(`ops.camera`), and its labels stay those of the clean pair",
        choices=DEGRADATIONS,
    )
    samples_per_epoch: int = key(
        12000, "crops per epoch, or the number of pairs if that is larger", at_least=1
    )
    max_unreadable: int = key(
        10,
        "number of training pairs that may become unreadable while the run goes on; "
        "each is reported, and the pair after it takes its place",
        at_least=0,
    )
    scenes: int = key(
        256, "number of procedural training scenes when roots is empty", at_least=1
    )
    added_scenes: int = key(
        0,
        "number of procedural scenes that train beside the pairs of roots or tfds",
        at_least=0,
    )
    val_scenes: int = key(
        16, "number of procedural validation scenes when roots is empty", at_least=1
    )
    threads: int = key(
        0,
        "threads that load batches, in each process that does; 0: one for each core, 8 "
        "at most",
        at_least=0,
        below=257,
    )
    processes: int = key(
        0,
        "processes that are started on each host to load training batches; 0: threads "
        "of the run itself load them",
        at_least=0,
        below=257,
    )
    cache_gib: float = key(
        1.0,
        "memory on each host for decoded training pairs, in GiB (2^30 bytes), shared "
        "out to the processes; pairs beyond it are decoded at each visit, and packed "
        "ones need none",
        at_least=0.0,
    )


@dataclasses.dataclass(frozen=True)
class Train:
    """Length of the run and size of its batches."""

    batch_size: int = key(64, "crops per step, over all devices", at_least=1)
    accumulate: int = key(
        1,
        "student only: parts of a batch that take their turns in a step, so that only "
        "one part's features are held; the gradients are summed up",
        at_least=1,
    )
    epochs: int = key(250, "number of epochs in the run", at_least=1)
    phase1_epochs: int = key(
        60,
        "student only: how many of these epochs, at the start of the run, train the "
        "fusion part alone (phase 1)",
        at_least=0,
    )


@dataclasses.dataclass(frozen=True)
class Optim:
    """The optimizer: Adam, its step size, clipping and averaging."""

    lr: float = key(1e-4, "Adam's step size (learning rate)", above=0.0)
    phase1_lr: float = key(
        0.0, "student only: the step size in phase 1; 0: that of phase 2", at_least=0.0
    )
    schedule: str = key(
        "constant",
        "how the step size changes within a phase: cosine lets it fall to 0 at the "
        "end, step halves it at each milestone",
        choices=SCHEDULES,
    )
    milestones: tuple[float, ...] = key(
        (0.5, 0.75),
        "points at which schedule=step halves the step size, as shares of a phase "
        "between 0 and 1",
    )
    warmup_steps: int = key(
        0,
        "steps at the start of each phase over which the step size grows linearly from "
        "lr / warmup_steps",
        at_least=0,
    )
    b1: float = key(0.9, "decay of Adam's first moment", at_least=0.0, below=1.0)
    b2: float = key(0.999, "decay of Adam's second moment", at_least=0.0, below=1.0)
    clip_norm: float = key(
        0.0,
        "largest global norm of the gradient, to which larger gradients are scaled "
        "down; 0: no clipping",
        at_least=0.0,
    )
    ema: float = key(
        0.0,
        "decay per step of the averaged weights, lower at the start of the run; 0: no "
        "averaging",
        at_least=0.0,
        below=1.0,
    )


@dataclasses.dataclass(frozen=True)
class Loss:
    """Weights of the loss terms."""

    mu: float = key(
        1000.0, "teacher only: weight of the SSIM term (Eq. 17)", at_least=0.0
    )
    norm: str = key(
        "mse",
        "teacher only: distance in the pixel, gradient and perceptual terms (Eq. 18, "
        "20, 21): mse is the mean square of the difference; l2, the paper's, the norm "
        "of each image's",
        choices=tuple(NORMS),
    )
    percep: float = key(
        1.0,
        "teacher only: weight of the perceptual term; 0: VGG16 is not used",
        at_least=0.0,
    )
    intensity: float = key(
        10.0, "vivid teacher only: weight of the intensity term", at_least=0.0
    )
    gradient: float = key(
        1.0, "vivid teacher only: weight of the gradient term", at_least=0.0
    )
    similarity: float = key(
        0.5,
        "vivid teacher only: weight of the term that asks for SSIM with both sources",
        at_least=0.0,
    )
    idle: float = key(
        0.0,
        "teacher only: weight of a term that keeps the units of each layer firing; 0: "
        "off; not in the paper",
        at_least=0.0,
    )
    vgg_path: str = key(
        "",
        "teacher only: file of VGG16 weights (.npz or .h5); empty: downloaded from the "
        "address that Keras uses",
    )
    vgg_layers: tuple[str, ...] = key(
        ("relu2_2", "relu3_3"), "teacher only: VGG16 layers of the perceptual term"
    )
    phi: float = key(
        1.0,
        "student only: weight of the feature terms (Eq. 23); 0: they are not computed",
        at_least=0.0,
    )
    frequency: float = key(
        0.0,
        "student only: weight of a term that compares the spectra of the images "
        "(`losses.student.spectral_distance`); 0: off; not in the paper",
        at_least=0.0,
    )
    fused_scale: float = key(
        1.0,
        "student only: factor of the teacher's fused feature in Eq. 22; that of a new "
        "student is about a twentieth of the teacher's",
        above=0.0,
    )
    features: str = key(
        "relu",
        "student only: the teacher's features of Eq. 22 and 23, after their ReLU or "
        "before it (linear)",
        choices=FEATURES,
    )
    scale_features: bool = key(
        False,
        "student only: divides each channel's difference in Eq. 22 and 23 by the "
        "deviation of the teacher's channel; not in the paper",
    )


@dataclasses.dataclass(frozen=True)
class Mesh:
    """The devices that share the work."""

    data: int = key(
        0, "number of devices that share each batch; 0: all devices", at_least=0
    )
