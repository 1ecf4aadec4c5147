"""The command `hkdnet`, which is also `python -m hkdnet_jax`.

    hkdnet fuse --ir ir.png --vis vis.png --out fused.png --scale 2

Each subcommand is a module that `python -m` can run as well. Only the module that the
command line names is loaded.
"""

import gc
import importlib
import runpy
import sys
from collections.abc import Sequence
from typing import NoReturn

import hkdnet_jax
from hkdnet_jax.runtime import start

# Subcommand -> (its module, what it does).
COMMANDS = {
    "fuse": ("hkdnet_jax.fuse", "fuse infrared and visible pictures"),
    "evaluate": ("hkdnet_jax.evaluate", "score fused pictures with fusion metrics"),
    "compare": ("hkdnet_jax.compare", "run and score every compared system"),
    "train": ("hkdnet_jax.main", "train a teacher or a student"),
    "sweep": ("hkdnet_jax.sweep", "run one of the paper's ablations"),
    "report": ("hkdnet_jax.report", "draw figures, tables and reports of a run"),
    "convert": ("hkdnet_jax.convert", "convert the authors' PyTorch checkpoint"),
    "export": ("hkdnet_jax.export", "export weights, StableHLO or ONNX"),
    "benchmark": ("hkdnet_jax.benchmark", "measure speed and memory on this machine"),
    "compile-check": (
        "hkdnet_jax.compile_check",
        "compile the train step for a TPU slice without having one",
    ),
    "demo": ("hkdnet_jax.demo", "serve a web page that fuses dropped pictures"),
    "results": ("hkdnet_jax.results", "measure the shipped models on test pairs"),
    "quickstart": (
        "hkdnet_jax.quickstart",
        "fuse procedural scenes and draw a comparison sheet",
    ),
}
# The commands that train or measure training, whose memory is worth a second start.
TUNED = ("train", "sweep", "benchmark")


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs a subcommand exactly as `python -m` runs its module.

    Raises:
      SystemExit: always, with the subcommand's exit code; with 2 if no such subcommand
        exists.
    """
    is_process = argv is None
    argv = sys.argv[1:] if is_process else list(argv)
    name = argv[0] if argv else None
    if name in ("-h", "--help"):
        print(_help())
        sys.exit(0)
    if name == "--version":
        print(f"hkdnet {hkdnet_jax.__version__}")
        sys.exit(0)
    if name not in COMMANDS:
        problem = "no command is given" if name is None else f"{name} is not a command"
        print(
            f"error: {problem}: use one of {', '.join(COMMANDS)}, or see "
            "hkdnet --help.",
            file=sys.stderr,
        )
        sys.exit(2)
    sys.argv = [f"hkdnet {name}", *argv[1:]]
    if is_process and name in TUNED:
        start.tune()
    _import_jax()
    runpy.run_module(COMMANDS[name][0], run_name="__main__", alter_sys=True)
    raise AssertionError(f"{COMMANDS[name][0]} ended without an exit code")


def _import_jax() -> None:
    """Imports what every subcommand needs, without a search for garbage meanwhile.

    There is none, but Python would look through all that is imported several times,
    which takes a tenth of a second, and once more in each later search.
    """
    gc.disable()
    try:
        importlib.import_module("flax.linen")
        gc.freeze()
    finally:
        gc.enable()


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {what}" for name, (_, what) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: hkdnet COMMAND [FLAGS]",
            "",
            hkdnet_jax.__doc__.splitlines()[0],
            "",
            "commands:",
            *lines,
            "",
            "flags:",
            f"  {'-h, --help':{width}}  show this help; after COMMAND, that command's",
            f"  {'--version':{width}}  show the version",
            "",
            "example:",
            "  hkdnet fuse --ir ir.png --vis vis.png --out fused.png --scale 2",
        ]
    )


if __name__ == "__main__":
    main()
