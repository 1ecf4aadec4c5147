"""Checkpoints of a training run; the only file that imports orbax.

One checkpoint is a folder `WORKDIR/checkpoints/STEP` that holds everything a run needs
to continue: `state` (arrays), `data` (position of the data iterator) and `meta` (best
metric, configuration, ..., and the checksum of all three), the last two as JSON. On a
disk, orbax writes it under a temporary name and renames it when it is complete; in an
object store, where nothing can be renamed at once, it writes the file
`commit_success.txt` last. Either way a killed run leaves the previous one intact.
"""

import contextlib
import errno
import importlib
import logging
import os
import re
import shutil
import sys
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from hkdnet_jax.common import trees
from hkdnet_jax.common.errors import UserError, needs_extra
from hkdnet_jax.common.paths import as_path, is_local
from hkdnet_jax.training import seal

_KEPT = 2
# A step's folder that lacks one of these was only half copied or half deleted.
_NEEDED_FILES = (
    "state/_METADATA",
    "state/manifest.ocdbt",
    "data/metadata",
    "meta/metadata",
)
# TensorStore, which reads and writes the arrays, raises ValueErrors that begin with a
# status.  These are the storage's, and others the content's.
_STORAGE_STATUS = (
    "(PERMISSION_DENIED|UNAUTHENTICATED|UNAVAILABLE|DEADLINE_EXCEEDED|"
    "RESOURCE_EXHAUSTED|CANCELLED): "
)
# Errors of the operating system that a file which is lost causes.
_MISSING = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)


class Checkpoints:
    """The checkpoints of one run, of which the latest two are kept.

    In a multi-process run every process creates a `Checkpoints` and calls the same
    methods; `data` and `meta` are those of process 0. Only one run at a time may use a
    folder.

    Args:
      workdir: the run's folder, created if it is missing. Remains of a save or of a
        deletion that was killed are removed. Another step that lacks files is renamed
        to `STEP.incomplete`, reported on stderr, and never restored.

    Raises:
      UserError: the folder cannot be created or written to, or is in an object store
        other than Google's, or the packages for that are missing.
    """

    def __init__(self, workdir: Any):
        """Opens `workdir/checkpoints`, which is created if it is missing."""
        _quieten_orbax()
        check_storage(workdir)
        folder = as_path(workdir)
        # Orbax wants absolute paths, and an address is one.
        folder = folder.absolute() if is_local(folder) else folder
        self._directory = folder / "checkpoints"
        # Orbax lists the steps after a barrier, so every process sees the same steps.
        # On an object store it marks a complete step with a file of its own.
        with _storage_errors(f"{self._directory} cannot be used"):
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
          UserError: the disk is full, or the folder cannot be written to.
        """
        latest = self.latest_step()
        if latest is not None and step <= latest:
            if step == latest:
                return
            raise ValueError(f"step {step} is before the saved step {latest}")
        # The only copies to the host that the guarded training loop allows.
        with jax.transfer_guard("allow"), self._writing():
            args = ocp.args.Composite(
                state=ocp.args.PyTreeSave(state),
                # Orbax serialises these later, in the background.
                data=ocp.args.JsonSave(seal.copy_json(data)),
                meta=ocp.args.JsonSave(seal.sealed(state, data, meta)),
            )
            self._manager.save(step, args=args)

    def restore(self, abstract_state: Any) -> tuple[Any, dict, dict]:
        """Reads the newest checkpoint that is whole.

        A checkpoint whose content does not match its checksum, or that cannot be read,
        is renamed to `STEP.damaged` and reported on stderr; `latest_step` is then that
        of the one before it.

        Args:
          abstract_state: pytree of jax.ShapeDtypeStruct with shardings. The state is
            restored with this structure and these shardings, regardless of the devices
            it was saved from.

        Returns:
          (state, data, meta), as they were saved.

        Raises:
          UserError: there is no checkpoint that is whole, the newest was saved by a
            newer version of this program, or its names, shapes or dtypes differ from
            `abstract_state` (orbax alone would cast dtypes).
        """
        self.wait()
        damaged = []
        while (step := self.latest_step()) is not None:
            restored, problem = None, ""
            try:
                with _storage_errors(f"{self._directory / str(step)} cannot be read"):
                    restored = self._restore(step, abstract_state)
            except UserError:
                raise
            # A damaged file can raise anything, even a bare Exception.
            except Exception as error:
                if not _is_damage(error):
                    raise
                problem = _first_line(error)
            if _in_every_process(restored is not None):
                return restored
            damaged.append(str(step))
            self._set_damaged_aside(step, problem or "another process cannot read it")
        if damaged:
            raise UserError(
                f"No checkpoint in {self._directory} is whole (damaged: "
                f"{', '.join(damaged)}): copy a whole one back to it, or start the run "
                "from the beginning in another --workdir."
            )
        raise UserError(
            f"{self._directory} holds no checkpoint: start the run from the beginning."
        )

    def _restore(self, step: int, abstract_state: Any) -> tuple[Any, dict, dict]:
        """Reads one checkpoint; what it raises besides UserError means damage."""
        folder = self._directory / str(step)
        meta = self._manager.restore(
            step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())
        ).meta
        seal.check_version(meta, folder)
        stored = self._manager.item_metadata(step).state.tree
        if "bad_row" in stored:
            raise UserError(
                f"{folder} was saved by a version before 0.2, which had a "
                "different optimizer: choose a new --workdir; a student's run can "
                "start there from the best weights of this one, with "
                f"--config.init_from={self._directory.parent}."
            )
        differences = trees.list_differences(
            trees.describe_arrays(stored), trees.describe_arrays(abstract_state)
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
            ),
        )
        meta = seal.opened(restored.state, restored.data, meta)
        return restored.state, restored.data, meta

    def _set_damaged_aside(self, step: int, problem: str) -> None:
        """Renames a step's folder, so that the step before it is the latest one."""
        if jax.process_index() == 0:
            _set_aside(self._directory / str(step), "damaged", f"is damaged: {problem}")
        _in_every_process(True)  # only then may the others look
        self._manager.reload()

    def wait(self) -> None:
        """Blocks until the save that was started, if any, is on disk.

        Raises:
          UserError: it failed, because the disk is full or cannot be written to.
        """
        with self._writing():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, then releases orbax's threads; call it before the program ends."""
        with self._writing():
            self._manager.close()

    def _writing(self) -> contextlib.AbstractContextManager[None]:
        return _storage_errors(f"A checkpoint cannot be written to {self._directory}")


