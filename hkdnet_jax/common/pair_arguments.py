"""The flags that name a user's pairs, and the search that they mean."""

import argparse
from pathlib import Path

from hkdnet_jax.common.errors import UserError
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
    """Checks the flags of `add_search_arguments`, and --ir and --vis beside them.

    Raises:
      UserError: a pattern has not exactly one `*`; or --list is given beside flags that
        it replaces, or neither it nor both --ir and --vis.
    """
    ir = read_pattern("--ir-pattern", args.ir_pattern)
    vis = read_pattern("--vis-pattern", args.vis_pattern)
    search = Search(ir, vis, args.recursive)
    if args.list is None and None in (args.ir, args.vis):
        raise UserError("Give both --ir and --vis, or --list FILE.csv.")
    if args.list is not None and (args.ir or args.vis or search != Search()):
        raise UserError(
            f"--list {args.list} names the pairs: drop --ir, --vis, their patterns and "
            "--recursive."
        )
    return search
