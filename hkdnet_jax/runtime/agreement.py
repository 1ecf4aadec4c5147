"""A proof that all processes of a run see each other and run the same thing."""

import hashlib
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from hkdnet_jax.common.errors import UserError

_HOST_BYTES = 64  # of a host's name; a longer one is cut
_PACKAGES = ("hkdnet_jax", "data_pipelines")
_LISTED = 8  # processes that a message names before it says "and N more"


def digest(text: str) -> str:
    """SHA-256 of a text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def code_version() -> str:
    """SHA-256 of the program's own modules, in hexadecimal.

    A version number would not tell a checkout from one with an edited file.
    """
    root = Path(__file__).resolve().parents[2]
    sha = hashlib.sha256()
    for package in _PACKAGES:
        for file in sorted((root / package).rglob("*.py")):
            sha.update(f"{file.relative_to(root)}\0".encode())
            sha.update(file.read_bytes())
    return sha.hexdigest()


def check(facts: Mapping[str, str]) -> None:
    """Compares what the processes of a run of several do.

    All processes must call it, with the same names. It also shows that every process
    reaches every other one, which a right number of devices does not: a TPU slice has
    that even if jax has not connected its processes. Process 0 says on stderr what was
    found.

    Args:
      facts: name of something that must be the same everywhere -> SHA-256 of it, in
        hexadecimal.

    Raises:
      UserError: a process is missing, or a fact differs; the sentence names the hosts
        and what differs.
    """
    names = sorted(facts)
    mine = {
        "index": np.asarray(jax.process_index(), np.int32),
        "host": _as_bytes(socket.gethostname()),
        "facts": np.stack([_as_digest(facts[name]) for name in names]),
    }
    gathered = multihost_utils.process_allgather(mine)
    indices = [int(index) for index in gathered["index"]]
    missing = set(range(jax.process_count())) - set(indices)
    if missing:
        raise UserError(
            f"Process {jax.process_index()} sees {len(set(indices))} of "
            f"{jax.process_count()} processes, without {sorted(missing)}: start the "
            "same command once for each process."
        )
    order = np.argsort(indices)
    hosts = [bytes(gathered["host"][i]).rstrip(b"\0").decode() for i in order]
    all_facts = [
        {name: row.tobytes().hex() for name, row in zip(names, rows, strict=True)}
        for rows in gathered["facts"][order]
    ]
    problem = difference(hosts, all_facts)
    if problem:
        raise UserError(problem)
    if jax.process_index() == 0:
        print(
            f"{len(hosts)} processes on {_listing(sorted(set(hosts)))} agree on "
            f"{_listing(names)}.",
            file=sys.stderr,
        )


def _as_bytes(host: str) -> np.ndarray:
    """A host's name as uint8 [64], filled with zeros."""
    cut = host.encode()[:_HOST_BYTES].ljust(_HOST_BYTES, b"\0")
    return np.frombuffer(cut, np.uint8)


def _as_digest(hexadecimal: str) -> np.ndarray:
    """A SHA-256 as uint8 [32]."""
    return np.frombuffer(bytes.fromhex(hexadecimal), np.uint8)


def difference(hosts: Sequence[str], facts: Sequence[Mapping[str, str]]) -> str | None:
    """Describes in what processes differ from most of them.

    Args:
      hosts: the host of each process, in their order.
      facts: name -> value, of each process.

    Returns:
      One sentence that names the processes that differ, their hosts, and in what; None
      if all agree. Where no value is more frequent than others, that of the first
      process counts as the right one.
    """
    odd: dict[tuple[int, ...], list[str]] = {}
    for name in facts[0]:
        values = [one[name] for one in facts]
        # `max` takes the first of equals, and so the value of the first process.
        right = max(dict.fromkeys(values), key=values.count)
        which = tuple(i for i, value in enumerate(values) if value != right)
        if which:
            odd.setdefault(which, []).append(name)
    if not odd:
        return None
    parts = [f"{_processes(which, hosts)} in {_listing(n)}" for which, n in odd.items()]
    return (
        f"Of {len(hosts)} processes, some differ from the others: {'; '.join(parts)}: "
        "give all of them the same code, configuration, teacher and data, and start "
        "them again."
    )


def _processes(which: Sequence[int], hosts: Sequence[str]) -> str:
    return _listing([f"process {i} on {hosts[i]}" for i in which])


def _listing(items: Sequence[str]) -> str:
    """`a`, `a and b`, or `a, b and c`; after eight items the number of the rest."""
    shown = list(items[:_LISTED])
    if len(items) > _LISTED:
        shown.append(f"{len(items) - _LISTED} more")
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if shown[1:] else shown)
