"""The paper's ablations (Tables II to V, Fig. 13) as lists of runs.

A sweep changes some keys of one configuration and trains a run for each variant, seed
and scale.  Every run has a folder of its own and can be interrupted at any time.
"""

import copy
import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from data_pipelines import loader
from hkdnet_jax.common import atomic_files
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.model_files.model import Model
from hkdnet_jax.training import schedules
from hkdnet_jax.training.run import open_sources
from hkdnet_jax.training.workdir import run

Changes = Mapping[str, Any]
_EPOCH = 100  # steps
RESULT = "result.json"


@dataclasses.dataclass(frozen=True)
class Variant:
    """One row of a table.

    Attributes:
      name: the name of the row.
      changes: values of configuration keys.
      phase1: share of a student's steps that belong to phase 1, which is rounded to
        whole epochs; the paper's is 0.24.
    """

    name: str
    changes: Changes = dataclasses.field(default_factory=dict)
    phase1: float = 0.25


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A table of the paper.

    Attributes:
      title: what the table shows.
      kind: the network that is trained, `student` or `teacher`.
      variants: the rows.
      scales: super-resolution factors of the runs unless the user names others.
      common: values of keys that all variants share.
      last_stage: values of keys in a second run, which starts from the weights of the
        first and takes a quarter of the steps; empty if there is none.
    """

    title: str
    kind: str
    variants: Sequence[Variant]
    scales: Sequence[int] = (2,)
    common: Changes = dataclasses.field(default_factory=dict)
    last_stage: Changes = dataclasses.field(default_factory=dict)


def _values(key: str, values: Sequence[float], name: str) -> list[Variant]:
    return [Variant(f"{name} = {value:g}", {key: float(value)}) for value in values]


# A DFAB is two RCABs and a convolution to 3 C channels, and the group ends in one more.
_DFAG_AS_RCABS = 3
_ALONE = {"model.stand_in_rcabs": _DFAG_AS_RCABS}
_SWEEPS = {
    "table2": Sweep(
        "Table II: the attention modules",
        "student",
        [
            Variant("baseline", {"model.dfag": False, "model.cea": False} | _ALONE),
            Variant("+ DFAG", {"model.dfag": True, "model.cea": False}),
            Variant("+ CEA", {"model.dfag": False, "model.cea": True} | _ALONE),
            Variant("+ DFAG + CEA", {"model.dfag": True, "model.cea": True}),
        ],
        scales=(2, 4),
    ),
    "table3": Sweep(
        "Table III: weight mu of the SSIM term",
        "teacher",
        _values("loss.mu", (1, 10, 100, 1000), "mu"),
    ),
    "table4": Sweep(
        "Table IV: threshold gamma of the corners",
        "student",
        _values("model.corner_gamma", (0.3, 0.5, 0.7, 0.9), "gamma"),
    ),
    "table5": Sweep(
        "Table V: weight phi of the features",
        "student",
        _values("loss.phi", (0.1, 0.5, 1, 5), "phi"),
    ),
    "fig13": Sweep(
        "Fig. 13: weight alpha of the visible features",
        "teacher",
        _values("teacher.alpha", [i / 10 for i in range(1, 10)], "alpha"),
    ),
    "phases": Sweep(
        "Phases and features: what each part of Algorithm 1 is worth",
        "student",
        [
            Variant("label only", {"loss.phi": 0.0}, phase1=0.0),
            Variant("phase 1, then label", {"loss.phi": 0.0}),
            Variant("label + features", {"loss.phi": 0.02}, phase1=0.0),
            Variant("phase 1, then label + features", {"loss.phi": 0.02}),
        ],
    ),
}
NAMES = tuple(_SWEEPS)


@dataclasses.dataclass(frozen=True)
class Entry:
    """One run of a sweep.

    Attributes:
      variant: name of the table's row.
      scale: super-resolution factor; 1 for a teacher.
      seed: seed of the run.
      folder: name of the run's folder.
      stages: configurations of the runs that follow one another, one or two.
    """

    variant: str
    scale: int
    seed: int
    folder: str
    stages: Sequence[ConfigDict]


def kind_of(name: str) -> str:
    """The network that a sweep trains: `student` or `teacher`."""
    return _SWEEPS[name].kind


def title_of(name: str) -> str:
    """What a sweep's table shows."""
    return _SWEEPS[name].title


def scales_of(name: str) -> Sequence[int]:
    """The scales of a sweep unless the user names others."""
    return _SWEEPS[name].scales


