"""The training loop: restore, step, log, validate, save.

The loop talks to the disk through two objects that the caller opens (`workdir.run`):
`checkpoint.Checkpoints` and `writers.Writer`. The second needs the step at which the
run begins, which only `begin` knows: the newest checkpoint may turn out to be damaged.
"""

import math
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.model_files import file_format
from hkdnet_jax.runtime import processes, sharding
from hkdnet_jax.training.run import Run
from hkdnet_jax.training.state import TrainState

# Steps that may wait in the device's queue behind the running one. After SIGTERM the
# loop must wait for them, and a step of a large network takes seconds on a CPU.
_AHEAD = 1


class Beginning(NamedTuple):
    """Where a run starts or goes on.

    Attributes:
      step: number of steps taken, 0 at the start.
      state: the state after them; `train` donates it.
      data: position in the data, None at the start.
      best: the run's criterion of the weights that are kept; None if none are.
      validation_due: whether the validation after `step` has not taken place yet.
    """

    step: int
    state: TrainState
    data: dict | None = None
    best: float | None = None
    validation_due: bool = False


def begin(run: Run, checkpoints: Any) -> Beginning:
    """Restores the newest whole checkpoint, or makes the state of a new run.

    Args:
      run: the run to train.
      checkpoints: an open `checkpoint.Checkpoints`.

    Raises:
      UserError: the checkpoint cannot be restored or has other frozen weights, or
        `config.init_from` does not fit the run.
    """
    if checkpoints.latest_step() is None:
        return Beginning(0, run.init_state())
    state, data, meta = checkpoints.restore(run.abstract_state())
    if meta["frozen"] != run.frozen_fingerprint:
        raise UserError(
            "The teacher (or VGG16 file) of this run has changed since the run began: "
            "restore the old one, or start in a new workdir."
        )
    step = checkpoints.latest_step()
    return Beginning(step, state, data, meta["best"], meta["validation_due"])


def train(
    run: Run, workdir: Any, checkpoints: Any, writer: Any, beginning: Beginning
) -> bool:
    """Trains to the end of the run.

    The weights with the best validation (the run's criterion) are kept as a model
    directory in `workdir`; they are the averaged weights if `optim.ema` is on.

    After SIGTERM the state is saved at once; a validation that was due or under way
    takes place at the next start.

    Args:
      run: the run to train.
      workdir: folder of the run, a path.
      checkpoints: an open `checkpoint.Checkpoints`.
      writer: an open `writers.Writer` that starts at `beginning.step`.
      beginning: what `begin` returned.

    Returns:
      True if the run is complete, False if SIGTERM ended it early and it was saved.

    Raises:
      UserError: a program does not fit into memory, a checkpoint cannot be written, or
        too many steps in a row had no finite loss and gradient.
    """
    config = run.config
    batches = run.batches()
    if beginning.data is not None:
        batches.set_state(beginning.data)
    start, state = beginning.step, beginning.state
    validation_due = beginning.validation_due
    run.compile(start)
    stop = processes.Stop(config.lost_after)
    keeper = _Keeper(run, workdir, writer, stop.asked, beginning.best)
    pending: list[dict[str, jax.Array]] = []
    bar = _progress(run, start)
    try:
        with jax.transfer_guard("disallow"):
            if validation_due and not keeper.validate(start, state):
                return False
            for step in range(start, run.total_steps):
                batch = sharding.put_batch(next(batches), run.mesh)
                state, scalars = run.train_step(run.phase_at(step))(
                    state, run.frozen, batch
                )
                pending.append(scalars)
                if len(pending) > _AHEAD:
                    jax.block_until_ready(pending[-1 - _AHEAD])
                done = step + 1
                stopping = stop.asked()  # once per step: it may become true at any time
                end = done == run.total_steps
                log_due = done % config.log_every_steps == 0 or end or stopping
                save_due = done % config.checkpoint_every_steps == 0
                bad_row = _bad_row(run, done, pending) if log_due or save_due else 0
                if log_due:
                    _log(run, writer, bar, done, pending)
                    pending = []
                validation_due = _is_validation(run, done)
                if validation_due and not stopping:
                    validation_due = not keeper.validate(done, state)
                    stopping = validation_due
                last = stopping or end
                # A state that has just diverged must not replace a good one.
                if last or (save_due and not bad_row):
                    meta = _meta(run, keeper.best, validation_due)
                    checkpoints.save(done, state, batches.get_state(), meta)
                if stopping:
                    return end and not validation_due
    finally:
        stop.restore()
        bar.close()
        checkpoints.wait()
    return True