def check_storage(workdir: Any) -> None:
    """Raises UserError if a save into this kind of storage could be half done."""
    if "://" not in str(workdir):
        return
    # In any other store, orbax would rename, which copies there object by object.
    if not str(workdir).startswith("gs://"):
        raise UserError(
            f"{workdir} cannot hold checkpoints: choose a --workdir on this machine or "
            "at gs://BUCKET/PATH."
        )
    with needs_extra("A run in a bucket", "gcs"):
        importlib.import_module("google.cloud.storage")  # orbax does at its first save


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


def _set_incomplete_aside(directory: Any) -> None:
    """Renames every step's folder in which a needed file is missing or empty.

    One that is older than all that are kept is what remains of a deletion that was
    killed, and is deleted.
    """
    whole = 0
    steps = (folder for folder in directory.glob("*") if folder.name.isdigit())
    for folder in sorted(steps, key=lambda folder: int(folder.name), reverse=True):
        files = [folder / name for name in _NEEDED_FILES]
        bad = [f for f in files if not f.is_file() or f.stat().st_size == 0]
        if not bad:
            whole += 1
        elif whole >= _KEPT:
            shutil.rmtree(folder)
        else:
            _set_aside(folder, "incomplete", f"lacks {bad[0].relative_to(folder)}")


def _set_aside(folder: Any, suffix: str, problem: str) -> None:
    """Renames a step's folder to a name that orbax ignores, and says so on stderr."""
    aside = folder.with_name(f"{folder.name}.{suffix}")
    if aside.exists():
        shutil.rmtree(aside) if is_local(aside) else aside.rmtree()
    folder.rename(aside)
    print(
        f"Warning: the checkpoint {folder} {problem}; it is renamed to {aside.name} "
        "and not used.",
        file=sys.stderr,
    )


def _in_every_process(good: bool) -> bool:
    """Whether `good` is true in all processes, which must all call it."""
    if jax.process_count() == 1:
        return good
    return bool(multihost_utils.process_allgather(np.asarray(good)).all())


@contextlib.contextmanager
def _storage_errors(what: str) -> Iterator[None]:
    """Turns what a full, unwritable or unreachable storage raises into a UserError.

    Args:
      what: the start of its sentence.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        code = _system_code(error)
        status = re.search(_STORAGE_STATUS, _whole_text(error))
        if code in _MISSING or not (code or status):
            raise
        remedy = "check that the storage is there and that you may use it"
        if code in (errno.ENOSPC, errno.EDQUOT):
            remedy = "free some disk space"
        reason = os.strerror(code) if code else _first_line(error)
        raise UserError(
            f"{what} ({reason}): {remedy}; the same command then continues from the "
            "last whole checkpoint."
        ) from error


def _is_damage(error: Exception) -> bool:
    """Whether the content of a checkpoint, and not a lack of memory, is the cause."""
    return not isinstance(error, MemoryError | jax.errors.JaxRuntimeError)


def _system_code(error: Exception) -> int | None:
    """The number of the operating system's error, if it is the cause."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"os_error_code='(\d+)'", _whole_text(error))
    return int(found[1]) if found else None


def _whole_text(error: BaseException | None) -> str:
    """What an error and those that it came from say."""
    texts = []
    while error is not None:
        texts.append(str(error))
        error = error.__cause__ or error.__context__
    return "\n".join(texts)


def _first_line(error: Exception) -> str:
    # TensorStore's go on with what is of use to its developers.
    reason = re.split(r"\n|\. See full", str(error).strip())[0]
    return reason[:200] or type(error).__name__


def _is_wanted(record: logging.LogRecord) -> bool:
    if "orbax" not in record.pathname:
        return True
    # Orbax logs an error of its threads with a traceback, several times, and raises it.
    return record.levelno >= logging.WARNING and not record.exc_info


def _quieten_orbax() -> None:
    """Drops orbax's INFO lines, dozens per save, and tracebacks from absl's log."""
    logging.getLogger("absl").addFilter(_is_wanted)
