"""Prepares a data set: fetches it, checks every pair, stores and exports it.

    python -m data_pipelines.prepare --dataset roadscene --data_dir data/tfds \
        --export data/roadscene

Training reads the records themselves (``config.data.tfds``), or what two flags make of
them (``config.data.roots``): ``--pack`` decodes every pair once, into one file that
training maps into memory, and ``--export`` writes the unchanged files to ``DIR/ir`` and
``DIR/vis``.  If the data set has several splits, both write the names of the pairs of
each to ``DIR/SPLIT.txt``.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from hkdnet_jax.common.errors import exit_code, needs_extra

_EXAMPLES = """examples:
  python -m data_pipelines.prepare --dataset roadscene --data_dir data/tfds \\
      --export data/roadscene
  python -m data_pipelines.prepare --dataset llvip --data_dir data/tfds \\
      --manual_dir downloads/LLVIP --export data/llvip
  python -m data_pipelines.prepare --dataset pairs --data_dir data/tfds \\
      --ir camera/thermal --vis camera/colour --pack data/camera
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0 only if no pair was left out."""
    return exit_code(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> int:
    with needs_extra("Preparing a data set", "data"):
        from absl import logging

        from data_pipelines import preparation
    # tfds warns of intended things, such as a configuration that it does not know.
    logging.set_verbosity(logging.ERROR)
    args = _parser(list(preparation.BUILDERS)).parse_args(argv)
    return preparation.run(args)


def _parser(data_sets: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m data_pipelines.prepare",
        description="Download a data set of infrared/visible pairs, or read it from a "
        "folder; check every pair, store them as array_record and print a summary.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--dataset", required=True, choices=data_sets, help="data set to prepare")
    data_dir = "folder for the records and the downloads"
    add("--data_dir", required=True, type=Path, help=data_dir)
    add(
        "--manual_dir",
        type=Path,
        help="folder of the unpacked files, if you fetched them yourself",
    )
    add(
        "--export",
        type=Path,
        help="new folder for the images as ir/ and vis/, which training reads",
    )
    add(
        "--pack",
        type=Path,
        help="new folder for the decoded pairs (8-bit gray), which training reads "
        "fastest",
    )
    add("--ir", type=Path, help="--dataset pairs: folder of the infrared images")
    add("--vis", type=Path, help="--dataset pairs: folder of the visible images")
    return parser


if __name__ == "__main__":
    sys.exit(main())
