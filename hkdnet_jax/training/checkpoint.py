"""Checkpoints of a training run; the only file that imports orbax.

One checkpoint is a folder `WORKDIR/checkpoints/STEP` that holds everything a run needs
to continue: `state` (arrays), `data` (position of the data iterator) and `meta` (best
metric, configuration, ...), the last two as JSON. Orbax writes it under a temporary
name and renames it when it is complete, so a killed run leaves the previous one intact.
"""

import json
import logging
import shutil
import sys
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from hkdnet_jax.common import trees
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.paths import as_path, is_local

_KEPT = 2
# A step's folder that lacks one of these was only half copied or half deleted.
_NEEDED_FILES = (
    "state/_METADATA",
    "state/manifest.ocdbt",
    "data/metadata",
    "meta/metadata",
)


class Checkpoints:
    """The checkpoints of one run, of which the latest two are kept.

    In a multi-process run every process creates a `Checkpoints` and calls the same
    methods; `data` and `meta` are those of process 0. Only one run at a time may use a
    folder.

    Args:
      workdir: the run's folder, created if it is missing. Remains of a save that was
        killed are removed. A step that lacks files is renamed to `STEP.incomplete`,
        reported on stderr, and never restored.
    """

    def __init__(self, workdir: Any):
        """Opens `workdir/checkpoints`, which is created if it is missing."""
        _quieten_orbax()
        folder = as_path(workdir)
        # Orbax wants absolute paths, and an address is one.
        folder = folder.absolute() if is_local(folder) else folder
        self._directory = folder / "checkpoints"
        # Orbax lists the steps after a barrier, so every process sees the same steps.
        # On an object store it marks a complete step with a file of its own.
        if jax.process_index() == 0 and is_local(folder):
            _set_incomplete_aside(self._directory)
        self._manager = ocp.CheckpointManager(
            self._directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=ocp.checkpoint_managers.LatestN(_KEPT),
                cleanup_tmp_directories=True,
            ),
            handler_registry=_handlers(),
        )

    def latest_step(self) -> int | None:
        """The step of the newest checkpoint, or None if there is none."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any, data: dict, meta: dict) -> None:
        """Starts a save, which continues in the background.

        After the return, `state` may be donated, and `data` and `meta` may be changed.
        This method waits for an earlier save that is still being written, and raises
        the error of that save, if there was one.

        Args:
          step: number of steps taken, larger than every saved step. Nothing is done at
            the latest saved step, because a step's state is a function of the step.
          state: pytree of non-empty arrays.
          data: JSON-serialisable state of the data iterator.
          meta: JSON-serialisable dict of whatever else the run needs.

        Raises:
          ValueError: the step is smaller than the latest saved one.
        """
        latest = self.latest_step()
        if latest is not None and step <= latest:
            if step == latest:
                return
            raise ValueError(f"step {step} is before the saved step {latest}")
        args = ocp.args.Composite(
            state=ocp.args.PyTreeSave(state),
            # Orbax serialises these later, in the background.
            data=ocp.args.JsonSave(_copy_json(data)),
            meta=ocp.args.JsonSave(_copy_json(meta)),
        )
        # The only copy to the host that the guarded training loop allows.
        with jax.transfer_guard("allow"):
            self._manager.save(step, args=args)

    def restore(self, abstract_state: Any) -> tuple[Any, dict, dict]:
        """Reads the newest checkpoint.

        Args:
          abstract_state: pytree of jax.ShapeDtypeStruct with shardings. The state is
            restored with this structure and these shardings, regardless of the devices
            it was saved from.

        Returns:
          (state, data, meta), as they were saved.

        Raises:
          UserError: there is no checkpoint, it cannot be read, or its names, shapes or
            dtypes differ from `abstract_state` (orbax alone would cast dtypes).
        """
        self.wait()
        step = self.latest_step()
        if step is None:
            raise UserError(
                f"{self._directory} holds no checkpoint: start the run from the "
                "beginning."
            )
        folder = self._directory / str(step)
        try:
            stored = self._manager.item_metadata(step).state.tree
            if "bad_row" in stored:
                raise UserError(
                    f"{folder} was saved by a version before 0.2, which had a "
                    "different optimizer: choose a new --workdir; a student's run can "
                    "start there from the best weights of this one, with "
                    f"--config.init_from={self._directory.parent}."
                )
            differences = trees.list_differences(
                _describe(stored), _describe(abstract_state)
            )
            if differences:
                raise UserError(
                    f"{folder} is a checkpoint of another model or optimizer "
                    f"({differences}): choose another --workdir, or the configuration "
                    "that this run was started with."
                )
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.PyTreeRestore(
                        item=abstract_state,
                        restore_args=ocp.checkpoint_utils.construct_restore_args(
                            abstract_state
                        ),
                    ),
                    data=ocp.args.JsonRestore(),
                    meta=ocp.args.JsonRestore(),
                ),
            )
        except UserError:
            raise
        # A damaged file can raise anything, even a bare Exception.
        except Exception as error:
            reason = str(error).strip().partition("\n")[0][:200]
            raise UserError(
                f"{folder} is damaged ({reason}): move it away, and the run continues "
                "from the checkpoint before it."
            ) from error
        return restored.state, restored.data, restored.meta

    def wait(self) -> None:
        """Blocks until the save that was started, if any, is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, then releases orbax's threads; call it before the program ends."""
        self._manager.close()


def _handlers() -> Any:
    """The handler of each part, which orbax needs to describe steps it did not save."""
    # Every device holds the whole state, and a run restores onto those it has.  By
    # default, orbax would let each device write its share of each array, which is
    # compiled for each shape, and keep a record of the devices: more than half of the
    # time that a save takes.
    arrays = ocp.type_handlers.ArrayHandler(
        use_replica_parallel=False, enable_write_sharding_file=False
    )
    types = ocp.type_handlers.create_type_handler_registry((jax.Array, arrays))
    state = ocp.PyTreeCheckpointHandler(type_handler_registry=types)
    registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
    registry.add("state", ocp.args.PyTreeSave, state)
    registry.add("state", ocp.args.PyTreeRestore, state)
    for name in ("data", "meta"):
        handler = ocp.JsonCheckpointHandler()
        registry.add(name, ocp.args.JsonSave, handler)
        registry.add(name, ocp.args.JsonRestore, handler)
    return registry


def _set_incomplete_aside(directory: Path) -> None:
    """Renames every step's folder in which a needed file is missing or empty."""
    for folder in sorted(directory.glob("*")):
        if not folder.name.isdigit():
            continue
        files = [folder / name for name in _NEEDED_FILES]
        bad = [f for f in files if not f.is_file() or f.stat().st_size == 0]
        if bad:
            aside = folder.with_name(f"{folder.name}.incomplete")
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)
            print(
                f"Warning: the checkpoint {folder} lacks {bad[0].relative_to(folder)}; "
                f"it is renamed to {aside.name} and not used.",
                file=sys.stderr,
            )


def _describe(tree: Any) -> dict[str, str]:
    """Maps the path of every leaf to its shape and dtype.

    Orbax stores named tuples and dataclasses as dicts; the joined paths are the same.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): trees.describe_array(
            leaf
        )
        for path, leaf in leaves
    }


def _copy_json(value: dict) -> dict:
    return json.loads(json.dumps(value))


def _is_wanted(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING or "orbax" not in record.pathname


def _quieten_orbax() -> None:
    """Drops orbax's dozens of INFO lines per save from absl's log, and nothing else."""
    logging.getLogger("absl").addFilter(_is_wanted)
