"""Prints what students make of cameras that they were not trained on.

    python tools/measure_camera.py --ir DATA/tno/ir --vis DATA/tno/vis --scale 2 \
        --model lite --model runs/camera_x2

Each pair is degraded twice: cleanly, as most students were trained, and by
`hkdnet_jax.evaluation.held_out`.  PSNR is against the teacher's picture of the
high-resolution pair; the gain is over the first model, the least that of any pair.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from hkdnet_jax.common.errors import UserError, exit_code
from hkdnet_jax.common.pair_files import match_folders
from hkdnet_jax.evaluation import held_out
from hkdnet_jax.pretrained.arguments import load_model
from hkdnet_jax.runtime import compile_cache


def main() -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    for side in ("ir", "vis"):
        add(f"--{side}", type=Path, required=True, help="high-resolution pictures")
    add("--scale", type=int, choices=(2, 3, 4), required=True)
    add("--model", action="append", required=True, help="a student; may be repeated")
    add("--teacher", default="teacher", help="whose pictures are the labels")
    args = parser.parse_args()
    compile_cache.enable()
    return exit_code(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    pairs, problems = match_folders(args.ir, args.vis)
    if problems or not pairs:
        raise UserError(f"{args.ir}: {problems[0] if problems else 'no pairs'}.")
    models = {name: load_model(name, args.scale) for name in args.model}
    rows = held_out.measure_pairs(models, load_model(args.teacher, 1), pairs)
    found = list(tqdm(rows, total=len(pairs), unit="pair", file=sys.stderr))
    print("| input | pictures of | PSNR, dB | gain, dB | least gain |")
    print("|---|---|---:|---:|---:|")
    for kind in held_out.INPUTS:
        for name in found[0][kind]:
            values = np.array([pair[kind][name] for pair in found])
            gains = values - [pair[kind][args.model[0]] for pair in found]
            print(
                f"| {kind} | {name} | {values.mean():.2f} | {gains.mean():+.2f} | "
                f"{gains.min():+.2f} |"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
