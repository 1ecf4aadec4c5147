"""Command lines whose `--config` is a file of configs/."""

import os
import re
import sys

from absl import flags
from ml_collections import ConfigDict, config_flags

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.training.config import listing


def parse_config(
    argv: list[str],
    doc: str,
    required: dict[str, str],
    optional: dict[str, str] | None = None,
) -> tuple[ConfigDict, dict[str, str]]:
    """Parses a command line into its configuration and its other flags.

    Args:
      argv: the arguments, without the program's name.
      doc: text that `--help` prints above the flags.
      required: help texts of the flags that must be given, by name; `--config` is
        always among them.
      optional: help texts of the flags that may be omitted, by name.

    Returns:
      The locked configuration, and the values of the other flags by name; "" for an
      optional flag that was omitted.

    Raises:
      UserError: the command line has an unknown flag or key, a value of the wrong type
        or a positional argument, lacks a required flag, or names a configuration file
        that is missing or broken.
      SystemExit: the command line has `--help`; the help has been printed.
    """
    # configs/ is not installed: its files import each other from the folder where the
    # command runs. `python -m` has that folder on its path, but `hkdnet` does not.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    values, config = _flags(argv, required | (optional or {}))
    try:
        rest = values(["main", *argv])[1:]
        # A file that cannot be loaded is reported only when its content is accessed.
        if values["config"].present:
            config.value.keys()
    except (AttributeError, KeyError) as error:
        # The text quotes the key, sometimes twice, and may go on with a suggestion.
        name = re.search(r"\w+", str(error))[0]
        similar = re.search(r'Did you mean "(\w+)"', str(error))
        hint = f"did you mean {similar[1]!r}? " if similar else ""
        raise UserError(
            f"The configuration has no key {name!r}: {hint}--help lists them all."
        ) from error
    # A config file is a program, which can raise anything.
    except Exception as error:
        # The cause is in the last line, with its kind; a traceback may come before it.
        reason = str(error).strip().splitlines()[-1].strip()
        reason = re.sub(r"^\w+(Error|Exception): ", "", reason)
        if missing := re.fullmatch(r"\[Errno 2\] .*: '(.*)'", reason):
            raise UserError(
                f"--config names {missing[1]}, which is not there: give a file such as "
                "configs/student_x2.py, seen from the folder where the command runs."
            ) from error
        raise UserError(f"The command line cannot be used: {reason}") from error
    if values["help"].value:
        _print_help(doc, values)
        raise SystemExit(0)
    if rest:
        raise UserError(
            f"Unexpected argument {rest[0]!r}: every option is --name=value."
        )
    for name in ("config", *required):
        if not values[name].value:
            raise UserError(f"--{name} is missing: see --help.")
    others = {name: values[name].value for name in required | (optional or {})}
    return config.value, others


def _flags(
    argv: list[str], help_strings: dict[str, str]
) -> tuple[flags.FlagValues, flags.FlagHolder]:
    """The flags, not yet parsed, and the one that holds the configuration."""
    values = flags.FlagValues()
    config = config_flags.DEFINE_config_file(
        "config",
        help_string="configuration file of the run, for example "
        "configs/student_x3.py:lite; --config.key=value overrides a single key",
        flag_values=values,
        # The overrides are read from here, before absl parses the rest.
        sys_argv=["main", *argv],
    )
    for name, help_string in help_strings.items():
        flags.DEFINE_string(name, "", help_string, flag_values=values)
    flags.DEFINE_bool("help", False, "show this help", flag_values=values)
    return values, config


def _print_help(doc: str, values: flags.FlagValues) -> None:
    flags_help = values.main_module_help() or values.get_help()
    print(f"{doc}\nFlags:\n{flags_help}\n\nKeys of --config, with the paper's values:")
    print(listing())
