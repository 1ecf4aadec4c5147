"""The flags that name a user's pairs, and the search that they mean."""

import argparse
from pathlib import Path

from hkdnet_jax.common.pair_files import Search
from hkdnet_jax.common.pair_names import read_pattern


def add_search_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say which files of two folders belong together."""
    add = parser.add_argument
    for name, example in (("ir", "*_T.JPG"), ("vis", "*_W.JPG")):
        add(
            f"--{name}-pattern",
            metavar="PATTERN",
            help=f"name of the {name} files, such as '{example}', with one * that "
            "stands for the scene; with both patterns, --ir and --vis may be the same "
            "folder (default: the stem is the scene, or names of known cameras)",
        )
    add(
        "--recursive",
        action="store_true",
        help="search folders in the folders too; the outputs get the same structure",
    )
    add(
        "--list",
        type=Path,
        metavar="FILE.csv",
        help="instead of --ir and --vis: a list of pairs, one per line: "
        "ir,vis or ir,vis,out, relative to the list and to the folder of the outputs",
    )


def read_search(args: argparse.Namespace) -> Search:
    """Checks the flags of `add_search_arguments`, but for --list.

    Raises:
      UserError: a pattern has not exactly one `*`.
    """
    ir, vis = (
        None if text is None else read_pattern(flag, text)
        for flag, text in (
            ("--ir-pattern", args.ir_pattern),
            ("--vis-pattern", args.vis_pattern),
        )
    )
    return Search(ir, vis, args.recursive)
