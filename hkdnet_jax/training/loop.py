"""The training loop: restore, step, log, validate, save.

The loop talks to the disk through two objects that the caller opens (`main.run`):
`checkpoint.Checkpoints` and `writers.Writer`.
"""

import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.model_files import file_format
from hkdnet_jax.runtime import processes, sharding
from hkdnet_jax.training.networks import describe_network
from hkdnet_jax.training.run import Run
from hkdnet_jax.training.state import TrainState

# Steps that may wait in the device's queue: enough to keep it busy. SIGTERM must wait
# for them all, and on a CPU up to 32 would queue up: a minute of work.
_AHEAD = 4


def train(run: Run, workdir: str | Path, checkpoints: Any, writer: Any) -> bool:
    """Trains from the last checkpoint, or from the start, to the end.

    Keeps the weights with the best validation PSNR as a model directory in `workdir`,
    averaged where `optim.ema` is on.

    Args:
      run: what is trained.
      workdir: folder of the run.
      checkpoints: an open `checkpoint.Checkpoints`.
      writer: an open `writers.Writer`.

    Returns:
      True when the run is complete, False when SIGTERM ended it early (saved).

    Raises:
      UserError: too many steps in a row without a finite loss and gradient.
    """
    config = run.config
    batches = run.batches()
    state, best, start = _restore_or_init(run, batches, checkpoints)
    stop = processes.Stop(run.mesh)
    pending: list[dict[str, jax.Array]] = []
    bar = _progress(run, start)
    try:
        with jax.transfer_guard("disallow"):
            for step in range(start, run.total_steps):
                batch = sharding.put_batch(next(batches), run.mesh)
                state, scalars = run.train_step(run.phase_at(step))(
                    state, run.frozen, batch
                )
                pending.append(scalars)
                if len(pending) > _AHEAD:
                    jax.block_until_ready(pending[-1 - _AHEAD])
                done = step + 1
                asked = stop.asked()  # once: it may turn true at any line
                last = done == run.total_steps or asked
                if done % config.log_every_steps == 0 or last:
                    _log(run, writer, bar, done, pending, state)
                    pending = []
                if _is_validation(run, done):
                    best = _validate_and_keep(run, workdir, writer, done, state, best)
                due = done % config.checkpoint_every_steps == 0
                # A state that has just blown up must not replace a good one.
                if last or (due and not _bad_row(run, done, state)):
                    meta = {
                        "best": best,
                        "frozen": run.frozen_fingerprint,
                        "config": config.to_dict(),
                    }
                    checkpoints.save(done, state, batches.get_state(), meta)
                if asked:
                    return done == run.total_steps
    finally:
        stop.restore()
        bar.close()
        checkpoints.wait()
    return True


def _restore_or_init(
    run: Run, batches: Any, checkpoints: Any
) -> tuple[TrainState, float | None, int]:
    """State, best validation PSNR so far, and the step to go on from."""
    step = checkpoints.latest_step()
    if step is None:
        return run.init_state(), None, 0
    state, data, meta = checkpoints.restore(run.abstract_state())
    if meta["frozen"] != run.frozen_fingerprint:
        raise UserError(
            "The teacher (or VGG16 file) of this run has changed since it began: put "
            "the old one back, or start in a new workdir."
        )
    batches.set_state(data)
    return state, meta["best"], step


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
    run: Run,
    writer: Any,
    bar: tqdm,
    done: int,
    pending: list[dict[str, jax.Array]],
    state: TrainState,
) -> None:
    """Means over the steps since the last log; stops a run that gets nowhere."""
    rows = jax.device_get(pending)
    means = {f"train/{k}": float(np.mean([r[k] for r in rows])) for k in rows[0]}
    means["train/skipped"] = float(rows[-1]["skipped"])
    phase = run.phase_at(done - 1)
    writer.scalars(done, means | {"train/phase": float(phase)})
    bar.update(done * run.config.train.batch_size - bar.n)
    bar.set_postfix(phase=phase, loss=f"{means['train/loss']:.4g}", refresh=False)
    _bad_row(run, done, state)


def _bad_row(run: Run, done: int, state: TrainState) -> int:
    """Number of steps without a finite loss and gradient that lie just before.

    Raises:
      UserError: there were `max_bad_steps` of them in a row, now or since last asked.
    """
    bad_row = int(jax.device_get(state.bad_row))
    if bad_row >= run.config.max_bad_steps:
        raise UserError(
            f"The loss or its gradient was not finite for {bad_row} steps in a row "
            f"before step {done}: lower config.optim.lr or set config.optim.clip_norm; "
            "the last good checkpoint stays in the workdir."
        )
    return bad_row


def _is_validation(run: Run, done: int) -> bool:
    every = run.config.val_every_epochs * run.epoch_steps
    return done % every == 0 or done == run.total_steps


def _is_scored(run: Run, done: int) -> bool:
    """Whether the validation after `done` steps computes the fusion metrics too."""
    every = run.config.val_metrics_every_epochs * run.epoch_steps
    return bool(run.config.val_metrics) and (
        done % every == 0 or done == run.total_steps
    )


def _validate_and_keep(
    run: Run,
    workdir: str | Path,
    writer: Any,
    done: int,
    state: TrainState,
    best: float | None,
) -> float | None:
    """Validates, writes scalars and pictures, keeps the best weights; the new best.

    In phase 1 the student's image comes from an untrained part: nothing is kept yet.
    """
    params = state.best_params()
    scalars, pictures = run.validate(params, with_metrics=_is_scored(run, done))
    writer.scalars(done, scalars)
    writer.images(done, pictures)
    student = run.config.kind == "student"
    if student and run.phase_at(done - 1) == 1 and done < run.total_steps:
        return best
    if best is not None and scalars["val/psnr"] <= best:
        return best
    if jax.process_index() == 0:
        kept = {k: v for k, v in params.items() if k != "adapter"}
        file_format.save_model(
            workdir, describe_network(run.config), jax.device_get(kept)
        )
    return scalars["val/psnr"]
