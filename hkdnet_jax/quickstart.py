"""Fuses procedural scenes with the shipped models and draws a sheet (`make demo`).

    python -m hkdnet_jax.quickstart --out out/demo

It needs no data and trains nothing.
"""

import argparse
import sys
import time
from pathlib import Path

from hkdnet_jax.common.errors import exit_code
from hkdnet_jax.evaluation.sheet import SCALE, draw
from hkdnet_jax.runtime import compile_cache


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m hkdnet_jax.quickstart",
        description="Fuse procedural scenes with the models that come with the "
        "package, and draw a comparison sheet.",
        epilog="example: python -m hkdnet_jax.quickstart --out out/demo",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("out/demo"),
        help="folder to write to (default: out/demo)",
    )
    out = parser.parse_args(argv).out
    compile_cache.enable()
    return exit_code(lambda: _run(out))


def _run(out: Path) -> int:
    start = time.monotonic()
    sheet = draw(out)
    print(f"Comparison sheet: {sheet} ({time.monotonic() - start:.0f} s in all)")
    print(f"Low-resolution inputs: {out}/low; fused, x{SCALE}: {out}/fused")
    return 0


if __name__ == "__main__":
    sys.exit(main())