def entries(
    name: str, configs: Mapping[int, ConfigDict], steps: int, seeds: int
) -> Iterator[Entry]:
    """Yields the runs of a sweep: seed by seed, so that a table is soon complete.

    Args:
      name: one of NAMES.
      configs: scale -> configuration that the variants change; for a teacher, of the
        scale 1.
      steps: number of steps of each run, rounded up to whole epochs of 100 steps (or
        of as many steps as there are pairs for).
      seeds: number of seeds, counted from 0.
    """
    sweep = _SWEEPS[name]
    for seed in range(seeds):
        for scale, config in configs.items():
            for number, variant in enumerate(sweep.variants):
                last = math.ceil(steps / 4) if sweep.last_stage else 0
                first = _changed(config, sweep.common, variant, seed, steps - last)
                stages = [first]
                if last:
                    also = {**sweep.common, **sweep.last_stage}
                    stages.append(_changed(config, also, variant, seed, last))
                folder = f"x{scale}_{number}_seed{seed}"
                yield Entry(variant.name, scale, seed, folder, stages)


def _changed(
    config: ConfigDict, common: Changes, variant: Variant, seed: int, steps: int
) -> ConfigDict:
    """The configuration of one run."""
    config = copy.deepcopy(config)
    with config.unlocked():
        config.update_from_flattened_dict({**common, **variant.changes})
        config.seed = seed
        batch = config.train.batch_size
        config.data.samples_per_epoch = min(steps, _EPOCH) * batch
        source, _ = open_sources(config)
        samples = loader.epoch_samples(len(source), config.data.samples_per_epoch)
        epoch = schedules.steps_per_epoch(config, samples)
        config.train.epochs = epochs = math.ceil(steps / epoch)
        if config.kind == "student":
            config.train.phase1_epochs = round(variant.phase1 * epochs)
        config.val_every_epochs = config.val_metrics_every_epochs = epochs
        config.val_metrics = "paper"
    config.lock()
    return config


def prepare(folder: Any, identity: Mapping[str, Any]) -> None:
    """Marks a folder as that of one sweep.

    Args:
      folder: a path, created if it is missing.
      identity: what another start in the same folder must have in common.

    Raises:
      UserError: the folder holds another sweep.
    """
    file = folder / "sweep.json"
    if file.exists():
        try:
            found = json.loads(file.read_text())
        except ValueError:
            found = {}
        differing = [key for key, value in identity.items() if found.get(key) != value]
        if differing:
            held = ", ".join(f"{key}={found.get(key)}" for key in differing)
            raise UserError(
                f"{folder} holds another sweep ({held}): choose another --workdir."
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(atomic_files.to_json(dict(identity)))


def train_entry(
    entry: Entry, folder: Any, score: Callable[[Any], Mapping[str, float]]
) -> dict[str, Any] | None:
    """Trains one run, or finds it done.

    Args:
      entry: the run.
      folder: the sweep's folder, a path.
      score: scores the model in a folder on test pairs: value by name.

    Returns:
      `variant`, `scale`, `seed`, `parameters` (their number), `steps` (of all
      stages), `val` (value by name, of the last validation) and `test` (what `score`
      returned); None if SIGTERM ended the run early.

    Raises:
      UserError: a run cannot be trained; see `workdir.run`.
    """
    home = folder / entry.folder
    if (home / RESULT).exists():
        return json.loads((home / RESULT).read_text())
    steps = 0
    for number, config in enumerate(entry.stages):
        stage = home if number == len(entry.stages) - 1 else home / f"stage{number + 1}"
        if number:
            with config.unlocked():
                config.init_from = str(home / f"stage{number}")
        if not run(config, str(stage)):
            return None
        steps += _last_row(stage)["step"]
    result = {
        "variant": entry.variant,
        "scale": entry.scale,
        "seed": entry.seed,
        "parameters": _parameters(home),
        "steps": steps,
        "val": _validation(home),
        "test": dict(score(home)),
    }
    (home / RESULT).write_text(atomic_files.to_json(result))
    return result


def _rows(workdir: Any) -> list[dict[str, Any]]:
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def _last_row(workdir: Any) -> dict[str, Any]:
    return _rows(workdir)[-1]


def _validation(workdir: Any) -> dict[str, float]:
    """The values of a run's last validation, without `val/` in their names."""
    *_, last = (row for row in _rows(workdir) if "val/psnr" in row)
    return {k[len("val/") :]: v for k, v in last.items() if k.startswith("val/")}


def _parameters(workdir: Any) -> int:
    params = Model.load(workdir).params
    return sum(leaf.size for leaf in jax.tree.leaves(params))
