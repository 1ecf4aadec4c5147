"""Memory: what this process holds, what is free, what a compiled program takes."""

import re
from pathlib import Path

import jax
import psutil

_UNITS = {"MB": 10**6, "GB": 10**9}
_CGROUP = Path("/sys/fs/cgroup")


def parse_bytes(text: str) -> int:
    """Bytes of `4GB` or `800MB`.

    Raises:
      ValueError: it is no positive number with one of these units.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(MB|GB)", text.strip(), re.IGNORECASE)
    size = round(float(found[1]) * _UNITS[found[2].upper()]) if found else 0
    if size < 1:
        raise ValueError(f"{text!r} is no amount of memory such as 4GB or 800MB")
    return size


def format_bytes(size: int) -> str:
    """`5.5 GB` or `80 MB`."""
    return f"{size / 1e9:.1f} GB" if size >= 10**9 else f"{size / 1e6:.0f} MB"


def restart_peak() -> None:
    """Makes the largest resident memory so far the present one, where Linux lets us."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_rss() -> int | None:
    """Largest resident bytes since `restart_peak`; None where the system is silent."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def rss() -> int:
    """Resident bytes of this process."""
    return psutil.Process().memory_info().rss


def program_bytes(program: jax.stages.Compiled) -> int:
    """Bytes a program takes on each device beyond its arguments, as planned for it."""
    memory = program.memory_analysis()
    return (
        memory.temp_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
    )


# A process needs so much more than the compiler plans (measured: 0.99 to 1.14 times).
_BEYOND_PLAN = 1.15


def needed_bytes(
    program: jax.stages.Compiled,
    device: jax.Device,
    devices: int,
    arguments: bool = True,
) -> int:
    """Bytes that a program takes: on one accelerator, or of a CPU's memory in all.

    Args:
      program: compiled.
      device: one of those that share the work.
      devices: how many these are; CPU devices share one memory.
      arguments: whether those of its arguments count too.
    """
    planned = program_bytes(program)
    if arguments:
        planned += program.memory_analysis().argument_size_in_bytes
    return int(_BEYOND_PLAN * planned * (devices if device.platform == "cpu" else 1))


def is_exhausted(error: Exception) -> bool:
    """Whether an error says that memory ran out: a JaxRuntimeError or a MemoryError."""
    # A CPU that runs out while the program runs says INTERNAL: Out of memory.
    found = re.search("RESOURCE_EXHAUSTED|out of memory", str(error), re.IGNORECASE)
    return isinstance(error, MemoryError) or bool(found)


def free(device: jax.Device) -> int:
    """Bytes that programs may still take: of an accelerator, else of the machine.

    The limit of a container (cgroup v2) counts too.
    """
    stats = device.memory_stats()
    if stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    limits = (psutil.virtual_memory().available, _container_free())
    return min(size for size in limits if size is not None)


def _container_free() -> int | None:
    try:
        limit, used = (
            int((_CGROUP / f"memory.{name}").read_text()) for name in ("max", "current")
        )
        stat = (_CGROUP / "memory.stat").read_text()
    except (OSError, ValueError):  # no such container, or its limit is `max`
        return None
    # Files that were read and may be forgotten again count as used there.
    cached = re.search(r"^inactive_file (\d+)$", stat, re.MULTILINE)
    return max(0, limit - used + (int(cached[1]) if cached else 0))
