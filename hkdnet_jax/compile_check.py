"""Compiles the real train step for a TPU slice, on a machine that has none.

    pip install 'hkdnet-jax[train,tpu]'
    python -m hkdnet_jax.compile_check --config=configs/student_x3.py --topology v5e:2x4

The TPU compiler reports how many bytes of each chip's memory a step of the
configuration takes, so a run that does not fit is found before the slice is rented.
The state and the batch are only shapes: no data, teacher or weights are read.
"""

import json
import sys
from pathlib import Path

import jax

from hkdnet_jax.common import atomic_files
from hkdnet_jax.common.errors import UserError, exit_code, needs_extra


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0 only if every phase fits."""
    argv = sys.argv[1:] if argv is None else argv
    return exit_code(lambda: _run(argv), interrupted="nothing was written")


def _run(argv: list[str]) -> int:
    with needs_extra("Compiling a train step", "train,tpu"):
        from hkdnet_jax.measuring.slices import check, phases_of, report, tpu_devices
        from hkdnet_jax.training.command_line import parse_config
        from hkdnet_jax.training.config_check import check_values
    # With libtpu installed, jax would look for a TPU and wait for it.
    jax.config.update("jax_platforms", "cpu")
    config, others = parse_config(
        argv,
        doc=__doc__,
        required={"topology": "TPU slice, for example v5e:2x4"},
        optional={
            "phase": "phase to compile, 1 or 2 (default: all phases of the run)",
            "out": "FILE.json to write the figures to",
        },
    )
    check_values(config)
    if config.kind == "baseline":
        raise UserError("compile_check knows a teacher's and a student's run alone.")
    if config.attention == "cudnn":
        raise UserError("config.attention=cudnn is a GPU kernel: use auto.")
    out = Path(others["out"]) if others["out"] else None
    if out and (out.suffix != ".json" or not out.parent.is_dir()):
        raise UserError(f"--out {out} must be a FILE.json in a folder that exists.")
    phases = phases_of(config, others["phase"])
    devices = tpu_devices(others["topology"])
    print(
        f"{others['topology']}: {len(devices)} chips ({devices[0].device_kind}), batch "
        f"{config.train.batch_size}, {config.dtype}"
    )
    rows = []
    for phase in phases:
        rows.append(check(config, devices, phase))
        print(report(rows[-1]), flush=True)
    if out:
        figures = {
            "topology": others["topology"],
            "chips": len(devices),
            "device_kind": devices[0].device_kind,
            "batch_size": config.train.batch_size,
            "dtype": config.dtype,
            "phases": rows,
        }
        atomic_files.write_atomically(
            out, (json.dumps(figures, indent=1) + "\n").encode()
        )
    unfit = [str(row["phase"]) for row in rows if not row["fits"]]
    if unfit:
        raise UserError(
            f"Phase {' and '.join(unfit)} does not fit: use a smaller "
            "config.train.batch_size, more chips, or config.dtype=bfloat16."
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
