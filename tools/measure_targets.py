"""Prints how much of hot targets' contrast fusions keep, on made scenes.

    python tools/measure_targets.py --model runs/vivid --model teacher

`hkdnet_jax.evaluation.targets` says what is measured.  An average (2/3 infrared, 1/3
visible) and a plain maximum stand beside the models, which must be teachers.
"""

import argparse

import numpy as np

from data_pipelines.scenes import render_scene
from hkdnet_jax.evaluation import targets
from hkdnet_jax.pretrained.arguments import load_model
from hkdnet_jax.runtime import compile_cache

SIZE = 192, 256
LEAST = 0.8  # of the clearer source's contrast: what a picture should keep


def _average(ir: np.ndarray, vis: np.ndarray) -> np.ndarray:
    return np.rint(2 / 3 * ir + 1 / 3 * vis).astype(np.uint8)


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--model", action="append", default=[], help="a teacher; may be repeated")
    add("--scenes", type=int, default=90, help="number of scenes (default: 90)")
    add("--seed", type=int, default=77, help="their seed (default: 77)")
    args = parser.parse_args()
    compile_cache.enable()
    fusions = {"average": _average, "maximum": np.maximum}
    fusions |= {name: load_model(name, 1) for name in args.model}
    scenes = [render_scene(args.seed, i, *SIZE) for i in range(args.scenes)]
    print("| fusion | seen in | targets | mean | least tenth | share of 0.8 and more |")
    print("|---|---|---:|---:|---:|---:|")
    for name, fuse in fusions.items():
        for condition, kept in targets.measure(scenes, fuse).items():
            mean, tenth = kept.mean(), np.quantile(kept, 0.1)
            enough = np.mean(kept >= LEAST)
            print(
                f"| {name} | {condition} | {len(kept)} | {mean:.2f} | {tenth:.2f} | "
                f"{enough:.2f} |"
            )


if __name__ == "__main__":
    main()