def _meta(run: Run, best: float | None, validation_due: bool) -> dict[str, Any]:
    """What a checkpoint holds beside the state and the position in the data."""
    return {
        "best": best,
        "validation_due": validation_due,
        "frozen": run.frozen_fingerprint,
        "config": run.config.to_dict(),
    }


def _progress(run: Run, start: int) -> tqdm:
    batch = run.config.train.batch_size
    return tqdm(
        total=run.total_steps * batch,
        initial=start * batch,
        unit="img",
        desc=run.config.kind,
        disable=jax.process_index() != 0,
        file=sys.stderr,
        smoothing=0.1,
        mininterval=1.0,
        maxinterval=60.0,
    )


def _log(
    run: Run, writer: Any, bar: tqdm, done: int, pending: list[dict[str, jax.Array]]
) -> None:
    """Writes the means over the steps since the last log."""
    rows = jax.device_get(pending)
    means = {f"train/{k}": float(np.mean([r[k] for r in rows])) for k in rows[0]}
    del means["train/bad_row"]
    means["train/skipped"] = float(rows[-1]["skipped"])
    phase = run.phase_at(done - 1)
    writer.scalars(done, means | {"train/phase": float(phase)})
    bar.update(done * run.config.train.batch_size - bar.n)
    bar.set_postfix(phase=phase, loss=f"{means['train/loss']:.4g}", refresh=False)


def _bad_row(run: Run, done: int, pending: list[dict[str, jax.Array]]) -> int:
    """Number of steps in a row, up to the last, whose loss or gradient was not finite.

    Raises:
      UserError: there were `max_bad_steps` such steps in a row since the last log.
    """
    rows = jax.device_get([scalars["bad_row"] for scalars in pending])
    longest = int(max(rows))
    if longest >= run.config.max_bad_steps:
        raise UserError(
            f"The loss or its gradient was not finite for {longest} steps in a row "
            f"before step {done}: lower config.optim.lr or set config.optim.clip_norm; "
            "the last good checkpoint is still in the workdir."
        )
    return int(rows[-1])


def _is_validation(run: Run, done: int) -> bool:
    every = run.config.val_every_epochs * run.epoch_steps
    return done % every == 0 or done == run.total_steps


def _is_scored(run: Run, done: int) -> bool:
    """Whether the validation after `done` steps computes the fusion metrics too."""
    every = run.config.val_metrics_every_epochs * run.epoch_steps
    return bool(run.config.val_metrics) and (
        done % every == 0 or done == run.total_steps
    )


class _Keeper:
    """Validates, and keeps the best weights.

    Attributes:
      best: the run's criterion of the weights that are kept (a PSNR in dB, unless the
        run has another); None while no weights are kept.
    """

    def __init__(
        self,
        run: Run,
        workdir: Any,
        writer: Any,
        stop_requested: Callable[[], bool],
        best: float | None,
    ):
        self._run = run
        self._workdir = workdir
        self._writer = writer
        self._stop_requested = stop_requested
        self.best = best

    def validate(self, done: int, state: TrainState) -> bool:
        """Validates after `done` steps; False if a stop was requested meanwhile."""
        params = state.best_params()
        scored = _is_scored(self._run, done)
        result = self._run.validate(params, scored, self._stop_requested)
        if result is None:
            return False
        scalars, pictures = result
        self._writer.scalars(done, scalars)
        self._writer.images(done, pictures)
        value = scalars[f"val/{self._run.criterion}"]
        if self._is_better(done, value):
            self.best = value
            if jax.process_index() == 0:
                kept = {k: v for k, v in params.items() if k != "adapter"}
                description = self._run.describe(self._run.config)
                file_format.save_model(self._workdir, description, jax.device_get(kept))
        return True

    def _is_better(self, done: int, value: float) -> bool:
        run = self._run
        # In phase 1 the student's image comes from a part that is not trained yet.
        student = run.config.kind == "student"
        if student and run.phase_at(done - 1) == 1 and done < run.total_steps:
            return False
        if not math.isfinite(value):
            if jax.process_index() == 0:
                print(
                    f"Warning: the validation after step {done} gave no finite "
                    f"{run.criterion.upper()}; the weights that were best before it "
                    "are kept.",
                    file=sys.stderr,
                )
            return False
        return self.best is None or value > self.best
