"""Serves a web page: two pictures are dropped on it, the fused one is shown.

    python -m hkdnet_jax.demo
    python -m hkdnet_jax.demo --port 8080 --model runs/x2 --max-upload 20

The page is seen from this machine alone, unless --host says otherwise, and it loads
nothing from elsewhere.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from hkdnet_jax.common.errors import UserError, exit_code, needs_extra
from hkdnet_jax.runtime import compile_cache
from hkdnet_jax.web.limits import MEGABYTE, Limits
from hkdnet_jax.web.models import Models
from hkdnet_jax.web.ports import bound

HOST, PORT = "127.0.0.1", 7860
_DEFAULT = Limits()


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0 after Ctrl-C, which ends the page."""
    compile_cache.enable()
    return exit_code(lambda: _run(_parser().parse_args(argv)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m hkdnet_jax.demo",
        description="Serve a web page that fuses the pictures that are dropped on it.",
        epilog="example: python -m hkdnet_jax.demo --port 8080",
    )
    add = parser.add_argument
    add(
        "--host",
        default=HOST,
        help="address to listen at; 0.0.0.0 lets everyone use the page who can reach "
        f"this machine (default: {HOST})",
    )
    add(
        "--port",
        type=int,
        default=PORT,
        help=f"port to listen at; 0 for any that is free (default: {PORT})",
    )
    add(
        "--model",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="workdir of a training run that can be chosen too; can be repeated",
    )
    limits = (
        ("upload", float, _DEFAULT.upload / MEGABYTE, "MB that a file may have"),
        ("pixels", float, _DEFAULT.pixels / 1e6, "million pixels of an input picture"),
        ("pairs", int, _DEFAULT.pairs, "pairs that an archive may hold"),
        ("queue", int, _DEFAULT.queue, "requests that may wait"),
    )
    for name, kind, default, what in limits:
        text = f"the most {what} (default: {default:g})"
        add(f"--max-{name}", type=kind, default=default, metavar="N", help=text)
    add(
        "--time-limit",
        type=float,
        default=_DEFAULT.seconds,
        metavar="SECONDS",
        help=f"for one pair, without waiting (default: {_DEFAULT.seconds:g})",
    )
    return parser


def _run(args: argparse.Namespace) -> int:
    limits = _limits(args)
    models = Models(args.model)
    with bound(args.host, args.port) as listening:
        with needs_extra("The web page", "web"):
            from hkdnet_jax.web import server
        with server.application(limits, models) as app:
            host = f"[{args.host}]" if ":" in args.host else args.host
            port = listening.getsockname()[1]
            print(f"Open http://{host}:{port}/ in a browser; Ctrl-C ends the page.")
            sys.stdout.flush()
            server.serve(app, listening)
    return 0


def _limits(args: argparse.Namespace) -> Limits:
    """The limits that the flags set.

    Raises:
      UserError: one is not positive, or the port is none.
    """
    if not 0 <= args.port <= 65535:
        raise UserError(f"--port {args.port} must be from 0 to 65535.")
    for name in ("max_upload", "max_pixels", "max_pairs", "max_queue", "time_limit"):
        if not getattr(args, name) > 0:
            flag = name.replace("_", "-")
            raise UserError(f"--{flag} {getattr(args, name):g} must be more than 0.")
    return Limits(
        upload=round(args.max_upload * MEGABYTE),
        pixels=round(args.max_pixels * 1e6),
        seconds=args.time_limit,
        queue=args.max_queue,
        pairs=args.max_pairs,
    )


if __name__ == "__main__":
    sys.exit(main())
